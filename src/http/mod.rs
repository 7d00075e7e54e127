//! HTTP
mod body;
pub use self::body::{AtBodyEnd, ClassifyEnd, GatedBody};

//! To come.
pub mod repeat;
pub use repeat::Repeat;

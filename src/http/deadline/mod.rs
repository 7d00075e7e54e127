//! The time that a call has left, on its way from one process to the next.

mod header;
mod outgoing;
mod wire;

pub use self::header::DeadlineHeader;
pub use self::outgoing::{DeadlineOut, DeadlineOutLayer};

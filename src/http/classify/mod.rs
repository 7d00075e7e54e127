//! Classifies responses and errors: the [`Outcome`](crate::Outcome) of a call, and its `error.type`.

pub(super) mod client_fault;
pub(super) mod error_type;
pub(super) mod errors;
pub(super) mod rate_limit;
pub(super) mod retry_after;
#[cfg(feature = "hyper")]
pub(super) mod runtime_shutdown;
pub(super) mod status;
mod status_code;

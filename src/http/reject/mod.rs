//! Rejections as responses, and the headers that report them to the client.

mod key_problem;
pub(super) mod layer;
pub(super) mod problem;
pub(super) mod respond;
pub(super) mod retry_headers;
pub(super) mod trust_not_executed;

//! What is stored of a response, and the responses that are sent.

pub(super) mod body;
pub(super) mod recorded;
pub(super) mod storage;

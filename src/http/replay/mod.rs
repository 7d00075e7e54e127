//! Which requests are safe to retry, and how they are replayed.

pub(super) mod body;
pub(super) mod buffer;
pub(super) mod drain;
pub(super) mod idempotency_keys;
pub(super) mod map_body;
pub(super) mod policy;
pub(super) mod redirects;
pub(super) mod safety;

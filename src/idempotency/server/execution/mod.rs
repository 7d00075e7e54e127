//! How an operation is executed: from the request to the response of its caller.
//!
//! ```text
//! future             the caller's side: reads the body, starts the task, waits
//! progress           the operations in progress, and the limits on them
//! run                the task: claim ─► handler, while its lease is renewed ─► ending
//! claim              claims a key, waits for another request's result
//! lease              renews the lease while the handler runs
//! handler            calls the handler and reads its response
//! ending             how an operation ends: stored, released or neither
//! caller             sends the result of the task to the caller
//! without_http       operations without HTTP: `IdempotencyLayer::run`
//! ```

pub(super) mod caller;
pub(super) mod claim;
pub(super) mod ending;
pub(super) mod future;
pub(super) mod handler;
mod lease;
pub(super) mod progress;
pub(super) mod run;
mod without_http;

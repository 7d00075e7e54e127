//! The server layer. Its page is that of [`IdempotencyLayer`].
//!
//! ```text
//! layer              what a user has, and what tower calls
//! shared             the settings, and what follows from them for a request: guarded? which key, whose, what print
//! future             the caller's side: reads the body, hands the request to a task, waits
//! progress           how many are in progress, and the limits on them
//! run                the task: claim ─► handler, with its lease beside it ─► ending; caller leads back to the caller
//! ending             stored, released or neither, and how the store is told
//! without_http       the same without HTTP: `IdempotencyLayer::run`
//! answer, keep, body what of a response is kept, and how it is written
//! ```

#[cfg(feature = "axum")]
mod axum;
mod body;
mod caller;
mod claim;
mod config;
mod ending;
mod engine;
mod future;
mod handler;
#[cfg(feature = "postgres")]
mod joined;
mod layer;
pub mod lookup;
mod normalize;
mod operation;
mod progress;
mod recorded;
mod run;
mod scope;
mod storage;
mod without_http;

pub use self::body::StoredBody;
pub use self::config::{AfterCrash, IdempotencyConfig};
pub use self::future::IdempotencyFuture;
#[cfg(feature = "postgres")]
pub(in crate::idempotency) use self::joined::finish;
pub use self::layer::{Idempotency, IdempotencyLayer};
pub use self::normalize::Normalize;
pub(crate) use self::operation::remove_ticket;
pub use self::operation::{Operation, OperationRejection};
pub use self::scope::Scope;
pub use self::storage::{HeaderPolicy, StoragePolicy};

//! The server layer, documented at [`IdempotencyLayer`].
//!
//! ```text
//! layer              the public layer and its service
//! engine             the settings, and their application to a request: guarded or not, key, tenant, fingerprint
//! future             the caller's side: reads the body, starts the task, waits
//! progress           the operations in progress, and the limits on them
//! run                the task: claim ─► handler, while its lease is renewed ─► ending
//! caller             sends the result of the task to the caller
//! ending             how an operation ends: stored, released or neither
//! without_http       operations without HTTP: `IdempotencyLayer::run`
//! storage            the policies: which responses and headers are stored
//! recorded           the format of records
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
pub(super) mod joined;
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
pub use self::layer::IdempotencyLayer;
pub use self::normalize::Normalize;
pub(crate) use self::operation::remove_ticket;
pub use self::operation::{Operation, OperationRejection};
pub use self::scope::Scope;
pub use self::storage::{HeaderPolicy, StoragePolicy};

//! The server layer, documented at [`IdempotencyLayer`].
//!
//! ```text
//! layer              the public layer and its service
//! engine             the settings, and their application to a request: guarded or not, key, tenant, fingerprint
//! operation          the operation that a handler is running
//! execution/         claim, lease, handler, ending, and the caller who waits
//! response/          which responses and headers are stored, and the format of records
//! lookup/            finds and repairs records
//! joined             the seam for stores that commit a record together with the effect of the handler
//! ```

#[cfg(feature = "axum")]
mod axum;
mod config;
mod digest;
mod engine;
mod execution;
pub(super) mod joined;
mod layer;
pub mod lookup;
mod normalize;
mod operation;
mod response;
mod scope;

pub use self::config::{AfterCrash, IdempotencyConfig};
pub use self::execution::future::IdempotencyFuture;
pub use self::layer::IdempotencyLayer;
pub use self::normalize::Normalize;
pub(crate) use self::operation::remove_ticket;
pub use self::operation::{Operation, OperationRejection};
pub use self::response::body::StoredBody;
pub use self::response::storage::{HeaderPolicy, StoragePolicy};
pub use self::scope::Scope;

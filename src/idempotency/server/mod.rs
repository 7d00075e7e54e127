//! The server layer. Its page is that of [`IdempotencyLayer`].
//!
//! ```text
//! layer, service     what a user has, and what tower calls
//! shared             the settings, and what follows from them for a request: guarded? which key, whose, what print
//! future             the caller's side: reads the body, hands the request to a task, waits
//! progress           how many are in progress, and the limits on them
//! run                the task: claim ─► handler, with lease beside it ─► close; telling leads back to the caller
//! ending, close      stored, released or neither, and how the store is told
//! without_http       the same without HTTP: `IdempotencyLayer::run`
//! answer, keep, body what of a response is kept, and how it is written
//! ```

mod advice;
mod answer;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod claim;
mod close;
mod config;
mod digest;
mod ending;
mod full_uri;
mod future;
mod handler;
#[cfg(feature = "postgres")]
mod joined;
mod keep;
mod layer;
mod lease;
pub mod lookup;
mod normalize;
mod operation;
mod page;
mod policy;
mod progress;
#[cfg(feature = "axum")]
pub mod routes;
mod run;
mod scope;
mod service;
mod shared;
mod telling;
mod without_http;

#[cfg(feature = "axum")]
pub use self::axum::OperationRejection;
pub use self::body::KeptBody;
pub use self::config::{AfterCrash, IdempotencyConfig};
pub use self::future::IdempotencyFuture;
#[cfg(feature = "postgres")]
pub(in crate::idempotency) use self::joined::finish;
pub use self::keep::{HeaderPolicy, StoragePolicy};
pub use self::layer::IdempotencyLayer;
pub use self::normalize::Normalize;
pub(crate) use self::operation::remove_ticket;
pub use self::operation::{Operation, OperationEnded};
pub use self::policy::Policy;
pub use self::scope::Scope;
pub use self::service::Idempotency;
pub use self::without_http::RunResult;

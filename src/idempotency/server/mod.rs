//! The server layer. Its page is that of [`IdempotencyLayer`].
//!
//! ```text
//! layer, service     what a user has, and what tower calls
//! shared             the settings, and what follows from them for a request: guarded? which key, whose, what print
//! future             the caller's side: reads the body, hands the request to a task, waits
//! run                the task: claim ─► handler, with lease beside it ─► close; telling leads back to the caller
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
mod future;
mod handler;
#[cfg(feature = "postgres")]
mod joined;
mod keep;
mod layer;
mod lease;
mod operation;
mod page;
mod policy;
mod run;
mod scope;
mod service;
mod shared;
mod telling;

pub use self::body::KeptBody;
pub use self::config::{AfterCrash, HeaderPolicy, IdempotencyConfig, StoragePolicy};
pub use self::future::IdempotencyFuture;
#[cfg(feature = "postgres")]
pub(in crate::idempotency) use self::joined::{finish, unknown};
pub use self::layer::IdempotencyLayer;
pub use self::operation::Operation;
pub use self::policy::Policy;
pub use self::scope::Scope;
pub use self::service::Idempotency;

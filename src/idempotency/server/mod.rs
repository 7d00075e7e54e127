//! The server layer.

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
pub(in crate::idempotency) use self::joined::finish;
pub use self::layer::IdempotencyLayer;
pub use self::operation::Operation;
pub use self::policy::Policy;
pub use self::scope::Scope;
pub use self::service::Idempotency;

//! To come.

mod attempt;
mod budgets;
mod config;
mod future;
mod layer;
mod machine;
mod progress;
pub mod repeat;
mod service;

pub use self::budgets::Budgets;
pub use self::config::RetryConfig;
pub use self::future::RetryFuture;
pub use self::layer::RetryLayer;
pub use self::repeat::Repeat;
pub use self::service::Retry;

//! To come.
mod config;
mod machine;
pub mod repeat;
pub use config::RetryConfig;
pub use repeat::Repeat;

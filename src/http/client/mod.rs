//! The service that [`http::client()`](fn@crate::http::client) and [`http::grpc()`](crate::http::grpc()) build.

mod check;
pub(super) mod config;
pub(super) mod layer;
mod reconfigure;
mod service;
pub(super) mod stack;
pub(super) mod stack_error;

pub use self::service::ClientService;

//! The service that [`http::server()`](fn@crate::http::server) builds.

pub(super) mod config;
mod handler_deadline;
pub(super) mod service;
pub(super) mod stack;

pub use self::service::ServerService;

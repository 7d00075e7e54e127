//! The service that [`http::server()`](fn@crate::http::server) builds.

pub(super) mod config;
pub(super) mod service;
pub(super) mod stack;
mod within;

pub use self::service::ServerService;

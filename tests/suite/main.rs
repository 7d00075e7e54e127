//! One binary, a module a pattern: it links once.

#![allow(
    clippy::disallowed_methods,
    reason = "tests ask tokio what time its paused clock shows"
)]

mod allocations;
mod architecture;
mod breaker;
mod budget;
mod cancel;
mod client;
mod common;
mod contract;
mod http;
mod idempotency;
mod keyed;
mod peers;
mod readme;
mod reqwest;
mod retry;
mod settings;
mod telemetry;
mod timeout;
mod tonic;
mod wire;

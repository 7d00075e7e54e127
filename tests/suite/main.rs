//! All integration tests in one binary, which links once.

#![allow(clippy::disallowed_methods, reason = "tests read tokio's paused clock")]

mod allocations;
mod architecture;
mod balance;
mod bodies;
mod breaker;
mod budget;
mod call_options;
mod callers_deadline;
mod cancel;
mod client;
mod common;
mod contract;
mod eviction;
mod forwarding;
mod grpc;
mod hops;
mod http;
mod http_contract;
mod idempotency;
mod keyed;
mod limits;
mod log;
mod marks;
mod matrix;
mod mistakes;
mod observers;
mod once;
mod payment;
mod peers;
mod protected_client;
mod readme;
mod replay;
mod reqwest;
mod restart;
mod retry;
mod served;
mod server;
mod settings;
mod spans;
mod stores;
mod telemetry;
#[path = "../../examples/tonic_client/text.rs"]
mod text;
mod timeout;
mod wire;

//! One binary, a module a pattern: it links once.

mod architecture;
mod budget;
mod http;
mod idempotency;
mod reqwest;
mod retry;
mod timeout;

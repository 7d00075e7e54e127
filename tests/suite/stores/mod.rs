//! The stores of idempotency's records.

#[cfg(feature = "postgres")]
mod postgres;

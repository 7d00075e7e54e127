//! The stores, one module each.

#[cfg(feature = "redis")]
mod redis;

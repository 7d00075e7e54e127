//! Every store keeps the same contract, and the contract finds those who do not.

mod broken;
#[cfg(feature = "file")]
mod file;
mod lookup;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;

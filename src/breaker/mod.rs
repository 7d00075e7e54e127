//! To come.

mod config;
mod hand;
mod machine;
mod probes;
mod ticket;
mod trip;

pub use config::{Abandoned, BreakerConfig, Window};

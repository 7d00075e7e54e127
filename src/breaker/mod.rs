//! To come.

mod config;
mod hand;
mod machine;
#[cfg(test)]
mod model;
mod probes;
mod ticket;
mod transitions;
mod trip;

pub use config::{Abandoned, BreakerConfig, Window};

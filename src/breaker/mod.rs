//! To come.

mod changes;
mod config;
mod hand;
mod lanes;
#[cfg(all(test, buttress_loom))]
mod loom;
mod machine;
#[cfg(test)]
mod model;
mod permit;
mod policy;
mod probes;
mod ticket;
mod transitions;
mod trip;
mod view;

pub use self::changes::Changes;
pub use self::config::{Abandoned, BreakerConfig, Window};
pub use self::permit::BreakerPermit;
pub use self::policy::Breaker;
pub use self::view::Snapshot;
pub use crate::event::{BreakerState, Cause, Move};

/// Puts a [`Breaker`], or a [`Keyed`](crate::gate::Keyed) one, in front of a service.
pub type BreakerLayer<C, P = Breaker> = crate::gate::GateLayer<P, C>;

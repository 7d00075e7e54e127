//! The events of all layers, as one enum.
//!
//! Events are reported after every lock is released, on the task they happened in. The observers of the features
//! `metrics` and `tracing` see every event; your own see them after [`subscribe`].

mod circuits;
mod reason;
mod source;

#[cfg(feature = "metrics")]
pub(crate) use self::circuits::CircuitCounts;
pub use self::reason::{OperationStep, RetryStop};
pub(crate) use self::source::BuiltAt;
pub use self::source::{Event, Observe, Source};
pub(crate) use crate::observe::{Refresh, emit, register_refresh};
pub use crate::observe::{Subscription, subscribe};
pub use crate::operation_id::OperationId;
pub(crate) use crate::transition::{BreakerState, Cause, StateTransition};

//! Resilience middleware.
#![cfg_attr(docsrs, feature(doc_cfg))]

// ── ground: no tower, no async ──
pub mod backoff;
mod call;
mod chance;
pub mod clock;
mod deadline;
mod error;
pub mod event;
mod outcome;
mod sync;
mod window;

// ── patterns ──
pub mod breaker;
pub mod budget;
#[cfg(feature = "http")]
pub mod idempotency;
pub mod retry;
pub mod timeout;

// ── gate: the one shared adapter ──
pub mod gate;

// ── rim ──
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "reqwest")]
pub mod reqwest;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
mod verify;

pub use crate::backoff::{Backoff, Jitter};
pub use crate::call::{Call, CallOptions, CallScope};
pub use crate::chance::Draw;
pub use crate::deadline::{Deadline, DeadlineScope};
pub use crate::error::{BoxError, CallError, ConfigError, Error, Reason, Rejected};
pub use crate::event::{Event, Observe, subscribe};
pub use crate::outcome::{
    Again, Classify, ErrorIsTransient, Executed, Kind, Outcome, classify_fn, judge,
};
pub use crate::retry::repeat::{self, Repeat};
pub use crate::timeout::{DeadlineLayer, TimeoutLayer};
pub use crate::verify::verify;

/// The observers that come with features.
const BUILT_IN_OBSERVERS: &[&dyn Observe] = &[
    #[cfg(feature = "metrics")]
    &telemetry::metrics::Metrics,
    #[cfg(feature = "tracing")]
    &telemetry::tracing::Tracing,
];

//! Every [`Event`](crate::event::Event), as metrics (feature `metrics`) and as `tracing` events (feature `tracing`).
//!
//! Both features are on by default and need nothing more than a recorder or a subscriber in the application. All
//! metrics, labels and log lines are listed in [`docs/telemetry.md`](https://github.com/buttress-rs/buttress/blob/main/docs/telemetry.md).
//!
//! - A gauge shows the last event. The balance of a retry budget also changes with successes, which are not reported one by
//!   one: call [`refresh`] before metrics are collected. It also writes the state of every breaker, for a recorder that was
//!   installed after the breaker was built.
//! - A handle per key has one series for all its keys. [`Keyed::label_servers`](crate::gate::Keyed::label_servers) adds a bounded
//!   label for the key.
//! - [`ObserveLayer`] reports calls: put it outermost for what callers see, innermost for what the service sees.
//! - Each event goes to the recorder that is installed at that time. Layers may be built before it.
//!
//! An observer of your own receives every event too. [`Breaker::observe_with`](crate::breaker::Breaker::observe_with) and its
//! like attach one to a single handle.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::ConfigError> {
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use buttress::breaker::{Breaker, BreakerConfig, BreakerState};
//! use buttress::event::{Event, subscribe};
//!
//! static ISOLATED: AtomicU32 = AtomicU32::new(0);
//! // Until the subscription is dropped.
//! let subscription = subscribe(|event: &Event<'_>| {
//!     if matches!(event, Event::BreakerTransition { transition, .. } if transition.to == BreakerState::Isolated) {
//!         ISOLATED.fetch_add(1, Ordering::Relaxed);
//!     }
//! });
//! let breaker = Breaker::new("payments", BreakerConfig::default())?;
//! breaker.isolate();
//! assert_eq!(ISOLATED.load(Ordering::Relaxed), 1);
//! # drop(subscription);
//! # Ok(()) }
//! ```

mod observe;

#[cfg(feature = "http")]
pub(crate) use self::observe::Observation;
pub use self::observe::{ObserveLayer, Observed};
pub use crate::observe::refresh;

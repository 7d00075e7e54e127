//! Time limits: of one attempt ([`TimeoutLayer`]) and of the whole call ([`DeadlineLayer`]).
//!
//! Every remote call needs both. The attempt limit, innermost, turns a hang into a failure that the breaker counts and the retry may
//! retry. The deadline, outermost, bounds the whole call. Inner layers see the remaining time and start no work after it.
//!
//! At the limit the caller gets the timeout and the inner future is dropped. Spawn work that must finish in any case, and limit only
//! the wait for it.
//!
//! ```text
//! DeadlineLayer 3 s ──► retry ──► breaker ──► TimeoutLayer 1 s ──► service
//!  total                                       min(1 s, time left)
//! ```
//!
//! ```
//! # use std::time::Duration;
//! # use tower::{ServiceBuilder, ServiceExt, Service, service_fn};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::BoxError> {
//! use buttress::Error;
//! use buttress::timeout::{DeadlineLayer, TimeoutLayer};
//!
//! # let search = service_fn(async |words: &'static str| Ok::<_, std::io::Error>(words.len()));
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new("search", Duration::from_secs(3)))
//!     .layer(TimeoutLayer::new("search", Duration::from_secs(1)))
//!     .map_err(Error::Inner)
//!     .service(search);
//! assert_eq!(service.oneshot("a buttress").await?, 10);
//! # Ok(()) }
//! ```
//!
//! # Defaults
//!
//! None: the right limit depends on your callers. The standard stack `http::client` allows 3 s for an attempt and 10 s in total.
//!
//! # Order
//!
//! Place the attempt limit *inside* retry and breaker. Outside the breaker it would drop the call before the breaker has a result.
//! (The breaker detects that: it opens when all calls are abandoned.)
//!
//! # Errors
//!
//! [`Reason::AttemptTimeout`](crate::Reason::AttemptTimeout) with the limit in force, and
//! [`Reason::Deadline`](crate::Reason::Deadline), which is "not executed" if the deadline passed before the call began. A deadline is
//! not the service's fault: a breaker counts the call as abandoned, and it is not retried. This applies to every deadline: the
//! total of the layer, a [`Deadline`](crate::Deadline) in force, and [`CallOptions::timeout`](crate::CallOptions::timeout).
//!
//! # Events
//!
//! [`Event::Rejected`](crate::event::Event::Rejected) for each call that a limit ends.
//!
//! # Cancel safety
//!
//! Dropping either future drops the inner one. The timer is armed at the first pending poll: a call that completes at once never
//! reads the clock.

mod alarm;
mod attempt;
mod limit;
mod total;

pub(crate) use self::alarm::Alarm;
pub use self::attempt::{Timeout, TimeoutLayer};
#[cfg(feature = "http")]
pub(crate) use self::limit::{Limit, ShownLimit, duration};
pub use self::total::{DeadlineLayer, DeadlineService};

/// The futures of the services.
pub mod future {
    pub use super::attempt::TimeoutFuture;
    pub use super::total::DeadlineFuture;
}

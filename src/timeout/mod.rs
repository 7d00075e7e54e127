//! Time limits: of one attempt ([`TimeoutLayer`]) and of the whole call ([`DeadlineLayer`]).
//!
//! Every remote call needs both. The attempt's limit, innermost, turns a hang into a failure that the breaker counts and
//! the retry may repeat. The deadline, outermost, is the promise to the caller: nothing starts after it, and all layers
//! inside know how much of it is left.
//!
//! Not for work that must be done whoever waits for it: at the limit the caller gets the timeout and the inner future is dropped. Spawn such work, and bound
//! the wait for it.
//!
//! ```text
//! DeadlineLayer 3 s ──► retry ──► breaker ──► TimeoutLayer 1 s ──► service
//!  total                                       min(1 s, what is left)
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
//! None: only you know how long an answer is of use. The standard stack `http::client` takes 3 s for an attempt and 10 s in
//! total.
//!
//! # Order
//!
//! The attempt's limit goes *inside* retry and breaker. Put outside the breaker it would drop the call before the breaker
//! has a result. (A breaker notices that too: it opens when calls are only ever abandoned.)
//!
//! # Errors
//!
//! [`Reason::AttemptTimeout`](crate::Reason::AttemptTimeout) with the limit that was in force, and
//! [`Reason::Deadline`](crate::Reason::Deadline): not executed if the time was over before the call began. The deadline is
//! not the service's fault: a breaker counts a call that it ended as abandoned, and it is not retried. That holds for every
//! deadline, whoever set it: the layer's total, a [`Deadline`](crate::Deadline) that is in force, or
//! [`CallOptions::timeout`](crate::CallOptions::timeout).
//!
//! # Events
//!
//! [`Event::Rejected`](crate::event::Event::Rejected) for each call cut short.
//!
//! # Cancel safety
//!
//! Dropping either future drops the inner one. The timer is armed at the first poll that is pending, so a call that is
//! answered at once never reads the clock.

mod alarm;
mod attempt;
mod limit;
mod total;

pub(crate) use self::alarm::Alarm;
pub use self::attempt::{Timeout, TimeoutLayer};
#[cfg(feature = "http")]
pub(crate) use self::limit::{Limit, duration};
pub use self::total::{DeadlineLayer, DeadlineService};

/// The futures of the services.
pub mod future {
    pub use super::attempt::TimeoutFuture;
    pub use super::total::DeadlineFuture;
}

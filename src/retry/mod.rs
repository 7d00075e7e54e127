//! Retry: another attempt for calls that failed in a way that may pass.
//!
//! # When to use it
//!
//! For failures that are over in a moment: a connection that broke, an instance that restarts, a limit that is lifted soon. Not
//! for a service that is down or overloaded, to which retries are more load; that is why the layer has a [budget](crate::budget)
//! from the start, and why it stops at an open circuit breaker. And not twice in one program: the layer nearest the failure
//! repeats, and a retry layer further out then does not.
//!
//! ```text
//!                       ┌───────────────────────────────────────────────────┐
//!    request ─▶ attempt ┴▶ outcome ── success, permanent, neutral ──▶ result│
//!                  ▲          │ transient, overloaded, not executed         │
//!                  │          ▼                                             │
//!                  │   may it be repeated? attempts, deadline, budget left? │── no ─▶ this result, untouched
//!                  │          │ yes                                         │
//!                  └─ ready ◀─ wait ────────────────────────────────────────┘
//! ```
//!
//! # Example
//!
//! ```
//! use buttress::retry::{RetryConfig, RetryLayer, by_clone_if};
//! use buttress::Error;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Which requests may run twice must be said: here, those that read.
//! let reads = by_clone_if(|request: &String| request.starts_with("get "));
//! let retry = RetryLayer::new("catalogue", RetryConfig::new().max_attempts(4), reads)?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(retry)
//!     .map_err(Error::Inner)
//!     .service(service_fn(async |request: String| Ok::<_, std::io::Error>(request.len())));
//! assert_eq!(service.oneshot("get 4711".to_owned()).await?, 8);
//! # Ok(()) }
//! ```
//!
//! What results mean is for a [classifier](crate::Classify) to say ([`RetryLayer::classify`]), what can be sent again for a
//! [`ReplayPolicy`]. Without tower: [`RetryLayer::run`].
//!
//! # What is repeated
//!
//! | outcome | another attempt |
//! |---|---|
//! | transient | after the backoff's wait |
//! | overloaded | after the wait it names, else after a backoff that starts from [`overloaded_base`](RetryConfig::overloaded_base) |
//! | permanent, neutral | none, unless the outcome's [`retry`](crate::Outcome::retry) says `Allowed` |
//! | not executed | the first of a call at once: no wait, no token, not counted; later ones like a transient |
//! | the connection was closing before the request was processed | while the [allowance](crate::Unprocessed) lasts: no token, not counted, ten times a call; three times at once, then after 1, 2, 4 … ms. With none left, like a transient |
//! | the server refused the stream | while the [allowance](crate::Unprocessed) lasts: once a call at once, no token, not counted. Else like a transient |
//! | a refusal by a layer of this crate further in | none, unless [`retry_rejections`](RetryConfig::retry_rejections); never at an open circuit |
//! | cut short by the deadline | none |
//!
//! `repeat: Never` always ends the call. A failure that the service may have acted on is repeated only if the strategy says that
//! this request [may](ReplayPolicy::is_safe); what certainly was not executed may always be sent again. Both only if it still
//! [can](ReplayPolicy::is_replayable): a body that was read in part is gone. A request of which nothing could be kept is sent once.
//!
//! A wait the server asks for is never shortened and adds no attempts. One that is longer than the backoff's by more than
//! [`max_retry_after`](RetryConfig::max_retry_after), or that cannot end before the [deadline](crate::Deadline), is not begun: the caller gets that
//! answer at once.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `max_attempts` | 3 | of failures that pass, nearly all are past by then |
//! | `backoff` | 50 ms × 2, at most 2 s, full jitter | see [`backoff`](crate::backoff) |
//! | `overloaded_base` | 1 s | a limit that is lifted in less is rare |
//! | `max_retry_after` | 5 s | who waits longer for an answer has better things to do; no server can make a caller sleep for a day |
//! | `retry_rejections` | no | the refusal was made to keep calls away |
//! | `retry_spent_below` | no | attempts multiply: three layers of three are 27 |
//! | budget | its own, of the same name | a retry storm is worse than the failure it answers |
//!
//! # Order
//!
//! Inside a deadline, which bounds all attempts together, and inside the layer that mints idempotency keys, so that all attempts
//! carry the same; outside breaker, bulkhead and rate limit, which then judge every attempt; outside the timeout of one attempt. A
//! breaker *outside* a retry sees one failure where there were three. Under tower's `Buffer` it works, and reads the caller's
//! deadline; over a `Buffer`, the service runs in a task that does not see the attempt's [`Call`](crate::Call) while it is called, only
//! while its future is polled.
//!
//! # Errors
//!
//! The layer has none: the caller gets the last result as it was. One thing is put right: when a layer further in refuses a later
//! attempt, and the service may have acted on an earlier one, the rejection says [`Executed::Maybe`](crate::Executed::Maybe).
//!
//! The failed result is kept whole until the inner service is ready and the next attempt has been made, as until then it may
//! still be the answer: if the deadline passes, the service breaks before it is ready, or the request can no longer be sent, the
//! caller gets it. So a failed response that holds a permit of an inner limit keeps it for that long. After that it is
//! dropped, or [discarded](RetryLayer::discard) in a way of its own beside the next attempt: `http::Drain` reads the rest of it.
//!
//! # Events
//!
//! [`Event::Retry`](crate::event::Event::Retry) when an attempt is scheduled; [`Event::RetryStopped`](crate::event::Event::RetryStopped), with the
//! reason, when there is none though the outcome alone would have allowed it. Successes and plain failures are no events.
//!
//! # Cancel safety
//!
//! Dropping the future drops the attempt under way. While it waits, nothing starts any more, and the token goes back to the budget.
//! An attempt that has begun has spent its token.

mod attempt;
mod between;
mod budgets;
mod config;
mod discard;
pub mod future;
mod layer;
mod machine;
mod progress;
mod replay;
mod service;
mod shared;

pub use self::config::RetryConfig;
#[cfg(feature = "http")]
pub(crate) use self::discard::Discard;
pub use self::layer::RetryLayer;
pub use self::replay::{ReplayPolicy, by_clone, by_clone_if};
pub use self::service::Retry;

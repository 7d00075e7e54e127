//! Retries calls after transient failures.
//!
//! # When to use it
//!
//! Retries help against short failures: a broken connection, a restarting instance, a limit that resets soon. They harm a service
//! that is down or overloaded, because they add load. Therefore the layer has a [budget](crate::budget) by default, and it stops at
//! an open circuit breaker. If retry layers are nested, the innermost one retries and the outer ones do not.
//!
//! ```text
//!                       ┌───────────────────────────────────────────────────┐
//!    request ─▶ attempt ┴▶ outcome ── success, permanent, neutral ──▶ result│
//!                  ▲          │ transient, overloaded, not executed         │
//!                  │          ▼                                             │
//!                  │  replay safe? attempts, deadline and budget left?      │── no ─▶ this result, unchanged
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
//! // Declare which requests may run twice: here, the reads.
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
//! A [classifier](crate::Classify) turns results into outcomes ([`RetryLayer::classify`]). A [`ReplayPolicy`] decides which requests
//! can be sent again. [`RetryLayer::run`] retries calls without tower.
//!
//! # Which calls are retried
//!
//! | outcome | another attempt |
//! |---|---|
//! | transient | after the backoff's wait |
//! | overloaded | after the wait it names, else after a backoff that starts from [`overloaded_base`](RetryConfig::overloaded_base) |
//! | permanent, neutral | none, unless [`Outcome::retry`](crate::Outcome::retry) is `Allowed` |
//! | not executed | the first of a call at once: no wait, no token, not counted; later ones like a transient |
//! | the connection was closing before the request was processed | while the [allowance](crate::Unprocessed) lasts: no token, not counted, ten times a call; three times at once, then after 1, 2, 4 … ms. With none left, like a transient |
//! | the server refused the stream | while the [allowance](crate::Unprocessed) lasts: once a call at once, no token, not counted. Else like a transient |
//! | a rejection by an inner layer of this crate | none, unless [`retry_rejections`](RetryConfig::retry_rejections); never at an open circuit |
//! | ended by the deadline | none |
//!
//! [`RetryAdvice::Never`](crate::RetryAdvice::Never) always ends the call. After a failure that the service may have acted on, a
//! request is replayed only if the policy declares it [safe](ReplayPolicy::is_safe). A request that certainly was not executed is
//! always safe. In both cases it must be [replayable](ReplayPolicy::is_replayable): a body that was read in part cannot be sent
//! again. A request that could not be saved is sent once.
//!
//! A wait that the server requests is never shortened and adds no attempts. If it exceeds the wait of the backoff by more than
//! [`max_retry_after`](RetryConfig::max_retry_after), or would end after the [deadline](crate::Deadline), the caller gets the
//! response at once.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `max_attempts` | 3 | nearly all transient failures have passed by then |
//! | `backoff` | 50 ms × 2, at most 2 s, full jitter | see [`backoff`](crate::backoff) |
//! | `overloaded_base` | 1 s | limits rarely reset in less |
//! | `max_retry_after` | 5 s | a longer wait outlasts most callers' patience, and no server can make a caller sleep for a day |
//! | `retry_rejections` | no | the layer rejected the call to reduce load |
//! | `retry_spent_below` | no | attempts multiply: three layers of three are 27 |
//! | budget | its own, of the same name | a retry storm is worse than the failure that caused it |
//!
//! # Order
//!
//! Place the retry inside the deadline, which bounds all attempts together, and inside the layer that generates idempotency keys:
//! then all attempts carry the same key. Place it outside breaker and attempt timeout, which then apply to every attempt. A breaker
//! *outside* the retry sees one failure for three failed attempts.
//!
//! Under tower's `Buffer` the layer reads the caller's deadline as usual. Over a `Buffer`, the service is called in another task,
//! where it does not see the attempt's [`Call`](crate::Call); its future does.
//!
//! # Errors
//!
//! The layer has no errors of its own: the caller gets the last result unchanged. There is one exception: if an inner layer rejects a
//! later attempt and the service may have acted on an earlier one, the rejection has [`Executed::Maybe`](crate::Executed::Maybe).
//!
//! The layer holds a failed result until the inner service is ready and the next attempt has begun. Until then it may become the
//! result of the call: the deadline may pass, the service may fail before it is ready, or the request may not be replayable any
//! more. A failed response that holds a permit of an inner limit holds it for that long. Afterwards it is dropped, or
//! [disposed of](RetryLayer::discard) concurrently with the next attempt: `http::Drain` reads the rest of it.
//!
//! # Events
//!
//! [`Event::Retry`](crate::event::Event::Retry) when an attempt is scheduled. [`Event::RetryStopped`](crate::event::Event::RetryStopped), with the
//! reason, when the outcome alone would have allowed an attempt and there is none. Other results emit no event.
//!
//! # Cancel safety
//!
//! Dropping the future drops the attempt in progress. During a wait, it cancels the scheduled attempt, and the token goes back to
//! the budget. An attempt that has begun has spent its token.

mod attempt;
mod budgets;
mod config;
mod discard;
pub mod future;
mod layer;
mod machine;
mod progress;
mod replay;
mod service;
mod terms;
mod wait;

pub use self::config::RetryConfig;
#[cfg(feature = "http")]
pub(crate) use self::discard::Discard;
pub use self::layer::RetryLayer;
pub use self::replay::{ReplayPolicy, by_clone, by_clone_if};
pub use self::service::Retry;

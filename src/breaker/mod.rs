//! Circuit breaker: stops calls to a failing service for a while, then probes it with a few calls.
//!
//! # When to use it
//!
//! Put a breaker in front of every service that is called over a network. It rejects at once the calls that would fail late,
//! and callers do not pile up behind a dead service. It also takes the load off a service that could not recover otherwise.
//!
//! A result that fails because of the request is [permanent](crate::Kind::Permanent) and counts as a success. Do not share one
//! breaker between several servers: one dead shard of three must not close off the other two. Use
//! [a circuit per key](Breaker::keyed).
//!
//! ```text
//!              a rule trips                    open_for is over
//!  ┌────────┐ ───────────────▶ ┌────────┐ ─────────────────────▶ ┌───────────┐
//!  │ closed │                  │  open  │                        │ half-open │ three probes pass,
//!  │        │                  │        │ ◀───────────────────── │           │ the rest is rejected
//!  └────────┘                  └────────┘   a probe failed,      └───────────┘
//!       ▲                                   or made no progress        │
//!       └──────────────────── enough probes succeeded ─────────────────┘
//! ```
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState};
//! use buttress::{Error, ErrorIsTransient};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::ConfigError> {
//! // Three failures in a row, however close to one another.
//! let config = BreakerConfig::default()
//!     .consecutive_failures(Some(3))
//!     .consecutive_min_span(Duration::ZERO);
//! let breaker = Breaker::new("payments", config)?;
//! let service = ServiceBuilder::new()
//!     .layer(BreakerLayer::new(breaker.clone(), ErrorIsTransient))
//!     .map_err(Error::Inner)
//!     .service(service_fn(async |_: u64| Err::<(), _>("no connection")));
//!
//! for _ in 0..3 {
//!     let failed = service.clone().oneshot(7).await;
//!     assert_eq!(failed, Err(Error::Inner("no connection")));
//! }
//! let Err(Error::Rejected(refused)) = service.clone().oneshot(7).await else {
//!     panic!("the circuit is open");
//! };
//! assert!(refused.to_string().starts_with("circuit breaker `payments` is open, next probe in "));
//! assert_eq!(breaker.state(), BreakerState::Open);
//! # Ok(()) }
//! ```
//!
//! The [`Breaker`] is a handle: clone it into as many layers as you like, all of them are the same circuit. Without tower:
//! [`Breaker::run`], or [`Breaker::try_acquire`] and a permit. Manual control: [`force_open`](Breaker::force_open),
//! [`isolate`](Breaker::isolate), [`disable`](Breaker::disable), [`release`](Breaker::release), [`reset`](Breaker::reset),
//! [`reconfigure`](Breaker::reconfigure).
//!
//! # The rules
//!
//! They combine with *or*; the event names the one that tripped.
//!
//! | rule | trips when |
//! |---|---|
//! | `consecutive_failures` | so many failures came in a row, the first and the last at least `consecutive_min_span` apart |
//! | `failure_rate` | at least this share of the window's calls failed, and there were `min_calls` |
//! | `slow_rate` | at least this share of the window's calls took longer than `slow_call`, and there were `min_calls` |
//! | `abandoned` | `min_calls` calls in a row were abandoned after `abandoned_after`, the first and the last at least 1 s apart; or earlier ones too, at least 10 s apart |
//!
//! What an [outcome](crate::Outcome) counts for:
//!
//! | outcome | a run of failures | the failure rate | a probe |
//! |---|---|---|---|
//! | success, permanent | ends it | a success | succeeds |
//! | transient | adds to it | a failure | fails |
//! | overloaded | leaves it as it is | a failure | fails |
//! | neutral | – | – | gives its place back |
//! | never reached a living server, while the [allowance](crate::Unprocessed) lasts | – | – | gives its place back |
//! | the same, with none left | leaves it as it is | a failure | fails |
//! | abandoned after `abandoned_after` | – | – | fails |
//! | abandoned before | – | – | gives its place back, for 10 s |
//!
//! The window over time is ten cells, the running one and the nine before it, with exact counts: a result older than the
//! window never counts, and a burst weighs as much as the same failures spread out. It takes the same memory and the same
//! time whatever the traffic. A result that arrives after a state transition changes nothing.
//!
//! A call is abandoned when its future is dropped before it has a result, or the body of its response while the caller
//! waits for a frame. What counts is how long the caller has waited: for the response, or for the next frame. An early
//! cancel shows more about the caller's patience than about the service, so early abandoned calls open the circuit only if
//! no call has a result for 10 s.
//!
//! A probe that makes no progress for `probe_idle_timeout` has failed, and a lost call cannot leave the circuit half-open. With
//! `http::AtBodyEnd`, the head of a response and every frame of its body are progress, and a body that
//! still makes progress that long after a good head is a success: a healthy download may take longer than the timeout. No
//! timer runs: the state changes when a call begins or ends, and [`Breaker::state`] returns what a call would find now.
//!
//! # Load balancers
//!
//! A breaker that rejects calls is always ready, so a load balancer takes it for an idle endpoint and sends it most of the
//! calls. Put [`not_ready_while_open`](BreakerLayer::not_ready_while_open) on the breaker of each endpoint: `poll_ready` is
//! then pending until a probe may be sent. If all endpoints are open, callers wait; bound that with a `Buffer` and a
//! deadline in front of the balancer.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `failure_rate` | 0.5 of at least 20 calls (`min_calls`) in 10 s (`window`) | half of the calls failing is an outage; two of three may be an accident |
//! | `consecutive_failures` | 10, over at least 200 ms | detects a dead service with little traffic, too; one connection that dies with ten calls on it is no outage |
//! | `slow_rate`, `slow_call` | off, 1 s | slow is specific to the service |
//! | `open_for` | 2 s | a longer open time only delays callers after the service has recovered; a dead service gets three calls per probe round either way |
//! | `open_jitter` | 0.2 | without it, many clients probe at the same instant |
//! | `open_growth`, `max_open_for` | 1 (off), 60 s | backing off further saves little: a probe round is three calls |
//! | `max_server_wait` | none | a server's wait is meant for the one request |
//! | `probes`, `probes_to_close` | 3, all of them | one success may be luck |
//! | `probe_idle_timeout` | 10 s | with less, a healthy service that takes long to respond stays half-open; with more, a probe that hangs blocks its place longer |
//! | `ramp_up` | off | it delays recovery by seconds and helps only services that start cold |
//! | `abandoned` | [`Detect`](Abandoned::Detect) | a time limit outside the breaker must not hide failures from it; a few impatient callers must not open it |
//! | `abandoned_after` | 1 s | with less, users who click on before a healthy service responds open the circuit; with more, a hung service is detected later |
//! | `dry_run` | no | |
//!
//! # Order
//!
//! Inside retry, so that every attempt is judged and an open circuit ends the retries. Outside the attempt's timeout, so that
//! a timeout is a result that it counts. The timeout outside the breaker would drop its calls before they have a result.
//!
//! While the circuit is open, the inner service is not even polled ready, and no call waits for a dead connection. A breaker
//! per key learns its key in the call: the inner service is polled ready, but not called.
//!
//! # Errors
//!
//! A [`Rejected`](crate::Rejected) that was certainly not executed, with the time until the next probe in
//! [`retry_after`](crate::Rejected::retry_after) where it is known, and one of these reasons: `CircuitOpen`,
//! `CircuitProbing` (half-open, and all probes are under way), `CircuitRampingUp`, `CircuitForcedOpen`, `CircuitIsolated`.
//! The service's own results pass unchanged.
//!
//! # Events
//!
//! [`Event::BreakerTransition`](crate::event::Event::BreakerTransition) with the cause, [`Event::Rejected`](crate::event::Event::Rejected) for each
//! refusal; in a dry run [`Event::WouldReject`](crate::event::Event::WouldReject) instead. To wait for a transition:
//! [`Breaker::watch`].
//!
//! # Cancel safety
//!
//! The permit is a value. Dropping a call drops its permit unsettled, which counts as *abandoned*. A panic in the inner service
//! counts as a failure and propagates.

mod config;
mod handle;
mod machine;
mod manual;
#[cfg(test)]
mod model;
mod permit;
mod probes;
mod shards;
mod trip;

pub use self::config::{Abandoned, BreakerConfig, Window};
pub use self::handle::{Breaker, BreakerLayer, StateWatch};
pub use self::manual::Snapshot;
pub use self::permit::BreakerPermit;
pub use crate::transition::{BreakerState, Cause};

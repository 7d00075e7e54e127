//! Retry budget: successful calls pay for retries, which bounds the load that retries add to a failing service.
//!
//! # When to use it
//!
//! Always: every [`RetryLayer`](crate::retry::RetryLayer) has a budget. Make one yourself to share it between layers or with
//! code of your own, or to change its numbers. Use one budget per service: a failing service must not use up the budget of the
//! others.
//!
//! A budget does not replace the limit of attempts, which bounds one call, nor a breaker, which stops first attempts too.
//!
//! ```text
//!    call succeeded  ──deposit 0.2──▶ ┌────────┐
//!                                     │ ≤ cap  │ ──try_withdraw 1──▶ a retry ──started──▶ spent
//!            never started ◀──refund──│        │                        └────dropped───▶ refunded
//!                                     └────────┘ ──empty──▶ no retry: the caller gets the real result
//! ```
//!
//! # Example
//!
//! ```
//! use buttress::budget::{BudgetConfig, RetryBudget};
//!
//! # fn main() -> Result<(), buttress::ConfigError> {
//! let budget = RetryBudget::new("payments", BudgetConfig::new().ratio(0.1).cap(20))?;
//!
//! // Once for each successful call:
//! budget.deposit();
//! // When a retry is scheduled; hold it until the retry has ended:
//! if let Some(mut paid) = budget.try_withdraw() {
//!     // Dropped before this line, it would give its token back.
//!     paid.started();
//! }
//! # Ok(()) }
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `rule` | `Bucket` | bounds the load even when nothing succeeds; needs no clock while calls succeed |
//! | `ratio` | 0.2 | enough for one failure in six; at most a fifth more load |
//! | `cap` | 10 | a burst of ten: what a blip of a healthy service takes |
//! | `initial`, `reserve` | 2 | with less, a client that has just started or is seldom used cannot retry |
//! | `ttl` | 10 s | a day of good calls must not fund a storm: after 10 s without a retry only `reserve` is left |
//! | `floor` | none | a floor multiplies with the number of clients: a thousand clients at one a second are a thousand retries a second |
//! | `cost` | 1 | |
//!
//! In any interval no more is granted than `cap + ratio × deposits`, and with a floor `floor × (ttl + interval)` more. Ratios hold
//! exactly, as tokens are counted in millionths. The rules beside the bucket are those of [gRPC][a6]
//! ([`BudgetConfig::throttle`]) and of [Envoy][envoy] ([`BudgetConfig::concurrent`]); the bucket follows Finagle's idea, with
//! deposits for successes only, as in Marc Brooker's [*Fixing retries with token buckets and circuit breakers*][brooker] (2022).
//!
//! [a6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
//! [envoy]: https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/circuit_breaker.proto
//! [brooker]: https://brooker.co.za/blog/2022/02/28/retries.html
//!
//! # Requests that never reached the server
//!
//! A budget also holds the [allowance](crate::Unprocessed) for requests that came back unprocessed because their connection was
//! closing or their stream was refused. While it lasts, retrying them costs no token, and a rolling restart does not use up
//! the budget. Deposits restore it.
//!
//! # Order
//!
//! A budget is not a layer; retries and hedges hold it. Give both the same one.
//!
//! # Errors
//!
//! None of its own: if the budget is exhausted, the caller gets the real result of the last attempt.
//!
//! # Events
//!
//! [`Event::Budget`](crate::event::Event::Budget) with the balance on every withdrawal and refund,
//! [`Event::BudgetExhausted`](crate::event::Event::BudgetExhausted) when a retry was denied.
//!
//! # Cancel safety
//!
//! A retry is paid for when it is scheduled. The withdrawal is a value: if the call is dropped before the retry started,
//! its token is given back.

mod config;
mod keyed;
mod machine;
mod policy;

pub use self::config::{BudgetConfig, Rule};
pub use self::policy::RetryBudget;
pub(crate) use self::policy::{CallUnderWay, Withdrawal};

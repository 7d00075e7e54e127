//! The standard stack for calling others.

mod config;

use std::fmt;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::authority::{Authority, ByAuthority};
use super::body::AtBodyEnd;
use super::classify::ByStatus;
use super::drain::Drain;
use super::lift::Lift;
use super::replay::{Keys, Replay};
use super::request::HttpRequest;
use crate::breaker::Breaker;
use crate::budget::RetryBudget;
use crate::deadline::Deadline;
use crate::error::ConfigError;
use crate::gate::{Gate, GateLayer, Keyed};
use crate::idempotency::{IdempotencyKey, IdempotencyKeyLayer};
use crate::retry::{Retry, RetryLayer};
use crate::timeout::{DeadlineLayer, DeadlineService, Timeout, TimeoutLayer};

pub use self::config::ClientConfig;

/// The standard stack in front of an HTTP client, for `http::Request`s (hyper, tonic) and reqwest's alike.
///
/// From the outside in, each part with its reason:
///
/// ```text
/// deadline          10 s   what a caller waits at most, retries, waits and the body included
/// idempotency key          the same on every attempt; minted once `keys` says that servers honour it, then for every call
/// retry             3 ×    full jitter from 50 ms; a budget per authority, so that retries never become a storm
/// breaker                  per authority: a dead server is not called, and the others are left alone
/// attempt           3 s    an attempt that hangs becomes a failure that the breaker counts
/// your client              its own errors stay what they were, in `Error::Inner`
/// ```
///
/// The body is part of the call: a stalled one (10 s without a frame) is a failure that the breaker counts, and the deadline
/// reaches into it. A response that streams on purpose says so with [`CallOptions::streams`](crate::CallOptions::streams).
///
/// An `http::Request` may carry a [`Deadline`] of its own in its extensions; the earliest one counts.
///
/// Connecting is bounded by the attempt's limit; give your client a connect timeout of its own (1 s), so that a second
/// address is tried in time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use buttress::http::{ClientConfig, client};
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
///
/// let hyper = Client::builder(TokioExecutor::new()).build_http::<String>();
/// let config = ClientConfig::default().attempt(Duration::from_secs(1)).total(Duration::from_secs(3));
/// let search = client("search", config)?.layer(hyper);
/// # let _ = search;
/// # Ok(()) }
/// ```
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | `attempt` | 3 s | longer than nearly every answer that still comes |
/// | `total` | 10 s | three attempts and their waits fit in; few callers wait longer |
/// | `body_idle` | 10 s | a body that sends nothing for so long has stalled |
/// | `retry`, `budget`, `breaker` | their own | see [`retry`](crate::retry), [`budget`](crate::budget), [`breaker`](crate::breaker); `None` leaves one out |
/// | `authorities` | 10 000, 10 min | how many servers have a breaker and a budget of their own |
/// | `keys` | unknown | it takes more than a key to repeat a POST: the server must be known to run it once |
/// | `count_429` | no | a 429 speaks of this caller's quota, not of the service |
///
/// # What the stack returns
///
/// The response, or the last attempt's own error in `Error::Inner`, or a rejection in `Error::Rejected` that says which part
/// refused or cut the call short, and whether the call may have been executed.
///
/// # Cancel safety
///
/// Dropping the call, or the response's body, drops what is under way and gives back what it held.
///
/// # Errors
///
/// A setting that cannot work, alone or together with the others, with its path: `breaker.probe_lease`.
pub fn client(name: &str, config: ClientConfig) -> Result<ClientLayer, ConfigError> {
    ClientLayer::new(name, config)
}

type Breakers = Keyed<Authority, ByAuthority, Breaker>;
type Budgets = Keyed<Authority, ByAuthority, RetryBudget>;
type Stack<S> = DeadlineService<
    IdempotencyKey<
        Retry<
            Gate<Timeout<Lift<S>>, Option<Breakers>, ByStatus, AtBodyEnd>,
            Replay,
            ByStatus,
            Option<Budgets>,
            Drain,
        >,
    >,
>;

/// The standard stack, as a layer. Clones, and the clients they make, share its breakers and budgets. Made by [`client`].
#[derive(Clone)]
pub struct ClientLayer {
    config: ClientConfig,
    deadline: DeadlineLayer,
    key: IdempotencyKeyLayer,
    retry: RetryLayer<Replay, ByStatus, Option<Budgets>, Drain>,
    budgets: Option<Budgets>,
    gate: GateLayer<Option<Breakers>, ByStatus, AtBodyEnd>,
    breakers: Option<Breakers>,
    timeout: TimeoutLayer,
}

impl ClientLayer {
    fn new(name: &str, config: ClientConfig) -> Result<Self, ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("client", name))?;
        let breakers = config
            .breaker
            .map(|breaker| Breaker::keyed(name, breaker, config.authorities, ByAuthority))
            .transpose()?;
        let replay = Replay::new()
            .keys(config.keys.clone())
            .once(config.retry.is_none());
        let budgets = match &config.budget {
            Some(budget) => Some(RetryBudget::keyed(
                name,
                *budget,
                config.authorities,
                ByAuthority,
            )?),
            None => None,
        };
        let retry = config.retry.unwrap_or_default();
        let keys_may_be_honoured = config.keys != Keys::Unknown;
        Ok(Self {
            deadline: DeadlineLayer::new(name, config.total),
            key: IdempotencyKeyLayer::new().mint(keys_may_be_honoured),
            retry: RetryLayer::new(name, retry, replay)?
                .classify(ByStatus::new())
                .budgets(budgets.clone())
                .discard(Drain::new()),
            budgets,
            gate: GateLayer::new(
                breakers.clone(),
                ByStatus::new().count_429(config.count_429),
            )
            .finish(AtBodyEnd::new(name, config.body_idle)),
            breakers,
            timeout: TimeoutLayer::new(name, config.attempt),
            config,
        })
    }

    /// The breakers, one per authority: to look at, or to act on one by hand. `None` if they were left out.
    pub const fn breakers(&self) -> Option<&Keyed<Authority, ByAuthority, Breaker>> {
        self.breakers.as_ref()
    }

    /// The retry budgets, one per authority. `None` if they were left out.
    pub const fn budgets(&self) -> Option<&Keyed<Authority, ByAuthority, RetryBudget>> {
        self.budgets.as_ref()
    }

    /// The settings it was made with.
    pub const fn config(&self) -> &ClientConfig {
        &self.config
    }
}

/// The parts in their order, outermost first, with their settings.
impl fmt::Debug for ClientLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        f.debug_struct("ClientLayer")
            .field("deadline", &config.total)
            .field("idempotency_key", &config.keys)
            .field("retry", &config.retry)
            .field("budget", &config.budget)
            .field("breaker", &config.breaker)
            .field("body_idle", &config.body_idle)
            .field("attempt", &config.attempt)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        let attempt = self.timeout.layer(Lift::new(inner));
        let calls = self.retry.layer(self.gate.layer(attempt));
        Client {
            stack: self.deadline.layer(self.key.layer(calls)),
        }
    }
}

/// A client behind the standard stack. Made by [`ClientLayer`].
#[derive(Clone)]
pub struct Client<S> {
    stack: Stack<S>,
}

impl<S: fmt::Debug> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl<S, Req> Service<Req> for Client<S>
where
    Stack<S>: Service<Req>,
    Req: HttpRequest,
{
    type Response = <Stack<S> as Service<Req>>::Response;
    type Error = <Stack<S> as Service<Req>>::Error;
    type Future = <Stack<S> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let deadline = request.extensions().and_then(|of| of.get::<Deadline>());
        let _entered = deadline.map(|deadline| deadline.enter());
        self.stack.call(request)
    }
}

//! The standard stack for calling others.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::authority::{Authority, ByAuthority};
use super::body::AtBodyEnd;
use super::classify::ByStatus;
use super::lift::Lift;
use super::replay::{Keys, Replay};
use crate::breaker::{Breaker, BreakerConfig, Window};
use crate::budget::{BudgetConfig, RetryBudget};
use crate::error::ConfigError;
use crate::gate::{Gate, GateLayer, Keyed, KeyedConfig};
use crate::idempotency::{IdempotencyKey, IdempotencyKeyLayer};
use crate::retry::{Retry, RetryConfig, RetryLayer};
use crate::timeout::{DeadlineLayer, DeadlineService, Timeout, TimeoutLayer};

/// The standard stack in front of an HTTP client, for `http::Request`s (hyper, tonic) and reqwest's alike.
///
/// From the outside in, each part with its reason:
///
/// ```text
/// deadline          10 s   what a caller waits at most, retries, waits and the body included
/// idempotency key          the same on every attempt; minted only where `keys` says that servers honour it
/// retry             3 ×    full jitter from 50 ms; a budget per authority, so that retries never become a storm
/// breaker                  per authority: a dead server is not called, and the others are left alone
/// attempt           3 s    an attempt that hangs becomes a failure that the breaker counts
/// your client              its own errors stay what they were, in `Error::Inner`
/// ```
///
/// The body is part of the call: a stalled one (10 s without a frame) is a failure that the breaker counts, and the deadline
/// reaches into it. A response that streams on purpose says so with [`CallOptions::streams`](crate::CallOptions::streams).
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
/// # Errors
///
/// A setting that cannot work, alone or together with the others, with its path: `breaker.probe_lease`.
pub fn client(name: &str, config: ClientConfig) -> Result<ClientLayer, ConfigError> {
    ClientLayer::new(name, config)
}

/// The settings of the standard [`client`] stack.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The limit of one attempt. Default 3 s; at most `total`. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub attempt: Duration,
    /// The limit of the whole call, its body included. Default 10 s; more than 0. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub total: Duration,
    /// The longest time between two frames of a body. Default 10 s; more than 0. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub body_idle: Duration,
    /// How calls are repeated; `None`: never.
    pub retry: Option<RetryConfig>,
    /// What pays for retries, for each authority; `None`: nothing but the attempts bounds them, so that a failing service
    /// gets `max_attempts` times its load.
    pub budget: Option<BudgetConfig>,
    /// When an authority is not called any more; `None`: it always is.
    pub breaker: Option<BreakerConfig>,
    /// How many authorities are remembered, and for how long.
    pub authorities: KeyedConfig,
    /// Which servers honour idempotency keys. Default: none is known to. It takes more than a key to repeat a POST: the
    /// server must be known to run it once.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub keys: Keys,
    /// Whether a 429 counts for the breaker. Default: no. It speaks of this caller's quota, not of the service.
    pub count_429: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(3),
            total: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            retry: Some(RetryConfig::default()),
            budget: Some(BudgetConfig::default()),
            breaker: Some(BreakerConfig::default()),
            authorities: KeyedConfig::default(),
            keys: Keys::Unknown,
            count_429: false,
        }
    }
}

impl ClientConfig {
    /// The limit of one attempt.
    #[must_use]
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    /// The limit of the whole call.
    #[must_use]
    pub fn total(mut self, total: Duration) -> Self {
        self.total = total;
        self
    }

    /// The longest time between two frames of a body.
    #[must_use]
    pub fn body_idle(mut self, body_idle: Duration) -> Self {
        self.body_idle = body_idle;
        self
    }

    /// How calls are repeated; `None`: never.
    #[must_use]
    pub fn retry(mut self, retry: impl Into<Option<RetryConfig>>) -> Self {
        self.retry = retry.into();
        self
    }

    /// What pays for retries; `None`: nothing bounds them.
    #[must_use]
    pub fn budget(mut self, budget: impl Into<Option<BudgetConfig>>) -> Self {
        self.budget = budget.into();
        self
    }

    /// When an authority is not called any more; `None`: it always is.
    #[must_use]
    pub fn breaker(mut self, breaker: impl Into<Option<BreakerConfig>>) -> Self {
        self.breaker = breaker.into();
        self
    }

    /// How many authorities are remembered, and for how long.
    #[must_use]
    pub fn authorities(mut self, authorities: KeyedConfig) -> Self {
        self.authorities = authorities;
        self
    }

    /// Which servers honour idempotency keys.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Whether a 429 counts for the breaker.
    #[must_use]
    pub fn count_429(mut self, count_429: bool) -> Self {
        self.count_429 = count_429;
        self
    }

    /// Checks every setting, alone and together with the others.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, limit) in [
            ("attempt", &self.attempt),
            ("total", &self.total),
            ("body_idle", &self.body_idle),
        ] {
            ConfigError::unless(!limit.is_zero(), field, limit, "more than 0")?;
        }
        let most = format!("at most `total`, which is {:?}", self.total);
        ConfigError::unless(self.attempt <= self.total, "attempt", &self.attempt, most)?;
        self.authorities
            .validate()
            .map_err(|error| error.within("authorities"))?;
        if let Some(retry) = &self.retry {
            retry.validate().map_err(|error| error.within("retry"))?;
        }
        if let Some(budget) = &self.budget {
            budget.validate().map_err(|error| error.within("budget"))?;
        }
        if let Some(breaker) = &self.breaker {
            self.validate_breaker(breaker)
                .map_err(|error| error.within("breaker"))?;
        }
        Ok(())
    }

    fn validate_breaker(&self, breaker: &BreakerConfig) -> Result<(), ConfigError> {
        breaker.validate()?;
        if self.total != Duration::MAX {
            let least = format!("at least the client's `total`, which is {:?}", self.total);
            let lease = breaker.probe_lease;
            ConfigError::unless(lease >= self.total, "probe_lease", &lease, least)?;
        }
        if let Window::Time(window) = breaker.window
            && self.attempt != Duration::MAX
        {
            let least = self.attempt.saturating_mul(2);
            let allowed = format!("at least twice the client's `attempt`: {least:?}");
            ConfigError::unless(window >= least, "window", &window, allowed)?;
        }
        Ok(())
    }
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
        >,
    >,
>;

/// The standard stack, as a layer. Clones, and the clients they make, share its breakers and budgets. Made by [`client`].
#[derive(Clone)]
pub struct ClientLayer {
    config: ClientConfig,
    deadline: DeadlineLayer,
    key: IdempotencyKeyLayer,
    retry: RetryLayer<Replay, ByStatus, Option<Budgets>>,
    budgets: Option<Budgets>,
    gate: GateLayer<Option<Breakers>, ByStatus, AtBodyEnd>,
    breakers: Option<Breakers>,
    timeout: TimeoutLayer,
}

impl ClientLayer {
    fn new(name: &str, config: ClientConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let breakers = config
            .breaker
            .map(|breaker| Breaker::keyed(name, breaker, config.authorities, ByAuthority))
            .transpose()?;
        let once = RetryConfig::default().max_attempts(1);
        let budgets = match &config.budget {
            Some(budget) => Some(RetryBudget::keyed(
                name,
                *budget,
                config.authorities,
                ByAuthority,
            )?),
            None => None,
        };
        let retry = config.retry.unwrap_or(once);
        let keys_may_be_honoured = config.keys != Keys::Unknown;
        Ok(Self {
            deadline: DeadlineLayer::new(name, config.total),
            key: IdempotencyKeyLayer::new().mint(keys_may_be_honoured),
            retry: RetryLayer::new(name, retry, Replay::new().keys(config.keys.clone()))?
                .classify(ByStatus::new())
                .budgets(budgets.clone()),
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
{
    type Response = <Stack<S> as Service<Req>>::Response;
    type Error = <Stack<S> as Service<Req>>::Error;
    type Future = <Stack<S> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.stack.call(request)
    }
}

//! The layer, and what it is made of.

use std::fmt;

use tower_layer::Layer;

use super::config::ClientConfig;
use super::service::Client;
use crate::breaker::Breaker;
use crate::budget::RetryBudget;
use crate::error::ConfigError;
use crate::gate::{GateLayer, Keyed};
use crate::http::{AtBodyEnd, Authority, ByAuthority, ByStatus, Drain, Lift, Replay};
use crate::idempotency::{IdempotencyKeyLayer, header_name};
use crate::retry::RetryLayer;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

pub(super) type Breakers = Keyed<Authority, ByAuthority, Breaker>;
pub(super) type Budgets = Keyed<Authority, ByAuthority, RetryBudget>;

/// The standard stack, as a layer. Clones, and the clients they make, share its breakers and budgets. Made by
/// [`client`](super::client).
///
/// `R` is how requests are sent again, `C` what results mean: [`repeat`](Self::repeat) and [`classify`](Self::classify) change
/// them.
pub struct ClientLayer<R = Replay, C = ByStatus> {
    config: ClientConfig,
    deadline: DeadlineLayer,
    key: IdempotencyKeyLayer<Replay>,
    retry: RetryLayer<R, C, Option<Budgets>, Drain>,
    budgets: Option<Budgets>,
    gate: GateLayer<Option<Breakers>, C, AtBodyEnd>,
    breakers: Option<Breakers>,
    timeout: TimeoutLayer,
}

impl ClientLayer {
    pub(super) fn new(name: &str, config: ClientConfig) -> Result<Self, ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("client", name))?;
        let breakers = config
            .breaker
            .map(|breaker| Breaker::keyed(name, breaker, config.authorities, ByAuthority))
            .transpose()?;
        let budgets = config
            .budget
            .map(|budget| RetryBudget::keyed(name, budget, config.authorities, ByAuthority))
            .transpose()?;
        let retry = config.retry.unwrap_or_default();
        let header = header_name("key_header", &config.key_header)?;
        let mut key = IdempotencyKeyLayer::new().header_name(header.clone());
        if config.raw_key {
            key = key.raw();
        }
        let mut replay = Replay::new()
            .keys(config.keys.clone())
            .key_header_name(header)
            .attempt_header(config.attempt_header);
        if config.proxy {
            replay = replay.proxy();
        }
        Ok(Self {
            deadline: DeadlineLayer::new(name, config.total),
            key: key.mint(replay.clone()),
            retry: RetryLayer::new(name, retry, replay)?
                .classify(ByStatus::new())
                .budgets(budgets.clone())
                .once(config.retry.is_none())
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
}

impl<R: Clone, C: Clone> ClientLayer<R, C> {
    /// Sends requests again in the way that `make` makes of the one it has: wraps it, or puts another in its place. What may
    /// run twice is then for that one to say; [`keys`](ClientConfig::keys) is known to the one that is wrapped.
    ///
    /// ```
    /// use buttress::http::{ClientConfig, client};
    /// use buttress::repeat;
    /// use http::{Method, Request};
    ///
    /// // A search that is asked for by POST may well run twice.
    /// let reads = repeat::cloned_if(|request: &Request<String>| request.uri().path() == "/search");
    /// let search = client("search", ClientConfig::default())?.repeat(|_| reads);
    /// # let _ = search;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn repeat<T>(self, make: impl FnOnce(R) -> T) -> ClientLayer<T, C> {
        ClientLayer {
            config: self.config,
            deadline: self.deadline,
            key: self.key,
            retry: self.retry.repeat(make),
            budgets: self.budgets,
            gate: self.gate,
            breakers: self.breakers,
            timeout: self.timeout,
        }
    }

    /// What results mean is for `classify` to say, for all parts of the stack: a 429 then counts as it says, whatever
    /// [`count_429`](ClientConfig::count_429) is.
    #[must_use]
    pub fn classify<D: Clone>(self, classify: D) -> ClientLayer<R, D> {
        ClientLayer {
            config: self.config,
            deadline: self.deadline,
            key: self.key,
            retry: self.retry.classify(classify.clone()),
            budgets: self.budgets,
            gate: self.gate.classify(classify),
            breakers: self.breakers,
            timeout: self.timeout,
        }
    }
}

impl<R, C> ClientLayer<R, C> {
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

impl<R, C: Clone> Clone for ClientLayer<R, C> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            deadline: self.deadline.clone(),
            key: self.key.clone(),
            retry: self.retry.clone(),
            budgets: self.budgets.clone(),
            gate: self.gate.clone(),
            breakers: self.breakers.clone(),
            timeout: self.timeout.clone(),
        }
    }
}

/// The parts in their order, outermost first, with their settings.
impl<R, C> fmt::Debug for ClientLayer<R, C> {
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

impl<S, R, C: Clone> Layer<S> for ClientLayer<R, C> {
    type Service = Client<S, R, C>;

    fn layer(&self, inner: S) -> Client<S, R, C> {
        let attempt = self.timeout.layer(Lift::new(inner));
        let calls = self.retry.layer(self.gate.layer(attempt));
        Client::new(self.deadline.layer(self.key.layer(calls)))
    }
}

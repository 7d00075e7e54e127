//! The layer, and what it is made of.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use tower_layer::Layer;

use super::config::ClientConfig;
use super::reconfigure::LiveConfig;
use super::service::{Breakers, Budgets, ClientService};
use crate::breaker::Breaker;
use crate::budget::RetryBudget;
use crate::error::ConfigError;
use crate::event::{Observe, Source};
use crate::gate::{GateLayer, Keyed};
#[cfg(feature = "tracing")]
use crate::http::AttemptSpanLayer;
use crate::http::Drain;
use crate::http::client::stack_error::IntoStackError;
use crate::http::deadline::PropagateDeadlineLayer;
use crate::http::replay::{map_body::ReplayAs, policy::Replay};
use crate::http::{AtBodyEnd, AtFinalOutcome, Authority, ByAuthority, ByStatus};
use crate::idempotency::{IdempotencyKeyLayer, header_name};
use crate::live_names::register_stack;
use crate::retry::RetryLayer;
use crate::telemetry::Observed;
use crate::timeout::ShownLimit;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

/// The standard stack, as a layer. Clones, and the clients they make, share its breakers, its budgets and its settings. Made by
/// [`client`](fn@crate::http::client).
///
/// `R` decides how requests are replayed, `C` classifies results: [`replay`](Self::replay) and [`classify`](Self::classify)
/// replace them. `M` maps the errors of the service: `ByStatus` returns a [`BoxError`](crate::BoxError) as it is and, like `ByGrpcStatus`,
/// maps any other error to [`Error::Inner`](crate::Error::Inner).
pub struct ClientLayer<R = Replay, C = ByStatus, M = C> {
    pub(super) parts: Inner,
    pub(super) retry: RetryLayer<R, C, Option<Budgets>, Drain>,
    /// The classifier of all parts but the retries.
    classify: C,
    error: PhantomData<fn() -> M>,
}

/// Not derived: the replay policy need not be `Clone`.
impl<R, C: Clone, M> Clone for ClientLayer<R, C, M> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            retry: self.retry.clone(),
            classify: self.classify.clone(),
            error: PhantomData,
        }
    }
}

/// The parts that depend neither on the replay policy nor on the classifier.
#[derive(Clone)]
pub(super) struct Inner {
    pub(super) name: Arc<str>,
    pub(super) config: LiveConfig,
    call: Option<Observed>,
    pub(super) deadline: DeadlineLayer,
    key: IdempotencyKeyLayer<Replay>,
    pub(super) replay: Replay,
    pub(super) budgets: Option<Budgets>,
    pub(super) breakers: Option<Breakers>,
    pub(super) body: AtBodyEnd,
    attempt: Option<Observed>,
    #[cfg(feature = "tracing")]
    spans: bool,
    pub(super) timeout: TimeoutLayer,
    out: PropagateDeadlineLayer,
}

impl ClientLayer {
    #[track_caller]
    pub(super) fn new(name: &str, config: ClientConfig) -> Result<Self, ConfigError> {
        let location = Location::caller();
        ConfigError::check_name("client", name)?;
        config
            .validate()
            .map_err(|error| error.of("client", name))?;
        let header = header_name("key_header", &config.key_header)?;
        let mut replay = Replay::new()
            .idempotency_keys(config.idempotency_keys.clone())
            .key_header_name(header.clone())
            .redirects(config.redirects);
        if config.proxy {
            replay = replay.proxy();
        }
        let mut key = IdempotencyKeyLayer::new()
            .header_name(header)
            .generate(replay.clone());
        if config.unquoted_keys {
            key = key.unquoted();
        }
        let keyed = config.authorities;
        let breaker = |config| Breaker::keyed_part(name, config, keyed, ByAuthority);
        let budget = |config| RetryBudget::keyed_part(name, config, keyed, ByAuthority);
        let budgets = config.budget.map(budget).transpose()?;
        let retry = config.retry.unwrap_or_default();
        let retry = RetryLayer::part(name, retry, replay.clone(), None)?
            .classify(ByStatus::new())
            .budgets(budgets.clone())
            .enabled(config.retry.is_some())
            .discard(Drain::new());
        let observes = config.observe;
        let stack = Source::new("client", name);
        register_stack(&stack, retry.source(), location, config.clone());
        let timeout = TimeoutLayer::new(name, config.attempt);
        Ok(Self {
            retry,
            classify: ByStatus::new().count_429(config.count_429),
            error: PhantomData,
            parts: Inner {
                name: name.into(),
                call: observes.then(|| Observed::new(format!("{name}.call"))),
                deadline: DeadlineLayer::new(name, config.total),
                key,
                replay,
                budgets,
                breakers: config.breaker.map(breaker).transpose()?,
                body: AtBodyEnd::new(name, config.body_idle),
                attempt: observes.then(|| Observed::attempts(format!("{name}.attempt"))),
                #[cfg(feature = "tracing")]
                spans: config.spans,
                out: PropagateDeadlineLayer::new(config.deadline_header.clone()).inside(&timeout),
                timeout,
                config: LiveConfig::new(config),
            },
        })
    }
}

impl<R: Clone, C: Clone, M> ClientLayer<R, C, M> {
    /// Replaces the replay policy with the one that `make` returns, which may wrap the present one. The new policy decides
    /// which requests are safe to retry; [`idempotency_keys`](ClientConfig::idempotency_keys) applies to the present one.
    ///
    /// ```
    /// use buttress::http::{ClientConfig, client};
    /// use buttress::retry::by_clone_if;
    /// use http::{Method, Request};
    ///
    /// // A search by POST is safe to execute twice.
    /// let reads = by_clone_if(|request: &Request<String>| request.uri().path() == "/search");
    /// let search = client("search", ClientConfig::default())?.replay(|_| reads);
    /// # let _ = search;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn replay<T>(self, make: impl FnOnce(R) -> T) -> ClientLayer<T, C, M> {
        ClientLayer {
            parts: self.parts,
            retry: self.retry.replay(make),
            classify: self.classify,
            error: PhantomData,
        }
    }

    /// Replaces the classifier of all parts of the stack. [`count_429`](ClientConfig::count_429) then has no effect.
    #[must_use]
    pub fn classify<D: Clone>(self, classify: D) -> ClientLayer<R, D, M> {
        ClientLayer {
            parts: self.parts,
            retry: self.retry.classify(classify.clone()),
            classify,
            error: PhantomData,
        }
    }

    /// The same stack, in which `N` maps the errors of the service.
    pub(crate) fn map_errors_by<N>(self) -> ClientLayer<R, C, N> {
        ClientLayer {
            parts: self.parts,
            retry: self.retry,
            classify: self.classify,
            error: PhantomData,
        }
    }
}

impl<C: Clone, M> ClientLayer<Replay, C, M> {
    /// For requests whose body cannot be cloned: see [`Replay::map_request_body`].
    #[must_use]
    pub fn map_request_body<W>(self, wrap: W) -> ClientLayer<ReplayAs<W>, C, M> {
        self.replay(|replay| replay.map_request_body(wrap))
    }
}

impl<R, C, M> ClientLayer<R, C, M> {
    /// The same for gRPC, whose callers set `grpc-timeout` whatever the deadline header is.
    pub(crate) fn reads_grpc_timeout(mut self) -> Self {
        self.parts.out = self.parts.out.grpc();
        self
    }

    /// The breakers, one per authority, for inspection and manual control. `None` if they were left out.
    pub const fn breakers(&self) -> Option<&Keyed<Authority, ByAuthority, Breaker>> {
        self.parts.breakers.as_ref()
    }

    /// The retry budgets, one per authority. `None` if they were left out.
    pub const fn budgets(&self) -> Option<&Keyed<Authority, ByAuthority, RetryBudget>> {
        self.parts.budgets.as_ref()
    }

    /// Adds the label `server` to the metrics of this stack's breakers and budgets, for at most `max` authorities; later ones
    /// share `server="other"`. Call it before the first request. Default 0: no label, so that the number of series does not
    /// depend on the number of servers.
    pub fn label_servers(&self, max: usize) {
        if let Some(breakers) = &self.parts.breakers {
            breakers.label_servers(max);
        }
        if let Some(budgets) = &self.parts.budgets {
            budgets.label_servers(max);
        }
    }

    /// Sends the events of all parts of this stack to `observer` too, for as long as the stack or one of its clients lives.
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        let observer: Arc<dyn Observe> = Arc::new(observer);
        let parts = &self.parts;
        let observed = [&parts.call, &parts.attempt].into_iter().flatten();
        let limits = [
            parts.deadline.source(),
            parts.timeout.source(),
            parts.body.source(),
            self.retry.source(),
        ];
        for source in observed.map(Observed::source).chain(limits) {
            source.observe_with(Arc::clone(&observer));
        }
        if let Some(breakers) = &parts.breakers {
            breakers.observe_all(Arc::clone(&observer));
        }
        if let Some(budgets) = &parts.budgets {
            budgets.observe_all(observer);
        }
    }

    /// The present settings.
    pub fn config(&self) -> ClientConfig {
        self.parts.config.now().0
    }
}

/// The parts in their order, outermost first, each with its present settings.
impl<R, C, M> fmt::Debug for ClientLayer<R, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &self.parts;
        let config = parts.config.now().0;
        let observed = |by: &Option<Observed>| by.as_ref().map(|by| by.name().clone());
        let first_breaker = parts.breakers.as_ref().and_then(Keyed::first);
        let first_budget = parts.budgets.as_ref().and_then(Keyed::first);
        f.debug_struct("ClientLayer")
            .field("name", &parts.name)
            .field("observe_call", &observed(&parts.call))
            .field("deadline", &ShownLimit(parts.deadline.total()))
            .field("idempotency_key", &parts.key)
            .field("retry", &config.retry.map(|_| self.retry.config()))
            .field("budget", &first_budget.map(RetryBudget::config))
            .field("breaker", &first_breaker.map(Breaker::config))
            .field("authorities", &config.authorities)
            .field("count_429", &config.count_429)
            .field("body_idle", &ShownLimit(parts.body.idle()))
            .field("observe_attempt", &observed(&parts.attempt))
            .field("attempt_span", &config.spans)
            .field("attempt", &ShownLimit(parts.timeout.limit()))
            .field("deadline_header", &parts.out.header())
            .finish_non_exhaustive()
    }
}

impl<S, R, C: Clone, M> Layer<S> for ClientLayer<R, C, M> {
    type Service = ClientService<S, R, C, M>;

    fn layer(&self, inner: S) -> ClientService<S, R, C, M> {
        let parts = &self.parts;
        let observed = |by: &Option<Observed>| {
            GateLayer::new(by.clone(), self.classify.clone()).finish(AtFinalOutcome)
        };
        let breaker = GateLayer::new(parts.breakers.clone(), self.classify.clone())
            .finish(parts.body.clone());
        let inner = parts.out.layer(IntoStackError::mapped(inner));
        let limited = parts.timeout.layer(inner);
        #[cfg(feature = "tracing")]
        let limited = AttemptSpanLayer::new()
            .classify(self.classify.clone())
            .enabled(parts.spans)
            .layer(limited);
        let attempt = observed(&parts.attempt).layer(limited);
        let calls = parts.key.layer(self.retry.layer(breaker.layer(attempt)));
        let stack = observed(&parts.call).layer(parts.deadline.untimed(calls));
        ClientService::new(stack, parts.out.clone())
    }
}

impl<R, C, M> ClientLayer<R, C, M> {
    /// Changes the settings at run time, for all clones of this layer and all clients made by them.
    ///
    /// State is preserved: an open circuit stays open for the rest of its time, and a budget retains its balance. The next call
    /// uses the new settings. The limits of a call in progress do not change; its retries use the new settings from its next
    /// failure on, and its body the idle limit that was set when the body began.
    ///
    /// `attempt`, `total`, `body_idle`, `authorities`, `idempotency_keys` and the settings of `retry`, `budget` and `breaker` may change.
    /// Other settings cannot, and no part can be added or removed: create another client for that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress::http::{ClientConfig, client};
    ///
    /// let search = client("search", ClientConfig::default())?;
    /// // … clients are made and used …
    /// search.reconfigure(search.config().attempt(Duration::from_secs(1)))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A setting that cannot work, alone or with the others, or that cannot change. Nothing was changed then.
    pub fn reconfigure(&self, config: ClientConfig) -> Result<(), ConfigError> {
        config
            .validate()
            .and_then(|()| self.parts.config.change(config))
            .map_err(|error| error.of("client", &self.parts.name))?;
        // Not under the lock, because observers are called. If another change came meanwhile, apply its settings too.
        loop {
            let (config, changes) = self.parts.config.now();
            self.apply(&config)?;
            if self.parts.config.now().1 == changes {
                return Ok(());
            }
        }
    }

    /// Every setting was validated before, so none is rejected here.
    fn apply(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        let parts = &self.parts;
        parts.deadline.set_total(config.total);
        parts.timeout.set_limit(config.attempt);
        parts.body.set_idle(config.body_idle);
        parts
            .replay
            .set_idempotency_keys(config.idempotency_keys.clone());
        if let Some(retry) = config.retry {
            self.retry.reconfigure(retry)?;
        }
        if let (Some(budgets), Some(budget)) = (&parts.budgets, config.budget) {
            budgets.bound(config.authorities)?;
            budgets.reconfigure(budget)?;
        }
        if let (Some(breakers), Some(breaker)) = (&parts.breakers, config.breaker) {
            breakers.bound(config.authorities)?;
            breakers.reconfigure(breaker)?;
        }
        Ok(())
    }
}

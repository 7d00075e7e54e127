//! The breaker's handle, its manual control, and the layer that is not ready while the circuit is open.

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use super::config::BreakerConfig;
use super::machine::{Machine, Transitions};
use super::manual::Snapshot;
use super::shards::{Inner, Newest, Shard};
use crate::clock::{Moment, Now, sleep_until};
use crate::error::ConfigError;
use crate::event::{BreakerState, Observe, Refresh, Source, register_refresh};
use crate::gate::{Evict, EvictionCost, Gate, GateLayer, Internal, Keyed, KeyedConfig};
use crate::live_names::register;
use crate::sync::{shard_count, shard_index};

/// Puts a [`Breaker`], or a [`Keyed`](crate::gate::Keyed) one, in front of a service.
pub type BreakerLayer<C, P = Breaker> = GateLayer<P, C>;

/// A circuit breaker: a named handle, cheap to clone; all clones are the same circuit. See [the page](crate::breaker).
pub struct Breaker {
    owner: Arc<Owner>,
    /// A shard of this handle's own: see [`Evict::local`].
    local: Option<Arc<Shard>>,
}

impl Clone for Breaker {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
            local: None,
        }
    }
}

struct Owner {
    shared: Arc<Inner>,
    /// One for each core that has used the handle.
    shards: OnceLock<Box<[OnceLock<Arc<Shard>>]>>,
}

impl Breaker {
    /// A closed circuit. The name appears in its errors, logs and metrics.
    ///
    /// # Errors
    ///
    /// The first invalid setting, or a name that is empty or has control characters.
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>, config: BreakerConfig) -> Result<Self, ConfigError> {
        let location = Location::caller();
        let name = name.into();
        ConfigError::check_name("circuit breaker", &name)?;
        let breaker = Self::of_source(Source::new("breaker", name), config)?;
        let shared = breaker.shared();
        register(&shared.source, location, config);
        let weak: Weak<Inner> = Arc::downgrade(shared);
        register_refresh(weak);
        shared.refresh();
        Ok(breaker)
    }

    /// An entry of a keyed breaker, which is neither registered nor reported.
    fn of_source(source: Source, config: BreakerConfig) -> Result<Self, ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("circuit breaker", source.name()))?;
        let shared = Inner::new(source, config)?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                shards: OnceLock::new(),
            }),
            local: None,
        })
    }

    /// A circuit per key, all with the same settings. The name of each is `name/key`.
    ///
    /// # Errors
    ///
    /// The first invalid setting.
    #[track_caller]
    pub fn keyed<K, B>(
        name: &str,
        config: BreakerConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        let location = Location::caller();
        let keyed = Self::keyed_part(name, config, keys, by)?;
        if let Some(source) = keyed.source() {
            register(source, location, (config, keys));
        }
        Ok(keyed)
    }

    /// A keyed breaker whose name is not registered, because it is a part of a stack that is.
    pub(crate) fn keyed_part<K, B>(
        name: &str,
        config: BreakerConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        ConfigError::check_name("circuit breaker", name)?;
        let first = Self::of_source(Source::new("breaker", name), config)?;
        let source = Arc::new(Source::new("breaker", name));
        let weak: Weak<Source> = Arc::downgrade(&source);
        register_refresh(weak);
        source.refresh();
        Keyed::named(source, by, keys, first, |source, like| {
            let breaker = Self::of_source(source, like.config())?;
            breaker.shared().refresh();
            if let Some(parent) = breaker.shared().source.parent() {
                parent.refresh();
            }
            Ok(breaker)
        })
    }

    /// Sends the events of this breaker to `observer` too, for as long as the breaker lives. An observer that owns the
    /// breaker keeps it alive.
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.shared().source.observe_with(Arc::new(observer));
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        self.shared().source.name()
    }

    /// Its settings.
    pub fn config(&self) -> BreakerConfig {
        self.shared().with_state(|locked| locked.machine.config)
    }

    /// The state that a call would find now. Reading it causes no state transition.
    pub fn state(&self) -> BreakerState {
        let now = Now::unread().moment();
        self.shared().with_state(|locked| locked.machine.state(now))
    }

    /// Its state and its counts.
    pub fn snapshot(&self) -> Snapshot {
        let now = Now::unread().moment();
        self.shared()
            .with_state_mut(|locked, _| (locked.machine.snapshot(now), Transitions::default()))
    }

    /// Waits for state transitions, from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::ConfigError> {
    /// use buttress::breaker::{Breaker, BreakerConfig, BreakerState};
    ///
    /// let breaker = Breaker::new("payments", BreakerConfig::default())?;
    /// let mut states = breaker.watch();
    /// breaker.isolate();
    /// assert_eq!(states.changed().await, Some(BreakerState::Isolated));
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> StateWatch {
        StateWatch(self.shared().watch())
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Inner> {
        &self.owner.shared
    }
}

impl Breaker {
    #[inline(always)]
    pub(super) fn shard(&self) -> &Arc<Shard> {
        if let Some(local) = &self.local {
            return local;
        }
        let owner = &*self.owner;
        match owner.shards.get() {
            Some(shards) => match shards[shard_index(shards.len())].get() {
                Some(shard) => shard,
                None => owner.new_shard(),
            },
            None => owner.new_shard(),
        }
    }
}

impl Owner {
    #[cold]
    #[inline(never)]
    fn new_shard(&self) -> &Arc<Shard> {
        let shards = self
            .shards
            .get_or_init(|| (0..shard_count()).map(|_| OnceLock::new()).collect());
        shards[shard_index(shards.len())].get_or_init(|| self.shared.new_shard())
    }
}

impl Evict for Breaker {
    fn eviction_cost(&self, now: &Now) -> EvictionCost {
        if self.shared().has_calls() {
            return EvictionCost::Essentials;
        }
        let now = now.moment();
        self.shared()
            .with_state(|locked| match locked.machine.state(now) {
                // Its open time is over and no call has come since: its counts are out of date.
                BreakerState::HalfOpen => EvictionCost::Memory,
                BreakerState::Closed if locked.machine.remembers(now) => EvictionCost::Memory,
                BreakerState::Closed => EvictionCost::Nothing,
                _ => EvictionCost::Essentials,
            })
    }

    fn source(&self) -> &Source {
        &self.shared().source
    }

    fn local(&self, _: Internal) -> Self {
        Self {
            local: Some(self.shared().new_shard()),
            ..self.clone()
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("name", self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Waits for the state transitions of a breaker. Made by [`Breaker::watch`].
///
/// It returns copies of the state: a reference into the channel would block the next transition, and the call that causes it.
#[derive(Clone, Debug)]
pub struct StateWatch(watch::Receiver<Newest>);

impl StateWatch {
    /// Waits for the next transition and returns the state after it. Of several transitions since the last call, only the newest
    /// state is returned. `None`: all handles are dropped and no call is in flight, so no transition follows.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call returns the same transition.
    pub async fn changed(&mut self) -> Option<BreakerState> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().1)
    }
}

impl Breaker {
    /// Opens the circuit for this time, whatever the results are. Then it probes.
    pub fn force_open(&self, time: Duration) {
        self.manual(|machine, now| machine.force_open(time, now));
    }

    /// Opens the circuit until [`release`](Self::release).
    pub fn isolate(&self) {
        self.manual(|machine, _| machine.isolate());
    }

    /// Ends [`force_open`](Self::force_open), [`isolate`](Self::isolate) or [`disable`](Self::disable): the circuit is closed,
    /// with nothing counted.
    pub fn release(&self) {
        self.manual(|machine, _| machine.release());
    }

    /// Switches the breaker off: every call passes and nothing is counted, until [`release`](Self::release).
    pub fn disable(&self) {
        self.manual(|machine, _| machine.disable());
    }

    /// Closes the circuit, with nothing counted.
    pub fn reset(&self) {
        self.manual(|machine, _| machine.reset());
    }

    /// Changes the settings while running. The counts, the state and its remaining wait stay; a change between a window over
    /// time and one over calls empties the window.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        let now = Now::unread().moment();
        let dry_run = config.dry_run;
        self.shared()
            .with_state_mut(|locked, _| match locked.machine.reconfigure(config, now) {
                Ok(transitions) => {
                    locked.dry_run = dry_run;
                    (Ok(()), transitions)
                }
                Err(error) => (Err(error), Transitions::default()),
            })
    }

    fn manual(&self, transition: impl FnOnce(&mut Machine, Moment) -> Transitions) {
        let now = Now::unread().moment();
        self.shared()
            .with_state_mut(|locked, _| ((), transition(&mut locked.machine, now)));
    }
}

impl<K, B> Keyed<K, B, Breaker>
where
    K: Hash + Eq + Clone + fmt::Display,
{
    /// Changes the settings of all keys while running: see [`Breaker::reconfigure`]. On a handle of [`Breaker::keyed`], new
    /// keys get them too.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        self.change_each(|breaker| breaker.reconfigure(config))
    }

    /// Sends the events of the circuits of all keys to `observer` too, for as long as this handle lives. For a handle of
    /// [`Keyed::new`], attach it to each breaker instead: see [`Breaker::observe_with`].
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.observe_all(Arc::new(observer));
    }
}

impl<C, H> GateLayer<Breaker, C, H> {
    /// Makes the service pending instead of rejecting calls: `poll_ready` is pending while the circuit is open, and until a
    /// half-open circuit has a place for a probe.
    ///
    /// For a load balancer, which sends a call to an endpoint that is ready. One that rejects its calls at once is always
    /// ready and looks idle, so `tower::balance` would send it most of the calls.
    ///
    /// If no endpoint is ready, callers wait in `poll_ready`. Bound that: put a `Buffer` in front of the balancer, and a
    /// deadline in front of the buffer. A call may still be rejected if the circuit opens, or another service of the same
    /// breaker takes the last probe, between `poll_ready` and `call`.
    ///
    /// ```
    /// use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
    /// use buttress::ErrorIsTransient;
    ///
    /// // One breaker for each endpoint.
    /// let breaker = Breaker::new("orders/10.0.0.7:80", BreakerConfig::default())?;
    /// let endpoint = BreakerLayer::new(breaker, ErrorIsTransient).not_ready_while_open();
    /// # let _ = endpoint;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn not_ready_while_open(self) -> NotReadyWhileOpenLayer<C, H> {
        NotReadyWhileOpenLayer { gate: self }
    }
}

/// Applies a [`Breaker`] that is not ready while it is open. Made by
/// [`not_ready_while_open`](BreakerLayer::not_ready_while_open).
#[derive(Clone, Debug)]
pub struct NotReadyWhileOpenLayer<C, H> {
    gate: GateLayer<Breaker, C, H>,
}

impl<S, C: Clone, H: Clone> Layer<S> for NotReadyWhileOpenLayer<C, H> {
    type Service = NotReadyWhileOpen<S, C, H>;

    fn layer(&self, inner: S) -> Self::Service {
        NotReadyWhileOpen {
            breaker: self.gate.policy().clone(),
            gate: self.gate.layer(inner),
            waiting: None,
        }
    }
}

/// A service behind a [`Breaker`] that is not ready while it is open. Made by
/// [`not_ready_while_open`](BreakerLayer::not_ready_while_open).
pub struct NotReadyWhileOpen<S, C, H> {
    gate: Gate<S, Breaker, C, H>,
    breaker: Breaker,
    /// Boxed when the circuit is first found open.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<S: Clone, C: Clone, H: Clone> Clone for NotReadyWhileOpen<S, C, H> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            breaker: self.breaker.clone(),
            waiting: None,
        }
    }
}

impl<S, C, H> fmt::Debug for NotReadyWhileOpen<S, C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotReadyWhileOpen")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, C, H, Req> Service<Req> for NotReadyWhileOpen<S, C, H>
where
    Gate<S, Breaker, C, H>: Service<Req>,
{
    type Response = <Gate<S, Breaker, C, H> as Service<Req>>::Response;
    type Error = <Gate<S, Breaker, C, H> as Service<Req>>::Error;
    type Future = <Gate<S, Breaker, C, H> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            if self.breaker.refuses(&Now::unread()).is_none() {
                return self.gate.poll_ready(cx);
            }
            self.waiting = Some(Box::pin(admits(self.breaker.clone())));
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.gate.call(request)
    }
}

/// Waits until the breaker admits a call. No timer of the circuit would wake it: this has one of its own.
async fn admits(breaker: Breaker) {
    loop {
        // Registered before the look, so that a transition between the two is not missed.
        let mut transition = pin!(breaker.shared().transition.notified());
        transition.as_mut().enable();
        let Some(rejected) = breaker.refuses(&Now::unread()) else {
            return;
        };
        let Some(wait) = rejected.retry_after else {
            transition.await;
            continue;
        };
        let mut timer = pin!(sleep_until(Now::unread().moment().after(wait)));
        poll_fn(|cx| {
            if transition.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

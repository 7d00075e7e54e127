//! The breaker's handle. The fast path that avoids its lock is in `shards`.

use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::watch;

use super::config::BreakerConfig;
use super::permit::BreakerPermit;
use super::shard::Shard;
use super::shards::{Inner, Newest};
use super::ticket::Transitions;
use super::view::Snapshot;
use crate::clock::Now;
use crate::error::{CallError, ConfigError, Rejected};
use crate::event::{BreakerState, Observe, Refresh, Source, register_refresh};
use crate::gate::future::GateFuture;
use crate::gate::{AtResult, Evict, EvictionCost, Internal, Keyed, KeyedConfig, Permit};
use crate::live_names::register;
use crate::outcome::{Classify, ErrorIsTransient};
use crate::sync::{shard_count, shard_index};

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

    /// Admits or rejects a call, without tower. Settle the permit with the call's outcome. Dropping it counts the call as
    /// abandoned, by a caller that has waited since it was admitted.
    ///
    /// # Errors
    ///
    /// The rejection, with the time until the next probe.
    pub fn try_acquire(&self) -> Result<BreakerPermit, Rejected> {
        let now = Now::unread();
        let mut permit = self.admit_at(&now)?;
        // No gate polls this call, so nothing else reports that it is pending.
        permit.pending(&now);
        Ok(permit)
    }

    /// Runs a call without tower. It is rejected while the circuit is open. An `Err` counts as a failure, and so does a panic.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn query() -> Result<u32, std::io::Error> { Ok(42) }
    /// use buttress::Error;
    /// use buttress::breaker::{Breaker, BreakerConfig};
    ///
    /// let breaker = Breaker::new("database", BreakerConfig::default())?;
    /// let value = breaker.run(async || query().await.map_err(Error::Inner)).await?;
    /// # assert_eq!(value, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`Rejected`] while the circuit is open, else the call's own error.
    pub async fn run<T, E, F>(&self, call: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        self.run_classified(ErrorIsTransient, call).await
    }

    /// Runs a call without tower, with a classifier for its results.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] while the circuit is open, else the call's own error.
    pub async fn run_classified<T, E, F>(
        &self,
        classify: impl Classify<T, E>,
        call: impl FnOnce() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        let permit = self.admit_at(&Now::unread())?;
        // The closure runs inside the future, so that its panic counts too.
        let future = async { call().await };
        GateFuture::running(future, Some(permit), classify, AtResult).await
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

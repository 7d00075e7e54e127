//! A budget per key.

use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;

use super::RetryBudget;
use super::config::BudgetConfig;
use crate::clock::Now;
use crate::error::ConfigError;
use crate::event::{Observe, Source};
use crate::gate::{Evict, EvictionCost, Keyed, KeyedConfig};
use crate::live_names::register;
use crate::sync::Ordering;

impl RetryBudget {
    /// A budget per key, all with the same settings. The name of each is `name/key`. While there are
    /// [`max_keys`](KeyedConfig::max_keys), a new key starts without tokens: evictions create no tokens.
    ///
    /// # Errors
    ///
    /// The first invalid setting.
    #[track_caller]
    pub fn keyed<K, B>(
        name: &str,
        config: BudgetConfig,
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

    /// A keyed budget whose name is not registered, because it is a part of a stack that is.
    pub(crate) fn keyed_part<K, B>(
        name: &str,
        config: BudgetConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        ConfigError::check_name("retry budget", name)?;
        let first = Self::of_source(Source::new("budget", name), config)?;
        let source = Arc::new(Source::new("budget", name));
        Keyed::named(source, by, keys, first, |source, like| {
            Self::of_source(source, like.config())
        })
    }
}

impl<K, B> Keyed<K, B, RetryBudget>
where
    K: Hash + Eq + Clone + fmt::Display,
{
    /// Changes the settings of all keys while running: see [`RetryBudget::reconfigure`]. On a handle of
    /// [`RetryBudget::keyed`], new keys get them too.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BudgetConfig) -> Result<(), ConfigError> {
        self.change_each(|budget| budget.reconfigure(config))
    }

    /// Sends the events of the budgets of all keys to `observer` too, for as long as this handle lives. For a handle of
    /// [`Keyed::new`], attach it to each budget instead: see [`RetryBudget::observe_with`].
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.observe_all(Arc::new(observer));
    }
}

/// A budget without tokens is evicted first: a new one starts without tokens too while the map is full. One that counts calls
/// is not evicted while there are some, because a new one would allow as many retries again.
impl Evict for RetryBudget {
    fn eviction_cost(&self, now: &Now) -> EvictionCost {
        let shared = &*self.shared;
        let locked = *shared.locked.lock();
        let calls = shared.calls.load(Ordering::Relaxed);
        if locked.rules.counts_calls() && (calls > 0 || locked.machine.has_retries()) {
            return EvictionCost::Essentials;
        }
        if shared.balance(&locked, now.moment()) > 0.0 {
            EvictionCost::Memory
        } else {
            EvictionCost::Nothing
        }
    }

    fn source(&self) -> &Source {
        &self.shared.source
    }

    fn start_empty(&self) {
        let shared = &*self.shared;
        let now = Now::unread().moment();
        let mut locked = shared.locked.lock();
        locked.machine.empty(now);
        shared.balance.store(0, Ordering::Relaxed);
        shared.allowance.without_refused();
    }
}

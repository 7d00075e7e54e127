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

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::sync::{Arc, Mutex as StdMutex};

    use super::super::{BudgetConfig, RetryBudget};
    use crate::clock::Now;
    use crate::error::ConfigError;
    use crate::event::Source;
    use crate::gate::{KeyBy, Keyed, KeyedConfig, by};

    type Slot = Arc<StdMutex<Option<Box<dyn FnOnce() + Send>>>>;

    /// Budgets, and what is done once while the next one is being made.
    fn budgets(
        bound: KeyedConfig,
    ) -> (
        Keyed<u32, impl KeyBy<u32, Key = u32> + Clone + use<>, RetryBudget>,
        Slot,
    ) {
        let meanwhile = Slot::default();
        let slot = Arc::clone(&meanwhile);
        let like = move |source: Source, like: &RetryBudget| -> Result<_, ConfigError> {
            let made = RetryBudget::new(source.name().clone(), like.config());
            let act = slot.lock().unwrap().take();
            if let Some(act) = act {
                act();
            }
            made
        };
        let first = RetryBudget::new("first", BudgetConfig::new()).unwrap();
        let shop = Arc::new(Source::new("budget", "shop"));
        let keyed = Keyed::named(shop, by(|key: &u32| *key), bound, first, like).unwrap();
        (keyed, meanwhile)
    }

    #[test]
    fn one_that_is_made_while_the_settings_change_is_made_again() {
        for bound in [KeyedConfig::default(), KeyedConfig::default().max_keys(1)] {
            let (budgets, meanwhile) = budgets(bound);
            let handle = budgets.clone();
            let ratio = |ratio| BudgetConfig::new().ratio(ratio);
            *meanwhile.lock().unwrap() =
                Some(Box::new(move || handle.reconfigure(ratio(0.5)).unwrap()));
            let made = budgets.get(&1, &Now::unread());
            assert_eq!(made.config(), ratio(0.5));
            assert_eq!(&**made.name(), "shop/1");
            // The one key that a full map has room for is in use, so this is the overflow's.
            let held = budgets.get(&2, &Now::unread());
            budgets.reconfigure(ratio(0.7)).unwrap();
            for key in [1, 2, 3] {
                assert_eq!(budgets.get(&key, &Now::unread()).config(), ratio(0.7));
            }
            assert_eq!(held.config(), ratio(0.7));
        }
    }

    #[test]
    fn a_smaller_bound_holds_from_the_next_new_key_on() {
        let (budgets, _) = budgets(KeyedConfig::default());
        for key in [1, 2, 3, 4] {
            let _ = budgets.get(&key, &Now::unread());
        }
        budgets.bound(KeyedConfig::default().max_keys(2)).unwrap();
        let wrong = budgets.bound(KeyedConfig::default().max_keys(0));
        assert_eq!(wrong.unwrap_err().field, "max_keys");
        assert_eq!((budgets.len(), budgets.config().max_keys), (4, 2));
        let new = budgets.get(&5, &Now::unread());
        assert_eq!(&**new.name(), "shop/5");
        assert_eq!(budgets.len(), 2);
    }
}

//! A key that its lane has not seen: looked for among all keys, made, or sent to the overflow.

use std::fmt;
use std::hash::Hash;

use super::Forget;
use super::keyed::{Inner, Known, LaneMap, Used};
use crate::clock::Now;
use crate::event::{Event, emit};
use crate::sync::Mutex;

/// What was found for a key that its lane has not seen.
enum Found<R> {
    Entered(R),
    /// Nothing yet, but room for it, after so many changes.
    Room(u64),
    Full,
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Forget> Inner<K, B, P> {
    #[cold]
    pub(super) fn miss<R>(
        &self,
        lane: &Mutex<LaneMap<K, P>>,
        key: &K,
        now: &Now,
        enter: impl Fn(&mut Used<P>) -> R,
    ) -> R {
        let mut evicted = Vec::new();
        let mut made = None;
        let found = loop {
            match self.find_kept(lane, key, made.take(), now, &mut evicted, &enter) {
                // Out of the lock, for `make` is not ours.
                Found::Room(changes) => made = Some(((self.make)(&key.to_string()), changes)),
                Found::Entered(entered) => break Some(entered),
                Found::Full => break None,
            }
        };
        for gone in &evicted {
            emit(&Event::KeyEvicted {
                source: gone.source(),
            });
        }
        found.unwrap_or_else(|| self.overflow(enter))
    }

    /// Looks among all keys, and keeps what was `made` if the key is new.
    fn find_kept<R>(
        &self,
        lane: &Mutex<LaneMap<K, P>>,
        key: &K,
        made: Option<(P, u64)>,
        now: &Now,
        evicted: &mut Vec<P>,
        enter: impl Fn(&mut Used<P>) -> R,
    ) -> Found<R> {
        // The entry may have been made meanwhile by another thread of the same lane. It is not touched: a miss has read the
        // clock, so the key's last use is known exactly.
        let remember = |policy: &P| {
            let mut lane = lane.lock();
            let used = lane
                .entry(key.clone())
                .or_insert_with(|| Used::new(policy.near()));
            Found::Entered(enter(used))
        };
        let moment = now.moment();
        let mut all = self.all.lock();
        if let Some(known) = all.entries.get_mut(key) {
            known.last_used = moment;
            return remember(&known.policy);
        }
        if all.is_sweep_due(moment) {
            self.sweep(&mut all, now, evicted);
        }
        if all.entries.len() >= all.config.max_keys {
            all.fresh += 1;
            return Found::Full;
        }
        let policy = match made {
            Some((policy, changes)) if changes == all.changes => policy,
            _ => return Found::Room(all.changes),
        };
        all.fresh += 1;
        let entered = remember(&policy);
        let known = Known {
            policy,
            last_used: moment,
        };
        all.entries.insert(key.clone(), known);
        entered
    }

    fn overflow<R>(&self, enter: impl Fn(&mut Used<P>) -> R) -> R {
        let (shared, max_keys) = self.find_overflow();
        emit(&Event::KeyOverflow {
            source: shared.source(),
            max_keys,
        });
        enter(&mut Used::new(shared))
    }

    fn find_overflow(&self) -> (P, usize) {
        let mut made = None;
        loop {
            let changes = {
                let mut all = self.all.lock();
                let max_keys = all.config.max_keys;
                match (&all.overflow, made.take()) {
                    (Some(shared), _) => return (shared.clone(), max_keys),
                    (None, Some((policy, changes))) if changes == all.changes => {
                        all.overflow = Some(P::clone(&policy));
                        return (policy, max_keys);
                    }
                    _ => all.changes,
                }
            };
            made = Some(((self.make)("overflow"), changes));
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::sync::{Arc, Mutex as StdMutex};

    use super::super::{By, Keyed, KeyedConfig, by};
    use crate::budget::{BudgetConfig, RetryBudget};
    use crate::clock::Now;
    use crate::error::ConfigError;

    type Slot = Arc<StdMutex<Option<Box<dyn FnOnce() + Send>>>>;

    type PerNumber = Keyed<u32, By<fn(&u32) -> u32>, RetryBudget>;

    /// Budgets, and what is done once while the next one is being made.
    fn budgets(bound: KeyedConfig) -> (PerNumber, Slot) {
        let meanwhile = Slot::default();
        let slot = Arc::clone(&meanwhile);
        let like = move |name, like: &RetryBudget| -> Result<_, ConfigError> {
            let made = RetryBudget::new(name, like.config());
            let act = slot.lock().unwrap().take();
            if let Some(act) = act {
                act();
            }
            made
        };
        let first = RetryBudget::new("first", BudgetConfig::new()).unwrap();
        let own: fn(&u32) -> u32 = |key| *key;
        let keyed = Keyed::named("shop", by(own), bound, first, like).unwrap();
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

//! Inserts a key that is not in its shard: finds it among all keys, makes a policy, or uses the overflow policy.

use std::fmt;
use std::hash::Hash;

use super::entries::{Candidates, Rank, SAMPLE};
use super::keyed::{All, Inner, ShardMap, Used};
use super::{Evict, EvictionCost, Internal};
use crate::chance::draw;
use crate::clock::Now;
use crate::event::{Event, emit};
use crate::sync::{Apart, Mutex};

/// The result of a search among all keys.
enum Found<R> {
    Entered(R),
    /// The key is new and there is room for it.
    Room(Room),
    Full,
}

/// Room for a new key.
#[derive(Clone, Copy)]
struct Room {
    /// How many changes of the settings there had been.
    changes: u64,
    /// Whether the map was full.
    was_full: bool,
}

/// Whether an entry could be removed from all shards.
enum Detached {
    Gone,
    /// It was used since it was last checked.
    Used,
    /// Calls are in flight, or its cost is [`EvictionCost::Essentials`].
    Busy,
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Evict> Inner<K, B, P> {
    #[cold]
    pub(super) fn insert_missing<R>(
        &self,
        shard: &Mutex<ShardMap<K, P>>,
        key: &K,
        now: &Now,
        enter: impl Fn(&mut Used<P>) -> R,
    ) -> R {
        let mut evicted = Vec::new();
        let mut made = None;
        let found = loop {
            let found = self.find_or_insert(shard, key, made.take(), now, &mut evicted, &enter);
            for gone in evicted.drain(..) {
                emit(&Event::KeyEvicted {
                    source: gone.source(),
                });
            }
            match found {
                // Without the lock: `make` may be user code.
                Found::Room(room) => {
                    let policy = (self.make)(&key.to_string());
                    if room.was_full {
                        policy.start_empty();
                    }
                    made = Some((policy, room));
                }
                Found::Entered(entered) => break Some(entered),
                Found::Full => break None,
            }
        };
        found.unwrap_or_else(|| self.overflow(enter))
    }

    /// Searches all keys, and inserts the policy that was `made` if the key is new.
    fn find_or_insert<R>(
        &self,
        shard: &Mutex<ShardMap<K, P>>,
        key: &K,
        made: Option<(P, Room)>,
        now: &Now,
        evicted: &mut Vec<P>,
        enter: impl Fn(&mut Used<P>) -> R,
    ) -> Found<R> {
        // Another thread of the same shard may have made the entry meanwhile. `touched` stays unset: this path has read the
        // clock, so the key's last use is known exactly.
        let enter_shard = |policy: &P| {
            let mut shard = shard.lock();
            let used = shard
                .entry(key.clone())
                .or_insert_with(|| Used::new(policy.local(Internal)));
            Found::Entered(enter(used))
        };
        let moment = now.moment();
        let mut all = self.all.lock();
        if let Some(at) = all.entries.find(key) {
            all.entries.touch(at, moment);
            return enter_shard(&all.entries.at(at).policy);
        }
        let was_full = all.entries.len() >= all.config.max_keys;
        if made.is_none() {
            self.evict_idle(&mut all, now, evicted);
        }
        self.make_room(&mut all, now, evicted);
        if all.entries.len() >= all.config.max_keys {
            return Found::Full;
        }
        let policy = match made {
            Some((policy, room)) if room.changes == all.changes => {
                if was_full && !room.was_full {
                    policy.start_empty();
                }
                policy
            }
            _ => {
                return Found::Room(Room {
                    changes: all.changes,
                    was_full,
                });
            }
        };
        let entered = enter_shard(&policy);
        all.entries.insert(key.clone(), policy, moment);
        entered
    }

    /// Evicts idle entries among the next [`SAMPLE`].
    fn evict_idle(&self, all: &mut All<K, P>, now: &Now, evicted: &mut Vec<P>) {
        let moment = now.moment();
        all.entries.restart_small_scan();
        for _ in 0..SAMPLE.min(all.entries.len()) {
            let Some(at) = all.entries.next_position() else {
                return;
            };
            let entry = all.entries.at(at);
            let is_idle = moment.since(entry.last_used) >= all.config.idle;
            if is_idle && entry.policy.eviction_cost(now) < EvictionCost::Essentials {
                match self.detach(all, at, now, false) {
                    Detached::Gone => {
                        evicted.push(all.entries.remove(at).policy);
                        continue;
                    }
                    Detached::Used => all.entries.touch(at, moment),
                    Detached::Busy => {}
                }
            }
            all.entries.pass();
        }
    }

    /// Evicts an entry of a sample to make room for one key; more entries if `max_keys` was lowered.
    fn make_room(&self, all: &mut All<K, P>, now: &Now, evicted: &mut Vec<P>) {
        let mut surplus = (all.entries.len() + 1).saturating_sub(all.config.max_keys);
        if surplus == 0 {
            return;
        }
        let moment = now.moment();
        let sample = all.entries.sample(draw());
        let ranked = sample.as_slice().iter().map(|&at| {
            let entry = all.entries.at(at);
            let rank = Rank {
                in_use: moment.since(entry.last_used) < all.config.idle,
                eviction_cost: entry.policy.eviction_cost(now),
                last_use: entry.last_use,
            };
            (at, rank)
        });
        let mut candidates = Candidates::new(ranked);
        while surplus > 0 {
            let Some(candidate) = candidates.pop() else {
                return;
            };
            match self.detach(all, candidate.at, now, candidate.spared) {
                Detached::Gone => {
                    evicted.push(all.entries.remove(candidate.at).policy);
                    candidates.relocate(all.entries.len(), candidate.at);
                    surplus -= 1;
                }
                Detached::Used => {
                    all.entries.touch(candidate.at, moment);
                    let last_use = all.entries.at(candidate.at).last_use;
                    candidates.spare(candidate, last_use);
                }
                Detached::Busy => {}
            }
        }
    }

    /// Removes an entry from every shard, unless a call uses it. Called under the lock of all keys: a call that does not find
    /// the entry in its shard waits for that lock, so the entry cannot return meanwhile. Each shard is locked for one lookup.
    fn detach(&self, all: &All<K, P>, at: usize, now: &Now, was_spared: bool) -> Detached {
        let entry = all.entries.at(at);
        let mut taken = Vec::new();
        let mut result = Detached::Gone;
        for (number, Apart(shard)) in self.shards.iter().enumerate() {
            let mut shard = shard.lock();
            let Some(used) = shard.get_mut(&entry.key) else {
                continue;
            };
            if used.is_busy() {
                result = Detached::Busy;
                break;
            }
            if std::mem::take(&mut used.touched) && !was_spared {
                result = Detached::Used;
            }
            if matches!(result, Detached::Gone) {
                taken.extend(shard.remove_entry(&entry.key).map(|used| (number, used)));
            }
        }
        // No further call can reach it now.
        if matches!(result, Detached::Gone)
            && entry.policy.eviction_cost(now) == EvictionCost::Essentials
        {
            result = Detached::Busy;
        }
        if !matches!(result, Detached::Gone) {
            for (number, (key, used)) in taken {
                self.shards[number].0.lock().insert(key, used);
            }
        }
        result
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
            let policy = (self.make)("overflow");
            policy.start_empty();
            made = Some((policy, changes));
        }
    }
}

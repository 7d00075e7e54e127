//! Which keys a [`Keyed`](super::Keyed) policy forgets, and when it looks.

use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use super::keyed::{All, Inner, LaneMap, Used};
use super::{Forget, Keeps};
use crate::clock::{Moment, Now};
use crate::sync::MutexGuard;

/// How long a full map in which nothing could go is left alone.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Forget> Inner<K, B, P> {
    /// Forgets the idle keys; in a full map also a sixteenth of all keys, the longest unused ones first, so that a flood
    /// of new keys does not sweep for each of them.
    pub(super) fn sweep(&self, all: &mut All<K, P>, now: &Now, evicted: &mut Vec<P>) {
        let moment = now.moment();
        all.swept = moment;
        let mut lanes: Vec<MutexGuard<'_, LaneMap<K, P>>> =
            self.lanes.iter().map(|lane| lane.0.lock()).collect();
        for lane in &mut lanes {
            for (key, used) in lane.iter_mut() {
                if std::mem::take(&mut used.touched) || used.is_busy() {
                    if let Some(known) = all.entries.get_mut(key) {
                        known.last_used = moment;
                    }
                }
            }
        }
        let mut candidates: Vec<(bool, Keeps, Moment, K)> = all
            .entries
            .iter()
            .filter_map(|(key, known)| {
                let busy = lanes
                    .iter()
                    .any(|lane| lane.get(key).is_some_and(Used::is_busy));
                let keeps = known.policy.keeps(now);
                let idle = moment.since(known.last_used) >= all.config.idle;
                (!busy && keeps < Keeps::Essentials)
                    .then(|| (!idle, keeps, known.last_used, key.clone()))
            })
            .collect();
        candidates.sort_by_key(|&(in_use, keeps, last_used, _)| (in_use, keeps, last_used));
        let room = if all.entries.len() >= all.config.max_keys {
            all.fresh = 0;
            all.entries.len() - all.config.max_keys + all.share()
        } else {
            0
        };
        for (number, (in_use, _, _, key)) in candidates.into_iter().enumerate() {
            if in_use && number >= room {
                break;
            }
            for lane in &mut lanes {
                lane.remove(&key);
            }
            if let Some(known) = all.entries.remove(&key) {
                evicted.push(known.policy);
            }
        }
    }
}

impl<K, P> All<K, P> {
    /// Idle keys are looked for now and then; in a full map room is, but not for each key of a flood.
    pub(super) fn is_sweep_due(&self, now: Moment) -> bool {
        let rest = now.since(self.swept);
        if self.entries.len() < self.config.max_keys {
            rest >= self.config.idle / 8
        } else {
            self.fresh >= self.share() || rest >= SWEEP_EVERY
        }
    }

    /// How many keys a sweep makes room for in a full map, beside those above the bound.
    fn share(&self) -> usize {
        (self.config.max_keys / 16).max(1)
    }
}

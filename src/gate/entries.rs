//! The entries of a [`Keyed`](super::Keyed) policy, and the order in which they are evicted.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::EvictionCost;
use crate::chance::Draw;
use crate::clock::Moment;

/// How many entries a new key checks, at most, to find one to evict.
pub(super) const SAMPLE: usize = 16;

/// The entries of all keys: found by key, and by position, so that a sample of them takes no search.
pub(super) struct Entries<K, P> {
    hasher: DefaultHashBuilder,
    /// The position of each key in the list.
    positions: HashTable<usize>,
    list: Vec<Entry<K, P>>,
    /// Where the next scan for idle keys begins.
    next: usize,
    /// Counts the uses: the order in which entries were last used, also of two at the same time.
    uses: u64,
}

pub(super) struct Entry<K, P> {
    pub(super) key: K,
    pub(super) policy: P,
    pub(super) last_used: Moment,
    pub(super) last_use: u64,
    hash: u64,
}

impl<K: Hash + Eq, P> Entries<K, P> {
    pub(super) fn new() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            positions: HashTable::new(),
            list: Vec::new(),
            next: 0,
            uses: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Entry<K, P>> {
        self.list.iter()
    }

    /// The position of this key.
    pub(super) fn find(&self, key: &K) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        let found = self.positions.find(hash, |&at| self.list[at].key == *key);
        found.copied()
    }

    pub(super) fn at(&self, at: usize) -> &Entry<K, P> {
        &self.list[at]
    }

    /// The entry at this position was used.
    pub(super) fn touch(&mut self, at: usize, now: Moment) {
        self.uses += 1;
        let entry = &mut self.list[at];
        entry.last_used = now;
        entry.last_use = self.uses;
    }

    /// Adds a key that is not there yet.
    pub(super) fn insert(&mut self, key: K, policy: P, last_used: Moment) {
        let hash = self.hasher.hash_one(&key);
        let at = self.list.len();
        self.uses += 1;
        self.list.push(Entry {
            key,
            policy,
            last_used,
            last_use: self.uses,
            hash,
        });
        let list = &self.list;
        self.positions
            .insert_unique(hash, at, |&other| list[other].hash);
    }

    /// Removes the entry at this position; the last one takes its place.
    pub(super) fn remove(&mut self, at: usize) -> Entry<K, P> {
        let last = self.list.len() - 1;
        let gone = self.list.swap_remove(at);
        if let Ok(found) = self.positions.find_entry(gone.hash, |&other| other == at) {
            found.remove();
        }
        if at < last {
            let hash = self.list[at].hash;
            if let Some(position) = self.positions.find_mut(hash, |&other| other == last) {
                *position = at;
            }
        }
        gone
    }

    /// Scans a map of up to [`SAMPLE`] entries from its first entry on.
    pub(super) fn restart_small_scan(&mut self) {
        if self.list.len() <= SAMPLE {
            self.next = 0;
        }
    }

    /// The next position to check for an idle key, or `None` if there is no entry. Positions come in turn, so that each
    /// idle key is found after a bounded number of new ones.
    pub(super) fn next_position(&mut self) -> Option<usize> {
        if self.next >= self.list.len() {
            self.next = 0;
        }
        (self.next < self.list.len()).then_some(self.next)
    }

    /// The entry at the [next position](Self::next_position) stays.
    pub(super) fn pass(&mut self) {
        self.next += 1;
    }

    /// Up to [`SAMPLE`] different positions; all of them if there are no more.
    pub(super) fn sample(&self, draw: Draw) -> Sample {
        Sample::of(self.list.len(), draw)
    }
}

/// Different positions.
pub(super) struct Sample {
    positions: [usize; SAMPLE],
    len: usize,
}

impl Sample {
    /// Floyd's algorithm: each set of positions is equally likely, after a fixed number of steps.
    fn of(len: usize, draw: Draw) -> Self {
        let mut sample = Self {
            positions: [0; SAMPLE],
            len: 0,
        };
        let mut bits = draw.bits();
        for end in len.saturating_sub(SAMPLE)..len {
            bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let drawn = Draw::new(mix(bits)).below(end as u64 + 1);
            let at = usize::try_from(drawn).unwrap_or(end);
            let at = if sample.contains(at) { end } else { at };
            sample.positions[sample.len] = at;
            sample.len += 1;
        }
        sample
    }

    fn contains(&self, at: usize) -> bool {
        self.as_slice().contains(&at)
    }

    pub(super) fn as_slice(&self) -> &[usize] {
        &self.positions[..self.len]
    }
}

/// The finalizer of `SplitMix64`: one draw becomes a sequence of them.
const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The order of eviction. The lowest rank goes first: an idle entry, then one without state, then the least recently used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) in_use: bool,
    pub(super) eviction_cost: EvictionCost,
    pub(super) last_use: u64,
}

/// The entries of a sample that may be evicted.
pub(super) struct Candidates(Vec<Candidate>);

#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) at: usize,
    pub(super) rank: Rank,
    /// Whether it was found in use already, and so has had its second chance.
    pub(super) spared: bool,
}

impl Candidates {
    pub(super) fn new(all: impl Iterator<Item = (usize, Rank)>) -> Self {
        let all = all.filter(|(_, rank)| rank.eviction_cost < EvictionCost::Essentials);
        Self(
            all.map(|(at, rank)| Candidate {
                at,
                rank,
                spared: false,
            })
            .collect(),
        )
    }

    /// Removes and returns the entry to evict first.
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        let (first, _) = self
            .0
            .iter()
            .enumerate()
            .min_by_key(|(_, candidate)| candidate.rank)?;
        Some(self.0.swap_remove(first))
    }

    /// Puts a candidate that was used since it was last checked behind the others.
    pub(super) fn spare(&mut self, candidate: Candidate, last_use: u64) {
        let rank = Rank {
            in_use: true,
            last_use,
            ..candidate.rank
        };
        self.0.push(Candidate {
            rank,
            spared: true,
            ..candidate
        });
    }

    /// Notes that the entry at the position `from` is at `to` now.
    pub(super) fn relocate(&mut self, from: usize, to: usize) {
        for candidate in &mut self.0 {
            if candidate.at == from {
                candidate.at = to;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_small_map_is_sampled_whole_and_a_large_one_at_sixteen_positions() {
        for (len, expected) in [(0, 0), (1, 1), (16, 16), (17, 16), (1 << 24, 16)] {
            let sample = Sample::of(len, Draw::new(7));
            let different: BTreeSet<_> = sample.as_slice().iter().copied().collect();
            assert_eq!((sample.len, different.len()), (expected, expected), "{len}");
            assert!(different.iter().all(|at| *at < len));
        }
    }

    #[test]
    fn every_position_is_sampled_equally_often() {
        let mut counts = [0_u32; 100];
        for draw in 0..10_000 {
            for at in Sample::of(100, Draw::new(mix(draw))).as_slice() {
                counts[*at] += 1;
            }
        }
        // 1600 each, with a standard deviation of 37.
        assert!(
            counts.iter().all(|count| (1400..1800).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn idle_entries_go_first_then_those_without_state_then_the_least_recently_used() {
        let rank = |in_use, eviction_cost, last_use| Rank {
            in_use,
            eviction_cost,
            last_use,
        };
        let ranks = [
            rank(true, EvictionCost::Memory, 1),
            rank(true, EvictionCost::Nothing, 9),
            rank(false, EvictionCost::Essentials, 0),
            rank(true, EvictionCost::Nothing, 8),
            rank(false, EvictionCost::Memory, 5),
            rank(false, EvictionCost::Nothing, 6),
        ];
        let mut candidates = Candidates::new(ranks.into_iter().enumerate());
        let order: Vec<_> = std::iter::from_fn(|| candidates.pop())
            .map(|candidate| candidate.at)
            .collect();
        assert_eq!(order, [5, 4, 3, 1, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn entries_are_a_map_whatever_is_added_and_removed(
            ops in proptest::collection::vec((0_u8..3, 0_u16..40), 0..200),
        ) {
            let mut entries = Entries::new();
            let mut naive = BTreeMap::new();
            for (number, (op, key)) in ops.into_iter().enumerate() {
                let known = entries.find(&key).map(|at| entries.at(at).policy);
                prop_assert_eq!(known, naive.get(&key).copied());
                match op {
                    0 if known.is_none() => {
                        entries.insert(key, number, at(0));
                        naive.insert(key, number);
                    }
                    1 if entries.len() > 0 => {
                        let gone = entries.remove(usize::from(key) % entries.len());
                        prop_assert_eq!(naive.remove(&gone.key), Some(gone.policy));
                    }
                    2 => if let Some(at) = entries.next_position() {
                        prop_assert!(at < entries.len());
                        entries.pass();
                    },
                    _ => {}
                }
                let all: BTreeMap<_, _> =
                    entries.iter().map(|entry| (entry.key, entry.policy)).collect();
                prop_assert_eq!(&all, &naive);
                prop_assert_eq!(entries.len(), naive.len());
            }
        }
    }
}

//! Records in this process's memory.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;

use super::lookup::cursor_key;
use super::{
    Entry, Listed, RECORD, Resolve, Resolved, SMALL, Store, StoreError, StoreFuture, check_bound,
    full, response_len,
};
use crate::clock::{Moment, Now};
use crate::error::ConfigError;
use crate::idempotency::record::{self, Begun, Claim, Ended, Record, RecordKey, Token};

/// How many expired records each claim deletes at most.
const SWEPT: usize = 4;

/// Default of [`MemoryStore::with_max_bytes`].
const MAX_BYTES: usize = 256 << 20;

/// Stores records in the memory of this process. Use it in tests, and for a service whose effects end with the process too.
///
/// The store is bounded. When it is full it rejects new keys, because deleting a response early could execute an operation
/// twice. Room becomes free as records expire. Clones share the records. Leases and times to live follow tokio's clock. A response
/// is stored without a copy: a slice of a larger buffer holds the whole buffer in memory.
#[derive(Clone)]
pub struct MemoryStore {
    max_bytes: usize,
    records: Arc<Mutex<Records>>,
}

#[derive(Default)]
struct Records {
    /// A value is `None` only while a rule is applied to it.
    by_key: HashMap<RecordKey, Option<Record>>,
    /// Ordered by expiry.
    by_end: BTreeSet<(Moment, RecordKey)>,
    /// Size of all responses.
    bytes: usize,
}

impl MemoryStore {
    /// Creates a store with a bound of 256 MiB.
    pub fn new() -> Self {
        Self {
            max_bytes: MAX_BYTES,
            records: Arc::default(),
        }
    }

    /// Creates a store whose records take at most `max_bytes`: 512 bytes each, plus the response.
    ///
    /// # Errors
    ///
    /// `max_bytes` is less than 512.
    pub fn with_max_bytes(max_bytes: usize) -> Result<Self, ConfigError> {
        check_bound("memory", max_bytes as u64)?;
        Ok(Self {
            max_bytes,
            ..Self::new()
        })
    }

    /// Number of records, including expired ones that are not deleted yet.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether the store is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    fn size(&self) -> usize {
        self.bytes
            .saturating_add(self.by_key.len().saturating_mul(RECORD))
    }

    /// Applies a rule to one record.
    fn change<T>(&mut self, key: &RecordKey, rule: impl FnOnce(&mut Option<Record>) -> T) -> T {
        let place = self.by_key.entry(*key).or_default();
        let before = place
            .as_ref()
            .map(|record| (record.gone_at, response_len(record)));
        let result = rule(place);
        let after = place
            .as_ref()
            .map(|record| (record.gone_at, response_len(record)));
        if before != after {
            if let Some((end, size)) = before {
                self.by_end.remove(&(end, *key));
                self.bytes = self.bytes.saturating_sub(size);
            }
            if let Some((end, size)) = after {
                self.by_end.insert((end, *key));
                self.bytes = self.bytes.saturating_add(size);
            }
        }
        if after.is_none() {
            self.by_key.remove(key);
        }
        result
    }

    fn entry(&self, key: &RecordKey, now: Moment) -> Option<Entry> {
        let place = self.by_key.get(key)?;
        record::find(place.as_ref(), key, now)
    }

    /// A page in the order of the keys.
    fn page(&self, after: Option<RecordKey>, limit: usize, now: Moment) -> Listed {
        let limit = limit.max(1);
        let keys = self.by_key.keys().filter(|key| Some(**key) > after);
        let mut keys: Vec<RecordKey> = keys.copied().collect();
        let has_more = keys.len() > limit;
        if has_more {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        let last = keys.iter().max().filter(|_| has_more);
        let entries = keys.iter().filter_map(|key| self.entry(key, now));
        Listed {
            entries: entries.map(Entry::shortened).collect(),
            unreadable: 0,
            next: last.map(RecordKey::to_hex),
        }
    }

    /// Deletes the record that expired first, if any.
    fn sweep(&mut self, now: Moment) -> bool {
        match self.by_end.first() {
            Some(&(end, key)) if end <= now => {
                self.change(&key, |place| *place = None);
                true
            }
            _ => false,
        }
    }

    /// Whether this many more bytes fit. Deletes expired records if necessary.
    fn has_room(&mut self, more: usize, max: usize, now: Moment) -> bool {
        loop {
            if self.size().saturating_add(more) <= max {
                return true;
            }
            if !self.sweep(now) {
                return false;
            }
        }
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, StoreError>) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_bytes", &self.max_bytes)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        let now = Now::unread().moment();
        let mut records = self.lock();
        for _ in 0..SWEPT {
            records.sweep(now);
        }
        let is_new = !records.by_key.contains_key(key);
        if is_new && !records.has_room(RECORD, self.max_bytes, now) {
            return ready(Err(full(self.max_bytes)));
        }
        ready(Ok(
            records.change(key, |place| record::begin(place, claim, now))
        ))
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        let now = Now::unread().moment();
        let held = self
            .lock()
            .change(key, |place| record::renew(place, token, lease, ttl, now));
        ready(Ok(held))
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        let now = Now::unread().moment();
        let mut records = self.lock();
        let takes = |place: &Option<Record>| {
            place
                .as_ref()
                .is_some_and(|record| record.takes_answer(token, now))
        };
        if answer.len() > SMALL
            && records.by_key.get(key).is_some_and(takes)
            && !records.has_room(answer.len(), self.max_bytes, now)
        {
            return ready(Err(full(self.max_bytes)));
        }
        ready(Ok(records.change(key, |place| {
            record::complete(place, token, answer, ttl, now)
        })))
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        let now = Now::unread().moment();
        ready(Ok(self
            .lock()
            .change(key, |place| record::abandon(place, token, now))))
    }

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        ready(Ok(self.lock().entry(key, Now::unread().moment())))
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        let after = match after.map(cursor_key).transpose() {
            Ok(after) => after,
            Err(error) => return ready(Err(error)),
        };
        ready(Ok(self.lock().page(after, limit, Now::unread().moment())))
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        let now = Now::unread().moment();
        let mut records = self.lock();
        if let Some((answer, _)) = &resolve.response {
            let place = records.by_key.get(key).and_then(Option::as_ref);
            if answer.len() > SMALL
                && record::resolvable(place, resolve, now) == Resolved::Resolved
                && !records.has_room(answer.len(), self.max_bytes, now)
            {
                return ready(Err(full(self.max_bytes)));
            }
        }
        ready(Ok(
            records.change(key, |place| record::resolve(place, resolve, now))
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::idempotency::record::Fingerprint;

    #[derive(Clone, Debug)]
    enum Op {
        Begin(u8, u8, u64, u64),
        Renew(u8, u8, u64, u64),
        Complete(u8, u8, usize, u64),
        Abandon(u8, u8),
        /// As a response of this length, for this long, or as released.
        Resolve(u8, Option<(usize, u64)>),
        Sweep,
    }

    fn any_op() -> impl Strategy<Value = (u64, Op)> {
        let (key, who, time) = (0..4_u8, 0..2_u8, prop_oneof![0..6_u64, Just(u64::MAX)]);
        let op = prop_oneof![
            4 => (key.clone(), who.clone(), time.clone(), time.clone())
                .prop_map(|(k, w, l, t)| Op::Begin(k, w, l, t)),
            1 => (key.clone(), who.clone(), time.clone(), time.clone())
                .prop_map(|(k, w, l, t)| Op::Renew(k, w, l, t)),
            2 => (key.clone(), who.clone(), 0..2000_usize, time.clone())
                .prop_map(|(k, w, n, t)| Op::Complete(k, w, n, t)),
            1 => (key.clone(), proptest::option::of((0..2000_usize, time)))
                .prop_map(|(k, end)| Op::Resolve(k, end)),
            1 => (key, who).prop_map(|(k, w)| Op::Abandon(k, w)),
            1 => Just(Op::Sweep),
        ];
        (0..4_u64, op)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn its_counts_match_its_records_and_nothing_is_deleted_early(
            ops in proptest::collection::vec(any_op(), 0..40),
        ) {
            let mut records = Records::default();
            // The same records without ever deleting expired ones.
            let mut unswept: [Option<Record>; 4] = Default::default();
            let mut seconds = 0;
            let time = Duration::from_secs;
            for (passed, op) in ops {
                seconds += passed;
                let now = Moment::START.after(time(seconds));
                let mut change = |key: u8, rule: &dyn Fn(&mut Option<Record>) -> String| {
                    let result = records.change(&RecordKey([key; 32]), rule);
                    (result, rule(&mut unswept[usize::from(key)]))
                };
                let (result, expected) = match op {
                    Op::Begin(key, who, lease, ttl) => {
                        let claim = Claim {
                            fingerprint: Fingerprint([0; 32]),
                            token: Token([who; 16]),
                            lease: time(lease),
                            ttl: time(ttl),
                        };
                        change(key, &|place| format!("{:?}", record::begin(place, &claim, now)))
                    }
                    Op::Renew(key, who, lease, ttl) => change(key, &|place| {
                        let token = Token([who; 16]);
                        format!("{:?}", record::renew(place, token, time(lease), time(ttl), now))
                    }),
                    Op::Complete(key, who, length, ttl) => change(key, &|place| {
                        let answer = vec![0; length].into();
                        let token = Token([who; 16]);
                        format!("{:?}", record::complete(place, token, answer, time(ttl), now))
                    }),
                    Op::Abandon(key, who) => change(key, &|place| {
                        format!("{:?}", record::abandon(place, Token([who; 16]), now))
                    }),
                    Op::Resolve(key, end) => change(key, &|place| {
                        let found = record::find(place.as_ref(), &RecordKey([key; 32]), now);
                        let end = end.map(|(length, ttl)| (vec![0; length].into(), time(ttl)));
                        let resolve = found.map(|entry| entry.resolve(Duration::ZERO, end));
                        format!("{:?}", resolve.map(|resolve| record::resolve(place, &resolve, now)))
                    }),
                    Op::Sweep => {
                        records.sweep(now);
                        Default::default()
                    }
                };
                prop_assert_eq!(result, expected);
                let held = || records.by_key.iter().map(|(key, place)| (key, place.as_ref().expect("a record")));
                prop_assert_eq!(records.bytes, held().map(|(_, record)| response_len(record)).sum::<usize>());
                let by_end: BTreeSet<_> = held().map(|(key, record)| (record.gone_at, *key)).collect();
                prop_assert_eq!(&records.by_end, &by_end);
            }
        }
    }
}

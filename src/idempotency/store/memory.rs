//! Records in this process's memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Store, StoreError, StoreFuture};
use crate::clock::{Moment, Now};
use crate::error::ConfigError;
use crate::idempotency::record::{self, Begun, Claim, Ended, Record, RecordKey, State, Token};

/// What a record takes besides its answer, in bytes; measured, and rounded up.
const RECORD: usize = 512;

/// How many records whose time is over are forgotten at most for each claim.
const SWEPT: usize = 4;

/// The bounds of a [`MemoryStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The most memory that all records may take, in bytes: 512 each and its answer. Default 256 MiB; at least 512.
    pub max_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
        }
    }
}

impl MemoryConfig {
    /// The most memory that all records may take, in bytes.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.max_bytes >= RECORD,
            "max_bytes",
            &self.max_bytes,
            "at least 512, for one record",
        )
    }
}

/// Records in memory: gone with the process, and unknown to any other. For tests, and for a service whose effects are gone
/// with it too.
///
/// It is bounded: what is full refuses new keys, because to forget an answer before its time would be to act twice. Room
/// comes back as records reach their time. Clones share the records. Leases and times follow tokio's clock.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    config: MemoryConfig,
    records: Arc<Mutex<Records>>,
}

#[derive(Debug, Default)]
struct Records {
    kept: HashMap<RecordKey, Record>,
    /// By the time at which they are forgotten.
    by_end: BTreeSet<(Moment, RecordKey)>,
    /// Of all answers.
    bytes: usize,
}

impl MemoryStore {
    /// A store with the default bounds.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store with these bounds.
    ///
    /// # Errors
    ///
    /// A setting that cannot work.
    pub fn with(config: MemoryConfig) -> Result<Self, ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("store", "memory"))?;
        Ok(Self {
            config,
            records: Arc::default(),
        })
    }

    /// How many records it keeps, those included whose time is over and that are not swept yet.
    pub fn len(&self) -> usize {
        self.lock().kept.len()
    }

    /// Whether it keeps none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> StoreError {
        StoreError::Full(format!(
            "its records take the {} bytes of `max_bytes`",
            self.config.max_bytes
        ))
    }
}

impl Records {
    fn size(&self) -> usize {
        self.bytes
            .saturating_add(self.kept.len().saturating_mul(RECORD))
    }

    /// Applies a rule to one record.
    fn change<T>(&mut self, key: &RecordKey, rule: impl FnOnce(&mut Option<Record>) -> T) -> T {
        let mut place = self.kept.remove(key);
        let before = place.as_ref().map(|record| (record.gone_at, size(record)));
        let result = rule(&mut place);
        let after = place.as_ref().map(|record| (record.gone_at, size(record)));
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
        if let Some(record) = place {
            self.kept.insert(*key, record);
        }
        result
    }

    fn sweep(&mut self, most: usize, now: Moment) {
        for _ in 0..most {
            match self.by_end.first() {
                Some(&(end, key)) if end <= now => self.change(&key, |place| *place = None),
                _ => break,
            }
        }
    }
}

fn size(record: &Record) -> usize {
    match &record.state {
        State::Running { .. } => 0,
        State::Done { answer } => answer.len(),
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, StoreError>) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Store for MemoryStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        let now = Now::unread().moment();
        let mut records = self.lock();
        records.sweep(SWEPT, now);
        let is_new = !records.kept.contains_key(key);
        if is_new && records.size().saturating_add(RECORD) > self.config.max_bytes {
            return ready(Err(self.full()));
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
        // What is as small as the word that no answer was kept has room in the record's own.
        let more = if answer.len() <= RECORD / 4 {
            0
        } else {
            answer.len()
        };
        if more > 0 && records.size().saturating_add(more) > self.config.max_bytes {
            records.sweep(usize::MAX, now);
            if records.size().saturating_add(more) > self.config.max_bytes {
                return ready(Err(self.full()));
            }
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
}

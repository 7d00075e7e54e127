//! Stores that do not keep their word: the judge must find each of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Token};
use buttress::idempotency::store::{MemoryStore, Store};
use bytes::Bytes;
use tokio::task::yield_now;

/// Looks first, and writes later.
#[derive(Debug, Default)]
pub(crate) struct CheckThenAct {
    records: Mutex<HashMap<RecordKey, Option<Bytes>>>,
}

impl CheckThenAct {
    fn records(&self) -> MutexGuard<'_, HashMap<RecordKey, Option<Bytes>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for CheckThenAct {
    fn begin<'a>(&'a self, key: &'a RecordKey, _: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let found = self.records().get(key).cloned();
            if let Some(found) = found {
                return Ok(found.map_or(Begun::Running, Begun::Done));
            }
            yield_now().await;
            self.records().insert(*key, None);
            Ok(Begun::Started { run: 1 })
        })
    }

    fn renew<'a>(
        &'a self,
        _: &'a RecordKey,
        _: Token,
        _: Duration,
        _: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async { Ok(true) })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        _: Token,
        answer: Bytes,
        _: Duration,
    ) -> StoreFuture<'a, Ended> {
        self.records().insert(*key, Some(answer));
        Box::pin(async { Ok(Ended::Taken) })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, _: Token) -> StoreFuture<'a, Ended> {
        self.records().remove(key);
        Box::pin(async { Ok(Ended::Taken) })
    }
}

/// How a store breaks its word.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Breach {
    /// Some records end with half of the answer.
    Cuts,
    /// Leases are never renewed.
    DoesNotRenew,
    /// Some records are never completed, though it says so.
    LosesAnswers,
}

/// A store that keeps its word but for this.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) store: MemoryStore,
    pub(crate) breach: Breach,
}

impl Broken {
    pub(crate) fn new(breach: Breach) -> Self {
        let store = MemoryStore::new();
        Self { store, breach }
    }
}

impl Store for Broken {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        self.store.begin(key, claim)
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        match self.breach {
            Breach::DoesNotRenew => Box::pin(async { Ok(true) }),
            _ => self.store.renew(key, token, lease, ttl),
        }
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        let is_hit = key.0[0] % 16 == 0;
        match self.breach {
            Breach::Cuts if is_hit => {
                let half = answer.slice(..answer.len() - answer.len() / 4);
                self.store.complete(key, token, half, ttl)
            }
            Breach::LosesAnswers if is_hit => Box::pin(async { Ok(Ended::Taken) }),
            _ => self.store.complete(key, token, answer, ttl),
        }
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        self.store.abandon(key, token)
    }
}

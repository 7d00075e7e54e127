//! Stores with one fault each, which the judge must find.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Token};
use buttress::idempotency::store::{MemoryStore, Store};
use bytes::Bytes;
use tokio::task::yield_now;

use crate::forwarding::forward;
use crate::locked;

/// The fault of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    /// A claim reads the record and writes it later, without atomicity.
    ChecksThenActs,
    /// Some records have half of the response.
    Cuts,
    /// Leases are never renewed.
    DoesNotRenew,
}

/// A store with this fault.
#[derive(Debug)]
pub(crate) struct Broken {
    store: MemoryStore,
    breach: Breach,
    begun: Mutex<HashSet<RecordKey>>,
}

impl Broken {
    pub(crate) fn new(breach: Breach) -> Self {
        Self {
            store: MemoryStore::new(),
            breach,
            begun: Mutex::default(),
        }
    }
}

impl Store for Broken {
    forward!(store: abandon);

    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let is_free = !locked(&self.begun).contains(key);
            if self.breach == Breach::ChecksThenActs && is_free {
                yield_now().await;
                locked(&self.begun).insert(*key);
                let begun = self.store.begin(key, claim).await?;
                return Ok(match begun {
                    Begun::Running => Begun::Started { run: 1 },
                    begun => begun,
                });
            }
            self.store.begin(key, claim).await
        })
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
        mut answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        if self.breach == Breach::Cuts && key.0[0] % 16 == 0 {
            answer.truncate(answer.len() - answer.len() / 4);
        }
        self.store.complete(key, token, answer, ttl)
    }
}

//! Stores with one fault in look-up or repair, which the check must find.

use std::sync::Mutex;
use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Ended, Entry, EntryState, Listed, MemoryStore, RecordKey, Resolve, Resolved, Store, Token,
};
use buttress::testing::{check_lookup, check_store};
use bytes::Bytes;

use super::verdict;
use crate::forwarding::forward;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    FindsNothing,
    ShowsAStoppedOneAsRunning,
    CutsTheResponse,
    ResetsTheAge,
    CountsTheLeaseTwice,
    OverridesALease,
    IgnoresTheWait,
    IgnoresTheRun,
    IgnoresTheToken,
    IgnoresTheState,
    ChecksThenResolves,
    DoesNotChangeTheToken,
    DoesNotDeleteTheRecord,
    IgnoresTheTimeToLive,
    ListsWholeResponses,
    SkipsAPage,
    OmitsTheLastPage,
    NeverEnds,
}

/// Records in memory, with a fault.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    records: MemoryStore,
    /// Old and new tokens of resolved records.
    renamed: Mutex<Vec<(RecordKey, Token, Token)>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            records: MemoryStore::new(),
            renamed: Mutex::default(),
        }
    }

    fn token(&self, key: &RecordKey, token: Token) -> Token {
        let renamed = self.renamed.lock().unwrap();
        let same = renamed
            .iter()
            .rev()
            .find(|(renamed, old, _)| renamed == key && *old == token);
        same.map_or(token, |(_, _, new)| *new)
    }

    fn changed(&self, mut entry: Entry) -> Entry {
        match (self.fault, &mut entry.state) {
            (Fault::ShowsAStoppedOneAsRunning, state @ EntryState::Stopped { .. }) => {
                *state = EntryState::Running {
                    lease: Duration::ZERO,
                };
            }
            (Fault::CutsTheResponse, EntryState::Done { answer }) => answer.truncate(16),
            (Fault::ResetsTheAge, _) if entry.run > 1 => entry.age = Duration::ZERO,
            (Fault::CountsTheLeaseTwice, EntryState::Running { lease }) => {
                entry.expires_in += *lease;
            }
            _ => {}
        }
        entry
    }
}

impl Store for Faulty {
    forward!(records: begin, renew, abandon);

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        response: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        let token = self.token(key, token);
        self.records.complete(key, token, response, ttl)
    }

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move {
            if self.fault == Fault::FindsNothing {
                return Ok(None);
            }
            let found = self.records.find(key).await?;
            Ok(found.map(|entry| self.changed(entry)))
        })
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        Box::pin(async move {
            let mut page = self.records.list(after, limit).await?;
            match self.fault {
                Fault::SkipsAPage => {
                    if let (None, Some(second)) = (after, &page.next) {
                        page.next = self.records.list(Some(second), limit).await?.next;
                    }
                }
                Fault::OmitsTheLastPage if page.next.is_none() => page.entries.clear(),
                Fault::NeverEnds if page.next.is_none() => page.next = after.map(ToOwned::to_owned),
                Fault::ListsWholeResponses => {
                    for entry in &mut page.entries {
                        let whole = self.records.find(&entry.key).await?;
                        entry.state = whole.map_or(entry.state.clone(), |whole| whole.state);
                    }
                }
                _ => {}
            }
            Ok(page)
        })
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        Box::pin(async move {
            let mut resolve = resolve.clone();
            let before = self.records.find(key).await?;
            let Some(before) = before else {
                return self.records.resolve(key, &resolve).await;
            };
            match self.fault {
                Fault::IgnoresTheWait => resolve.stopped_for = Duration::ZERO,
                Fault::IgnoresTheRun => resolve.run = before.run,
                Fault::IgnoresTheToken => resolve.token = before.token,
                Fault::IgnoresTheState => resolve.done = before.is_done(),
                Fault::OverridesALease => {
                    if matches!(before.state, EntryState::Running { .. }) {
                        self.records
                            .renew(key, before.token, Duration::ZERO, Duration::from_secs(60))
                            .await?;
                    }
                }
                Fault::IgnoresTheTimeToLive => {
                    if let Some((_, ttl)) = &mut resolve.response {
                        *ttl = Duration::from_secs(3600);
                    }
                }
                Fault::DoesNotDeleteTheRecord if resolve.response.is_none() => {
                    let response = Bytes::from_static(b"released");
                    resolve.response = Some((response, Duration::from_secs(3600)));
                }
                Fault::ChecksThenResolves => {
                    let same = before.token == resolve.token
                        && before.run == resolve.run
                        && before.is_done() == resolve.done;
                    tokio::task::yield_now().await;
                    if let (true, Some(now)) = (same, self.records.find(key).await?) {
                        resolve = now.resolve(resolve.stopped_for, resolve.response);
                    }
                }
                _ => {}
            }
            let resolved = self.records.resolve(key, &resolve).await?;
            if self.fault == Fault::DoesNotChangeTheToken && resolved == Resolved::Resolved {
                if let Some(after) = self.records.find(key).await? {
                    let mut renamed = self.renamed.lock().unwrap();
                    renamed.push((*key, resolve.token, after.token));
                }
            }
            Ok(resolved)
        })
    }
}

#[tokio::test]
async fn the_contract_finds_every_fault() {
    use Fault::*;
    let verdict = |fault| verdict(async move { check_lookup(&Faulty::new(fault)).await });
    assert_eq!(verdict(None).await, Ok(()));
    for (fault, named) in [
        (FindsNothing, "found in its present state"),
        (ShowsAStoppedOneAsRunning, "found in its present state"),
        (CutsTheResponse, "found in its present state"),
        (
            ResetsTheAge,
            "the age of a record counts from its first claim",
        ),
        (CountsTheLeaseTwice, "the times of its record"),
        (OverridesALease, "never overridden"),
        (IgnoresTheWait, "never overridden"),
        (IgnoresTheRun, "changed since it was seen"),
        (IgnoresTheToken, "abandoned in a later run can be released"),
        (IgnoresTheState, "changed since it was seen"),
        (
            ChecksThenResolves,
            "one takes effect completely before the other",
        ),
        (
            DoesNotChangeTheToken,
            "a previous holder has lost the record",
        ),
        (DoesNotDeleteTheRecord, "a released record is gone"),
        (IgnoresTheTimeToLive, "the times of its record"),
        (ListsWholeResponses, "the first 16 bytes"),
        (SkipsAPage, "at least once"),
        (OmitsTheLastPage, "at least once"),
        (NeverEnds, "leads to itself"),
    ] {
        let verdict = verdict(fault).await;
        let message = verdict.expect_err(&format!("{fault:?} is found"));
        assert!(message.contains(named), "{fault:?}: {message}");
    }
}

/// A store without look-up and repair.
#[derive(Debug)]
struct Basic(MemoryStore);

impl Store for Basic {
    forward!(0: begin, renew, complete, abandon);
}

#[tokio::test]
async fn a_store_without_look_up_fulfills_the_rest_of_the_contract() {
    let store = Basic(MemoryStore::new());
    check_store(&store).await;
    let key = RecordKey([7; 32]);
    let resolve = Resolve {
        token: Token::new(),
        run: 1,
        done: false,
        stopped_for: Duration::ZERO,
        response: None,
    };
    let errors = [
        store.find(&key).await.map(drop),
        store.list(None, 10).await.map(drop),
        store.resolve(&key, &resolve).await.map(drop),
    ];
    for error in errors {
        let message = error.unwrap_err().to_string();
        let expected = "idempotency store unavailable: this store cannot look up records; \
                        implement `Store::find`, `list` and `resolve`";
        assert_eq!(message, expected);
    }
    let verdict = verdict(async move { check_lookup(&store).await }).await;
    assert!(verdict.is_err(), "the check fails without look-up");
}

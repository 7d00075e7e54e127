//! Stores with one fault each, which the check of the contract must find.

use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Begun, Claim, Ended, Entry, EntryState, Fingerprint, MemoryStore, RecordKey, Store, StoreError,
    Token,
};
use buttress::testing::check_store;
use bytes::Bytes;

use super::verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ChecksThenActs,
    CompletesInTwoSteps,
    IgnoresTheToken,
    OverwritesAResponse,
    IgnoresTheFingerprint,
    ReportsRunningBeforeMismatch,
    LetsOtherRequestsTakeOver,
    NeverTakesOver,
    CountsNoRuns,
    IgnoresTheTimeToLive,
    RenewsNothingThatIsOver,
    CompletesNothingThatIsOver,
    DeniesItsOwnClaim,
    HasNoEmptyResponse,
    CutsResponses,
    ReadsResponsesAsText,
    Overflows,
    MixesKeys,
    Fails,
}

/// Records in memory, with a fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    records: MemoryStore,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            records: MemoryStore::new(),
        }
    }

    async fn entry(&self, key: &RecordKey) -> Option<Entry> {
        self.records.find(key).await.unwrap()
    }

    async fn is_stopped(&self, key: &RecordKey) -> bool {
        let entry = self.entry(key).await;
        entry.is_some_and(|entry| matches!(entry.state, EntryState::Stopped { .. }))
    }

    fn key(&self, key: &RecordKey) -> RecordKey {
        let mut mixed = *key;
        if self.fault == Fault::MixesKeys {
            mixed.0[31] = 0;
        }
        mixed
    }

    async fn token(&self, key: &RecordKey, token: Token) -> Token {
        match self.entry(key).await {
            Some(entry) if self.fault == Fault::IgnoresTheToken => entry.token,
            _ => token,
        }
    }

    fn time(&self, time: Duration) -> Duration {
        match self.fault {
            Fault::Overflows if time == Duration::MAX => Duration::ZERO,
            Fault::IgnoresTheTimeToLive if time.is_zero() => Duration::from_secs(60),
            _ => time,
        }
    }
}

impl Store for Broken {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let key = &self.key(key);
            let before = self.entry(key).await;
            let is_stopped = self.is_stopped(key).await;
            let mut claim = *claim;
            claim.ttl = self.time(claim.ttl);
            match self.fault {
                Fault::Overflows => claim.lease = self.time(claim.lease),
                Fault::NeverTakesOver if !claim.ttl.is_zero() => {
                    claim.lease = claim.lease.max(Duration::from_secs(60));
                }
                Fault::IgnoresTheFingerprint => claim.fingerprint = Fingerprint([0; 32]),
                Fault::DeniesItsOwnClaim
                    if before.as_ref().is_some_and(|e| e.token == claim.token) =>
                {
                    return Ok(Begun::Running);
                }
                Fault::ChecksThenActs => tokio::task::yield_now().await,
                Fault::Fails => return Err(StoreError::unavailable("scripted failure")),
                _ => {}
            }
            let begun = self.records.begin(key, &claim).await?;
            Ok(match (self.fault, begun) {
                (Fault::ChecksThenActs, Begun::Running) if before.is_none() => {
                    Begun::Started { run: 1 }
                }
                (Fault::CountsNoRuns, Begun::Started { .. }) => Begun::Started { run: 1 },
                (Fault::ReportsRunningBeforeMismatch, Begun::Mismatch) => Begun::Running,
                (Fault::LetsOtherRequestsTakeOver, Begun::Mismatch) if is_stopped => {
                    Begun::Started { run: 2 }
                }
                (_, begun) => begun,
            })
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let key = &self.key(key);
            if self.fault == Fault::RenewsNothingThatIsOver && self.is_stopped(key).await {
                return Ok(false);
            }
            let (token, lease) = (self.token(key, token).await, self.time(lease));
            self.records.renew(key, token, lease, self.time(ttl)).await
        })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        response: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            let key = &self.key(key);
            if self.fault == Fault::CompletesNothingThatIsOver && self.is_stopped(key).await {
                return Ok(Ended::Lost);
            }
            let stored = match self.fault {
                Fault::CutsResponses => response.slice(..response.len().min(1 << 16)),
                Fault::ReadsResponsesAsText => {
                    String::from_utf8_lossy(&response).into_owned().into()
                }
                Fault::HasNoEmptyResponse if response.is_empty() => Bytes::from_static(b"null"),
                _ => response,
            };
            let (token, ttl) = (self.token(key, token).await, self.time(ttl));
            if self.fault == Fault::CompletesInTwoSteps {
                let held = self.records.renew(key, token, ttl, ttl).await?;
                tokio::task::yield_now().await;
                if held {
                    self.records.complete(key, token, stored, ttl).await?;
                    return Ok(Ended::Taken);
                }
            }
            let ended = self.records.complete(key, token, stored, ttl).await?;
            Ok(match ended {
                Ended::Already(_) if self.fault == Fault::OverwritesAResponse => Ended::Taken,
                ended => ended,
            })
        })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            let key = &self.key(key);
            self.records
                .abandon(key, self.token(key, token).await)
                .await
        })
    }
}

#[tokio::test]
async fn the_check_names_the_promise_that_a_store_breaks() {
    use Fault::*;
    let verdict = |fault| verdict(async move { check_store(&Broken::new(fault)).await });
    assert_eq!(verdict(None).await, Ok(()));
    for (fault, promise) in [
        (
            ChecksThenActs,
            "of 32 concurrent claims of a new key exactly one",
        ),
        (
            CompletesInTwoSteps,
            "of 32 concurrent completions one succeeds",
        ),
        (IgnoresTheToken, "only the holder changes a running record"),
        (OverwritesAResponse, "a stored response is final"),
        (
            IgnoresTheFingerprint,
            "a different fingerprint takes precedence",
        ),
        (
            ReportsRunningBeforeMismatch,
            "a different fingerprint takes precedence",
        ),
        (
            LetsOtherRequestsTakeOver,
            "does not pass to a claim with another fingerprint",
        ),
        (NeverTakesOver, "returns the run of the takeover"),
        (CountsNoRuns, "returns the run of the takeover"),
        (IgnoresTheTimeToLive, "an expired record counts as missing"),
        (
            RenewsNothingThatIsOver,
            "a lease that has ended can be renewed",
        ),
        (
            CompletesNothingThatIsOver,
            "completed even after its lease has ended",
        ),
        (DeniesItsOwnClaim, "a repeated claim returns the same run"),
        (HasNoEmptyResponse, "byte for byte"),
        (CutsResponses, "byte for byte"),
        (ReadsResponsesAsText, "byte for byte"),
        (Overflows, "as long as `Duration::MAX`"),
        (MixesKeys, "keys are independent"),
        (Fails, "scripted failure"),
    ] {
        let message = verdict(fault)
            .await
            .expect_err(&format!("{fault:?} is found"));
        assert!(message.contains(promise), "{fault:?}: {message}");
    }
}

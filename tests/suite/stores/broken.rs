//! A contract that nothing breaks is none: stores with one fault each, which it must find.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Begun, Claim, Ended, Fingerprint, MemoryStore, RecordKey, Token,
};
use buttress::idempotency::store::{Store, StoreError};
use buttress::testing::check_store;
use bytes::Bytes;

use super::verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ChecksThenActs,
    CompletesInTwoSteps,
    IgnoresTheToken,
    OverwritesAnAnswer,
    ForgetsTheFingerprint,
    TellsRunningBeforeMismatch,
    LetsOtherRequestsTakeOver,
    NeverTakesOver,
    CountsNoRuns,
    IgnoresTheTimeToLive,
    RenewsNothingThatIsOver,
    CompletesNothingThatIsOver,
    ForgetsToAbandon,
    DeniesItsOwnClaim,
    HasNoEmptyAnswer,
    CutsAnswers,
    ReadsAnswersAsText,
    Overflows,
    MixesKeys,
    Fails,
}

/// Records in memory, with a fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    records: MemoryStore,
    seen: Arc<Mutex<HashMap<RecordKey, Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    token: Token,
    fingerprint: Fingerprint,
    lease: Duration,
    overwritten: Option<Bytes>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            records: MemoryStore::new(),
            seen: Arc::default(),
        }
    }

    fn seen(&self, key: &RecordKey) -> Option<Seen> {
        self.seen.lock().unwrap().get(key).cloned()
    }

    fn key(&self, key: &RecordKey) -> RecordKey {
        let mut mixed = *key;
        if self.fault == Fault::MixesKeys {
            mixed.0[31] = 0;
        }
        mixed
    }

    fn token(&self, key: &RecordKey, token: Token) -> Token {
        match self.seen(key) {
            Some(seen) if self.fault == Fault::IgnoresTheToken => seen.token,
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
            let seen = self.seen(key);
            let mut claim = *claim;
            claim.ttl = self.time(claim.ttl);
            match self.fault {
                Fault::Overflows => claim.lease = self.time(claim.lease),
                Fault::NeverTakesOver if !claim.ttl.is_zero() => {
                    claim.lease = claim.lease.max(Duration::from_secs(60));
                }
                Fault::ForgetsTheFingerprint => claim.fingerprint = Fingerprint([0; 32]),
                Fault::LetsOtherRequestsTakeOver => {
                    if let Some(seen) = seen.as_ref().filter(|seen| seen.lease.is_zero()) {
                        claim.fingerprint = seen.fingerprint;
                    }
                }
                Fault::DeniesItsOwnClaim
                    if seen.as_ref().is_some_and(|s| s.token == claim.token) =>
                {
                    return Ok(Begun::Running);
                }
                Fault::ChecksThenActs => {
                    let free = seen.is_none();
                    tokio::task::yield_now().await;
                    if free {
                        self.note(key, &claim);
                        let begun = self.records.begin(key, &claim).await?;
                        return Ok(match begun {
                            Begun::Running => Begun::Started { run: 1 },
                            begun => begun,
                        });
                    }
                }
                Fault::Fails => return Err(StoreError::unavailable("it fell over")),
                _ => {}
            }
            let begun = self.records.begin(key, &claim).await?;
            if matches!(begun, Begun::Started { .. }) {
                self.note(key, &claim);
            }
            Ok(match begun {
                Begun::Started { .. } if self.fault == Fault::CountsNoRuns => {
                    Begun::Started { run: 1 }
                }
                Begun::Mismatch if self.fault == Fault::TellsRunningBeforeMismatch => {
                    Begun::Running
                }
                Begun::Done(answer) => {
                    Begun::Done(self.seen(key).and_then(|s| s.overwritten).unwrap_or(answer))
                }
                begun => begun,
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
            let over = self.seen(key).is_some_and(|seen| seen.lease.is_zero());
            if over && self.fault == Fault::RenewsNothingThatIsOver {
                return Ok(false);
            }
            let (token, lease) = (self.token(key, token), self.time(lease));
            let held = self
                .records
                .renew(key, token, lease, self.time(ttl))
                .await?;
            if let Some(seen) = self.seen.lock().unwrap().get_mut(key).filter(|_| held) {
                seen.lease = lease;
            }
            Ok(held)
        })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            let key = &self.key(key);
            let over = self.seen(key).is_some_and(|seen| seen.lease.is_zero());
            if over && self.fault == Fault::CompletesNothingThatIsOver {
                return Ok(Ended::Lost);
            }
            let kept = match self.fault {
                Fault::CutsAnswers => answer.slice(..answer.len().min(1 << 16)),
                Fault::ReadsAnswersAsText => String::from_utf8_lossy(&answer).into_owned().into(),
                Fault::HasNoEmptyAnswer if answer.is_empty() => Bytes::from_static(b"null"),
                _ => answer.clone(),
            };
            let (token, ttl) = (self.token(key, token), self.time(ttl));
            if self.fault == Fault::CompletesInTwoSteps {
                let held = self.records.renew(key, token, ttl, ttl).await?;
                tokio::task::yield_now().await;
                if held {
                    self.records.complete(key, token, kept, ttl).await?;
                    return Ok(Ended::Taken);
                }
            }
            let ended = self.records.complete(key, token, kept, ttl).await?;
            match ended {
                Ended::Already(_) if self.fault == Fault::OverwritesAnAnswer => {
                    let mut seen = self.seen.lock().unwrap();
                    if let Some(seen) = seen.get_mut(key) {
                        seen.overwritten = Some(answer);
                    }
                    Ok(Ended::Taken)
                }
                ended => Ok(ended),
            }
        })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            let key = &self.key(key);
            if self.fault == Fault::ForgetsToAbandon {
                return Ok(Ended::Taken);
            }
            self.records.abandon(key, self.token(key, token)).await
        })
    }
}

impl Broken {
    fn note(&self, key: &RecordKey, claim: &Claim) {
        let seen = Seen {
            token: claim.token,
            fingerprint: claim.fingerprint,
            lease: claim.lease,
            overwritten: None,
        };
        self.seen.lock().unwrap().insert(*key, seen);
    }
}

#[tokio::test]
async fn the_contract_names_the_promise_that_a_store_breaks() {
    use Fault::*;
    let verdict = |fault| verdict(async move { check_store(&Broken::new(fault)).await });
    assert_eq!(verdict(None).await, Ok(()));
    for (fault, promise) in [
        (
            ChecksThenActs,
            "of 32 concurrent claims of a new key exactly one",
        ),
        (CompletesInTwoSteps, "of 32 concurrent completions one succeeds"),
        (IgnoresTheToken, "only the holder changes a running record"),
        (OverwritesAnAnswer, "a stored response is final"),
        (
            ForgetsTheFingerprint,
            "a different fingerprint takes precedence",
        ),
        (
            TellsRunningBeforeMismatch,
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
        (ForgetsToAbandon, "only the holder changes a running record"),
        (
            DeniesItsOwnClaim,
            "a repeated claim returns the same run",
        ),
        (HasNoEmptyAnswer, "byte for byte"),
        (CutsAnswers, "byte for byte"),
        (ReadsAnswersAsText, "byte for byte"),
        (Overflows, "as long as `Duration::MAX`"),
        (MixesKeys, "keys are independent"),
        (Fails, "it fell over"),
    ] {
        let message = verdict(fault)
            .await
            .expect_err(&format!("{fault:?} is found"));
        assert!(message.contains(promise), "{fault:?}: {message}");
    }
}

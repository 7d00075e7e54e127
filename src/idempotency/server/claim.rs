//! The claim of a key, its lease, and the wait for another's answer.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::caller::Caller;
use super::engine::Engine;
use super::operation::Operation;
use super::progress::Running;
use crate::chance::draw;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::detach::detach;
use crate::error::CallError;
use crate::idempotency::record::{Begun, Claim, RecordKey, Token};
use crate::idempotency::store::StoreError;

/// The first wait between two questions to a store.
pub(super) const SOON: Duration = Duration::from_millis(50);

/// Why a key was not claimed.
pub(super) enum ClaimError {
    Store(StoreError),
    /// The key was claimed after a wait, but other operations have all places by now: the claim must be given up.
    TooMany,
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Claims the key; while another runs under it, asks again for as long as it may.
pub(super) async fn claim<Res, E: CallError>(
    shared: &Arc<Engine>,
    record: RecordKey,
    claim: Claim,
    running: &mut Running,
    caller: &mut Caller<Res, E>,
) -> Result<Begun, ClaimError> {
    let mut begun = begin(shared, record, claim).await?;
    if begun != Begun::Running || shared.config.wait.is_zero() || !running.wait(&shared.config) {
        return Ok(begun);
    }
    let until = Deadline::after(shared.config.wait);
    let mut pause = SOON;
    loop {
        let left = until.remaining(&Now::unread());
        if matches!(begun, Begun::Started { .. }) && !running.resume(&shared.config) {
            return Err(ClaimError::TooMany);
        }
        if begun != Begun::Running || left.is_zero() {
            return Ok(begun);
        }
        // Apart from others who wait for the same.
        let pause_now = draw().spread(pause, 0.2).min(left);
        tokio::select! {
            () = sleep(pause_now) => {}
            () = caller.left() => return Ok(begun),
        }
        pause = longer(pause);
        begun = match begin(shared, record, claim).await {
            // That another runs is known, and stays so: nobody may go on as if nothing were.
            Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                shared.store_failed(&error);
                return Ok(Begun::Running);
            }
            begun => begun?,
        };
    }
}

pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).min(Duration::from_secs(1))
}

/// One claim. Where its fate is not known, it is given up behind the caller's back: nobody would run under it.
async fn begin(shared: &Arc<Engine>, record: RecordKey, claim: Claim) -> Result<Begun, StoreError> {
    let store = Arc::clone(&shared.store);
    let mut begin = Box::pin(async move { store.begin(&record, &claim).await });
    let limit = shared.config.store_timeout;
    let begun = match timeout(limit, &mut begin).await {
        Ok(Err(error @ StoreError::Unavailable(_))) => Err((error, None)),
        Ok(begun) => return begun,
        Err(_) => Err((too_slow(limit), Some(begin))),
    };
    begun.map_err(|(error, late)| {
        // So many at once, and no more: for all others, the lease ends it.
        if let Ok(place) = Arc::clone(&shared.giving_up).try_acquire_owned() {
            let shared = Arc::clone(shared);
            detach(async move {
                let _place = place;
                let late = match late {
                    Some(begin) => timeout(claim.lease, begin).await.ok(),
                    None => None,
                };
                if !matches!(
                    late,
                    Some(Ok(Begun::Running | Begun::Done(_) | Begun::Mismatch))
                ) {
                    give_up(&shared, &record, claim.token).await;
                }
            });
        }
        error
    })
}

/// Abandons a claim, as soon as the store can be asked; its lease ends it if nothing else does.
pub(super) async fn give_up(shared: &Engine, record: &RecordKey, token: Token) {
    let until = Deadline::after(shared.config.lease);
    let mut pause = SOON;
    while limited(shared, shared.store.abandon(record, token))
        .await
        .is_err()
    {
        if until.is_over(&Now::unread()) {
            break;
        }
        sleep(draw().spread(pause, 0.2)).await;
        // Ever rarer: a store that comes back is not to be asked by everybody at once.
        pause = pause.saturating_mul(2);
    }
}

/// Asks the store, for no longer than it may take.
pub(super) async fn limited<T>(
    shared: &Engine,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let limit = shared.config.store_timeout;
    match timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(too_slow(limit)),
    }
}

fn too_slow(limit: Duration) -> StoreError {
    StoreError::unavailable(format!("no answer within {limit:?}"))
}

/// Renews the lease. Never ready: the handler ends, not this.
pub(super) async fn hold(operation: &Operation, claim: &Claim) -> Infallible {
    let shared = operation.shared();
    let (store, record, lease) = (&shared.store, operation.record(), claim.lease);
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        if operation.committed().is_some() {
            return pending().await;
        }
        let held = match limited(shared, store.renew(record, claim.token, lease, claim.ttl)).await {
            // A record that is gone before its time is claimed anew, before anybody else does.
            Ok(false) => limited(shared, store.begin(record, claim))
                .await
                .map(|begun| matches!(begun, Begun::Started { .. })),
            held => held,
        };
        pause = match held {
            Ok(true) => lease / 3,
            // What it has begun goes on: to stop half-way would be worse. It can record nothing any more.
            Ok(false) => {
                if operation.committed().is_none() {
                    operation.lost();
                }
                return pending().await;
            }
            Err(error) => {
                shared.store_failed(&error);
                lease / 10
            }
        };
    }
}

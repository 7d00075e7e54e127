//! The claim of a key, and the wait for the result of another request.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::chance::draw;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::detach::detach;
use crate::error::CallError;
use crate::idempotency::record::{Begun, Claim, RecordKey, Token};
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::execution::caller::Caller;
use crate::idempotency::server::execution::progress::Running;
use crate::idempotency::store::StoreError;

/// The first pause between two calls to a store.
pub(in crate::idempotency::server) const SOON: Duration = Duration::from_millis(50);

/// The reason why a key was not claimed.
pub(in crate::idempotency::server) enum ClaimError {
    Store(StoreError),
    /// The key was claimed after a wait, but too many operations are running. The claim must be given up.
    TooMany,
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Claims the key. While another request holds it, tries again for `wait`.
pub(in crate::idempotency::server) async fn claim<Res, E: CallError>(
    engine: &Arc<Engine>,
    record: RecordKey,
    claim: Claim,
    running: &mut Running,
    caller: &mut Caller<Res, E>,
) -> Result<Begun, ClaimError> {
    let mut begun = begin(engine, record, claim).await?;
    if begun != Begun::Running || engine.config.wait.is_zero() || !running.wait(&engine.config) {
        return Ok(begun);
    }
    let until = Deadline::after(engine.config.wait);
    let mut pause = SOON;
    loop {
        let left = until.remaining(&Now::unread());
        if matches!(begun, Begun::Started { .. }) && !running.resume(&engine.config) {
            return Err(ClaimError::TooMany);
        }
        if begun != Begun::Running || left.is_zero() {
            return Ok(begun);
        }
        // Spread, because many requests may wait for the same key.
        let pause_now = draw().spread(pause, 0.2).min(left);
        tokio::select! {
            () = sleep(pause_now) => {}
            () = caller.left() => return Ok(begun),
        }
        pause = longer(pause);
        begun = match begin(engine, record, claim).await {
            // Another request is known to run, so this one must not fail open.
            Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                engine.store_failed(&error);
                return Ok(Begun::Running);
            }
            begun => begun?,
        };
    }
}

pub(in crate::idempotency::server) fn longer(pause: Duration) -> Duration {
    (pause * 2).min(Duration::from_secs(1))
}

/// Claims the key once. A claim whose result is unknown is given up in the background, because no handler will run under it.
async fn begin(engine: &Arc<Engine>, record: RecordKey, claim: Claim) -> Result<Begun, StoreError> {
    let store = Arc::clone(&engine.store);
    let mut begin = Box::pin(async move { store.begin(&record, &claim).await });
    let limit = engine.config.store_timeout;
    let begun = match timeout(limit, &mut begin).await {
        Ok(Err(error @ StoreError::Unavailable(_))) => Err((error, None)),
        Ok(begun) => return begun,
        Err(_) => Err((too_slow(limit), Some(begin))),
    };
    begun.map_err(|(error, late)| {
        // The number of these tasks is limited. Beyond the limit, the claim ends with its lease.
        if let Ok(place) = Arc::clone(&engine.giving_up).try_acquire_owned() {
            let engine = Arc::clone(engine);
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
                    give_up(&engine, &record, claim.token).await;
                }
            });
        }
        error
    })
}

/// Abandons a claim as soon as the store is available. If it is not within the lease, the claim ends with its lease.
pub(in crate::idempotency::server) async fn give_up(
    engine: &Engine,
    record: &RecordKey,
    token: Token,
) {
    let until = Deadline::after(engine.config.lease);
    let mut pause = SOON;
    while limited(engine, engine.store.abandon(record, token))
        .await
        .is_err()
    {
        if until.is_over(&Now::unread()) {
            break;
        }
        sleep(draw().spread(pause, 0.2)).await;
        // Exponential, because a store that recovers must not be called by all tasks at once.
        pause = pause.saturating_mul(2);
    }
}

/// Calls the store, for at most `store_timeout`.
pub(in crate::idempotency::server) async fn limited<T>(
    engine: &Engine,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let limit = engine.config.store_timeout;
    match timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(too_slow(limit)),
    }
}

fn too_slow(limit: Duration) -> StoreError {
    StoreError::unavailable(format!("no response within {limit:?} (`store_timeout`)"))
}

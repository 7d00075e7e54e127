//! A key is given free.

use std::time::Duration;

use tokio::time::sleep;

use super::claim::{SOON, limited};
use super::shared::Shared;
use crate::chance::draw;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::idempotency::record::{Begun, Claim, Ended, RecordKey};
use crate::idempotency::store::StoreError;

/// What is known of the run that a claim has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Nothing: the store's answer was lost. Nobody runs under it.
    Unknown,
    /// Its number, and that it had no effect.
    Idle(u32),
    /// The operation has had no effect in any run: the handler says so.
    DidNotHappen,
}

/// Gives the key of this claim free, in which nothing has happened.
///
/// The record of a first run is deleted. That of a later one stays, with its lease over: whether the runs before have acted is
/// not known still, and the next one has to know that there were some.
pub(super) async fn release(
    shared: &Shared,
    record: &RecordKey,
    claim: &Claim,
    run: Run,
) -> Result<Ended, StoreError> {
    let run = match run {
        Run::Unknown => match limited(shared, shared.store.begin(record, claim)).await? {
            Begun::Started { run } => Run::Idle(run),
            Begun::Running | Begun::Done(_) | Begun::Mismatch => return Ok(Ended::Lost),
        },
        known => known,
    };
    if matches!(run, Run::Idle(2..)) {
        let renewal = shared
            .store
            .renew(record, claim.token, Duration::ZERO, claim.ttl);
        if limited(shared, renewal).await? {
            return Ok(Ended::Taken);
        }
    }
    limited(shared, shared.store.abandon(record, claim.token)).await
}

/// Releases the key as soon as the store can be asked; its lease ends it if nothing else does.
pub(super) async fn give_up(shared: &Shared, record: &RecordKey, claim: &Claim, run: Run) {
    let until = Deadline::after(shared.config.lease);
    let mut pause = SOON;
    while release(shared, record, claim, run).await.is_err() {
        if until.is_over(&Now::unread()) {
            break;
        }
        sleep(draw().spread(pause, 0.2)).await;
        // Ever rarer: a store that comes back is not to be asked by everybody at once.
        pause = pause.saturating_mul(2);
    }
}

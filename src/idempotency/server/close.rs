//! The end of an operation: its record, and then its caller.

use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use tokio::time::sleep;

use super::answer::word;
use super::body::KeptBody;
use super::claim::{SOON, give_up, limited, longer};
use super::ending::{Ending, judge};
use super::handler::Came;
use super::operation::Operation;
use super::telling::Telling;
use crate::chance::draw;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::OperationStep;
use crate::idempotency::record::{Begun, Claim, Ended};
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;

/// What the caller is told once the record is written: the handler's result, or what is wrong.
pub(super) type First<Res, E> = Result<Result<Response<KeptBody<Res>>, E>, KeyProblem>;

/// Records what the handler came to, or forgets the operation, and then tells the caller.
pub(super) async fn close<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    came: Came<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    if let Some(record) = operation.committed() {
        operation.report(OperationStep::Completed);
        return telling.answer(shared, record, None);
    }
    let (ending, first) = judge(operation, came);
    // A request that is still queued inside must not act any more.
    operation.revoke();
    match ending {
        Ending::Stored(record) => complete(operation, claim, record, first, telling).await,
        Ending::Released => release(operation, first, telling).await,
        Ending::NotStored => end_lease(operation, claim, first, telling).await,
    }
}

async fn complete<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    mut record: Bytes,
    first: First<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    let give_up = Deadline::after(shared.config.max_run);
    let mut first = Some(first);
    let mut pause = SOON;
    loop {
        match completed(operation, &claim, &record).await {
            Ok(Ended::Taken) => {
                operation.report(OperationStep::Completed);
                return tell(operation, first, telling);
            }
            // A store that asks twice is told what it wrote the first time.
            Ok(Ended::Already(stored)) if stored == record => {
                operation.report(OperationStep::Completed);
                return tell(operation, first, telling);
            }
            Ok(Ended::Already(record)) => return telling.answer(shared, &record, None),
            Ok(Ended::Lost) => return telling.refuse(shared, KeyProblem::InProgress),
            // For this word there is room.
            Err(StoreError::Full(_)) if record.len() > word(KeyProblem::NotKept).len() => {
                record = word(KeyProblem::NotKept);
            }
            Err(error) => {
                shared.store_failed(&error);
                // It has happened, so the caller may know. The record follows as soon as the store takes it.
                tell(operation, first.take(), telling);
                if give_up.is_over(&Now::unread()) {
                    return operation.report(OperationStep::NotRecorded);
                }
                sleep(draw().spread(pause, 0.2)).await;
                pause = longer(pause);
                // A store that is full may still hold it.
                let (key, lease) = (operation.record(), claim.lease);
                let renewal = shared.store.renew(key, claim.token, lease, claim.ttl);
                let _ = limited(shared, renewal).await;
            }
        }
    }
}

/// Completes the record. One that is gone, or that another has taken over and lost as well, is claimed again for it: else the
/// operation could be run once more.
async fn completed(
    operation: &Operation,
    claim: &Claim,
    record: &Bytes,
) -> Result<Ended, StoreError> {
    let shared = operation.shared();
    let (key, store, ttl) = (operation.record(), &shared.store, shared.config.ttl);
    let complete = || {
        limited(
            shared,
            store.complete(key, claim.token, record.clone(), ttl),
        )
    };
    let ended = complete().await?;
    if ended != Ended::Lost {
        return Ok(ended);
    }
    match limited(shared, store.begin(key, claim)).await? {
        Begun::Started { .. } => complete().await,
        Begun::Done(record) => {
            operation.lost();
            Ok(Ended::Already(record))
        }
        Begun::Running | Begun::Mismatch => {
            operation.lost();
            Ok(Ended::Lost)
        }
    }
}

/// Releases the key: the operation did not happen.
async fn release<Res, E: CallError>(
    operation: &Operation,
    first: First<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    let abandon = shared.store.abandon(operation.record(), operation.token());
    match limited(shared, abandon).await {
        // A commit whose outcome was not known did happen.
        Ok(Ended::Already(record)) => return telling.answer(shared, &record, None),
        Ok(Ended::Taken | Ended::Lost) => operation.report(OperationStep::Forgotten),
        Err(error) => {
            shared.store_failed(&error);
            tell(operation, Some(first), telling);
            return give_up(shared, operation.record(), operation.token()).await;
        }
    }
    tell(operation, Some(first), telling);
}

/// Ends the lease without a record: the next request is the next run, at once.
async fn end_lease<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    first: First<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    let until = Deadline::after(claim.lease);
    let mut first = Some(first);
    let mut pause = SOON;
    loop {
        let key = operation.record();
        let renewal = shared
            .store
            .renew(key, claim.token, Duration::ZERO, claim.ttl);
        match limited(shared, renewal).await {
            Ok(_) => {
                operation.report(OperationStep::NotStored);
                return tell(operation, first, telling);
            }
            Err(error) => {
                shared.store_failed(&error);
                tell(operation, first.take(), telling);
                // By then the lease has ended by itself.
                if until.is_over(&Now::unread()) {
                    return;
                }
                sleep(draw().spread(pause, 0.2)).await;
                pause = pause.saturating_mul(2);
            }
        }
    }
}

fn tell<Res, E: CallError>(
    operation: &Operation,
    first: Option<First<Res, E>>,
    telling: &mut Telling<Res, E>,
) {
    match first {
        Some(Ok(result)) => telling.tell(result),
        Some(Err(problem)) => telling.refuse(operation.shared(), problem),
        None => {}
    }
}

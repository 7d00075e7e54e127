//! The end of an operation: its record, and then its caller.

use ::http::Response;
use bytes::Bytes;
use tokio::time::sleep;

use super::answer::{Kept, word};
use super::body::KeptBody;
use super::claim::{SOON, give_up, limited, longer};
use super::config::{IdempotencyConfig, StoragePolicy};
use super::handler::Came;
use super::keep::{OK, UNKNOWN, grpc_status, headers, keeps};
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
use crate::outcome::NotExecuted;

/// What the caller is told once the record is written: the handler's result, or what is wrong.
type First<Res, E> = Result<Result<Response<KeptBody<Res>>, E>, KeyProblem>;

/// Records what the handler came to, or forgets the operation, and then tells the caller.
pub(super) async fn close<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    came: Came<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    if let Some(record) = operation.committed() {
        shared.report(OperationStep::Completed);
        return telling.answer(shared, record, false);
    }
    let (record, first) = judge(operation, came);
    match record {
        Some(record) => complete(operation, claim, record, first, telling).await,
        None => abandon(operation, first, telling).await,
    }
}

/// What is recorded, if anything is, and what the caller is told.
fn judge<Res, E>(operation: &Operation, came: Came<Res, E>) -> (Option<Bytes>, First<Res, E>) {
    let config = &operation.shared().config;
    let (record, first) = match came {
        Came::Answered {
            head,
            body,
            trailers,
        } => {
            let response = Response::from_parts(head, ());
            let grpc = grpc_status(&response, trailers.as_ref(), UNKNOWN);
            let record = is_kept(config, &response, grpc).then(|| {
                let kept = Kept {
                    status: response.status(),
                    headers: headers(response.headers(), &config.headers, trailers.is_some()),
                    trailers: trailers.clone().unwrap_or_default(),
                    body: body.clone(),
                };
                kept.encode()
            });
            let response = response.map(|()| KeptBody::whole(body, trailers));
            (record, Ok(Ok(response)))
        }
        Came::TooLarge(response) => {
            // How it ends is not known yet. If it went well, it must not be done again.
            let grpc = grpc_status(&response, None, OK);
            let record = is_kept(config, &response, grpc).then(|| word(KeyProblem::NotKept));
            (record, Ok(Ok(response)))
        }
        Came::Refused(error) => (None, Ok(Err(error))),
        Came::Failed(error) => (failed(config.keep), Ok(Err(error))),
        Came::Word(KeyProblem::Failed) => (failed(config.keep), Err(KeyProblem::Failed)),
        // It may yet have its effect, whatever the policy.
        Came::Word(problem) => return (Some(word(problem)), Err(problem)),
    };
    (record.filter(|_| !operation.is_undone()), first)
}

fn failed(policy: StoragePolicy) -> Option<Bytes> {
    (policy == StoragePolicy::Definitive).then(|| word(KeyProblem::Failed))
}

fn is_kept<B>(config: &IdempotencyConfig, response: &Response<B>, grpc: Option<u8>) -> bool {
    // A layer inside has refused the call, so the handler was not called.
    let refused = response.extensions().get() == Some(&NotExecuted::Here);
    !refused && keeps(config.keep, response.status(), grpc)
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
                shared.report(OperationStep::Completed);
                return tell(operation, first, telling);
            }
            // A store that asks twice is told what it wrote the first time.
            Ok(Ended::Already(stored)) if stored == record => {
                shared.report(OperationStep::Completed);
                return tell(operation, first, telling);
            }
            Ok(Ended::Already(record)) => return telling.answer(shared, &record, false),
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
                    return shared.report(OperationStep::NotRecorded);
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

async fn abandon<Res, E: CallError>(
    operation: &Operation,
    first: First<Res, E>,
    telling: &mut Telling<Res, E>,
) {
    let shared = operation.shared();
    let abandon = shared.store.abandon(operation.record(), operation.token());
    match limited(shared, abandon).await {
        // A commit whose outcome was not known did happen.
        Ok(Ended::Already(record)) => return telling.answer(shared, &record, false),
        Ok(Ended::Taken | Ended::Lost) => shared.report(OperationStep::Forgotten),
        Err(error) => {
            shared.store_failed(&error);
            tell(operation, Some(first), telling);
            return give_up(shared, operation.record(), operation.token()).await;
        }
    }
    tell(operation, Some(first), telling);
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

//! The end of an operation: stored, released, or neither; its record, and then its caller.

use std::time::{Duration, SystemTime};

use ::http::response::Parts;
use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use tokio::time::sleep;

use super::body::StoredBody;
use super::caller::{Caller, REPLAYED};
use super::claim::{SOON, give_up, limited, longer};
use super::config::IdempotencyConfig;
use super::engine::Engine;
use super::handler::{Came, was_never_taken};
use super::operation::Operation;
use super::recorded::{StoredResponse, word};
use super::storage::{EXPIRES, OK, StoragePolicy, Stored, UNKNOWN, grpc_status, headers, stored};
use crate::chance::draw;
use crate::clock::{Now, wall};
use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::event::OperationStep;
use crate::idempotency::record::{Begun, Claim, Ended};
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;
use crate::outcome::Executed;

/// What the caller is told once the record is written: the handler's result, or what is wrong.
type First<Res, E> = Result<Result<Response<StoredBody<Res>>, E>, KeyProblem>;

/// Records what the handler came to, or forgets the operation, and then tells the caller.
pub(super) async fn close<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    came: Came<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let shared = operation.shared();
    if let Some(record) = operation.committed() {
        operation.report(OperationStep::Completed);
        return caller.answer(shared, record, None);
    }
    let (ending, first) = judge(operation, came);
    // A request that is still queued inside must not act any more.
    operation.revoke();
    match ending {
        Ending::Stored(record) => complete(operation, claim, record, first, caller).await,
        Ending::Released => release(operation, first, caller).await,
        Ending::NotStored => end_lease(operation, claim, first, caller).await,
    }
}

async fn complete<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    mut record: Bytes,
    first: First<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let shared = operation.shared();
    let give_up = Deadline::after(shared.config.max_run);
    let mut first = Some(first);
    let mut pause = SOON;
    loop {
        match completed(operation, &claim, &record).await {
            Ok(Ended::Taken) => {
                operation.report(OperationStep::Completed);
                return send_result(operation, first, caller);
            }
            // A store that asks twice is told what it wrote the first time.
            Ok(Ended::Already(stored)) if stored == record => {
                operation.report(OperationStep::Completed);
                return send_result(operation, first, caller);
            }
            Ok(Ended::Already(record)) => return caller.answer(shared, &record, None),
            Ok(Ended::Lost) => return caller.refuse(shared, KeyProblem::InProgress),
            // For this word there is room.
            Err(StoreError::Full(_)) if record.len() > word(KeyProblem::NotStored).len() => {
                record = word(KeyProblem::NotStored);
            }
            Err(error) => {
                shared.store_failed(&error);
                // It has happened, so the caller may know. The record follows as soon as the store takes it.
                send_result(operation, first.take(), caller);
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
    caller: &mut Caller<Res, E>,
) {
    let shared = operation.shared();
    let abandon = shared.store.abandon(operation.record(), operation.token());
    match limited(shared, abandon).await {
        // A commit whose outcome was not known did happen.
        Ok(Ended::Already(record)) => return caller.answer(shared, &record, None),
        Ok(Ended::Taken | Ended::Lost) => operation.report(OperationStep::Released),
        Err(error) => {
            shared.store_failed(&error);
            send_result(operation, Some(first), caller);
            return give_up(shared, operation.record(), operation.token()).await;
        }
    }
    send_result(operation, Some(first), caller);
}

/// Ends the lease without a record: the next request is the next run, at once.
async fn end_lease<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    first: First<Res, E>,
    caller: &mut Caller<Res, E>,
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
                return send_result(operation, first, caller);
            }
            Err(error) => {
                shared.store_failed(&error);
                send_result(operation, first.take(), caller);
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

fn send_result<Res, E: CallError>(
    operation: &Operation,
    first: Option<First<Res, E>>,
    caller: &mut Caller<Res, E>,
) {
    match first {
        Some(Ok(result)) => caller.send(result),
        Some(Err(problem)) => caller.refuse(operation.shared(), problem),
        None => {}
    }
}

/// How an operation ends.
enum Ending {
    /// With this record.
    Stored(Bytes),
    /// Nothing happened: the key is free, and no run is counted.
    Released,
    /// Nothing is stored, and it is not known what happened: the next request is the next run.
    NotStored,
}

/// How the operation ends, and what the caller receives.
fn judge<Res, E: CallError>(operation: &Operation, came: Came<Res, E>) -> (Ending, First<Res, E>) {
    let Engine {
        config, store_when, ..
    } = &**operation.shared();
    let happened = operation.has_happened();
    let stored = |head: &Parts, grpc| {
        if happened {
            return Stored::Response;
        }
        stored(operation.keep(), store_when.as_deref(), head, grpc)
    };
    let failed = || {
        let is_stored = happened || operation.keep() == StoragePolicy::Definitive;
        is_stored.then(|| word(KeyProblem::Failed))
    };
    let mut is_released = operation.is_undone() || was_never_taken(operation);
    let (record, first) = match came {
        Came::Answered {
            mut head,
            body,
            trailers,
        } => {
            head.headers.remove(REPLAYED);
            let grpc = grpc_status(&head, trailers.as_ref(), UNKNOWN);
            let stored = stored(&head, grpc);
            let record = if stored == Stored::Response {
                Some(recorded(config, &mut head, &body, trailers.as_ref()))
            } else {
                (stored == Stored::Unknown).then(|| word(KeyProblem::Unknown))
            };
            let response = Response::from_parts(head, StoredBody::whole(body, trailers));
            (record, Ok(Ok(response)))
        }
        Came::Unbuffered(response) => {
            let (mut head, body) = response.into_parts();
            head.headers.remove(REPLAYED);
            // How it ends is not known yet. If it succeeded, it must not be done again.
            let grpc = grpc_status(&head, None, OK);
            let record = match stored(&head, grpc) {
                Stored::Response => Some(word(KeyProblem::NotStored)),
                Stored::Unknown => Some(word(KeyProblem::Unknown)),
                Stored::Nothing => None,
            };
            (record, Ok(Ok(Response::from_parts(head, body))))
        }
        Came::Refused(error) => {
            is_released = true;
            (None, Ok(Err(error)))
        }
        Came::CallerLeft => {
            is_released = true;
            (None, Err(KeyProblem::InProgress))
        }
        Came::Failed(error) => {
            let is_refusal = error.rejected().is_some_and(asks_to_come_back);
            let record = failed().filter(|_| happened || !is_refusal);
            (record, Ok(Err(error)))
        }
        Came::Problem(KeyProblem::Failed) if is_released && !happened => {
            (None, Err(KeyProblem::NotExecuted))
        }
        Came::Problem(KeyProblem::Failed) => (failed(), Err(KeyProblem::Failed)),
        // It may yet have its effect, whatever the policy.
        Came::Problem(problem) => return (Ending::Stored(word(problem)), Err(problem)),
    };
    let ending = match record {
        Some(record) if happened || !is_released => Ending::Stored(record),
        _ if is_released => Ending::Released,
        _ => Ending::NotStored,
    };
    (ending, first)
}

/// The record of a response. If responses say when their key expires, this one does from now on.
pub(super) fn recorded(
    config: &IdempotencyConfig,
    head: &mut Parts,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Bytes {
    let mut headers = headers(&head.headers, &config.headers, trailers.is_some());
    if let Some(expires) = expires(config) {
        headers.insert(EXPIRES, expires.clone());
        head.headers.insert(EXPIRES, expires);
    }
    let kept = StoredResponse {
        status: head.status,
        headers,
        trailers: trailers.cloned().unwrap_or_default(),
        body: body.clone(),
    };
    kept.encode()
}

/// Whether this is a refusal whose response asks the client to come back, with 429 or 503. The handler may have passed on that
/// of a call which it made itself.
fn asks_to_come_back(rejected: &Rejected) -> bool {
    match &rejected.reason {
        Reason::Key(problem) => matches!(
            problem,
            KeyProblem::InProgress
                | KeyProblem::NotExecuted
                | KeyProblem::StoreUnavailable
                | KeyProblem::TooManyOperations
        ),
        Reason::AttemptTimeout { .. }
        | Reason::ConnectTimeout { .. }
        | Reason::HeaderTimeout { .. }
        | Reason::BodyIdle { .. }
        | Reason::Deadline
        | Reason::Policy(_) => false,
        _ => rejected.executed == Executed::No,
    }
}

/// When a response that is stored now is forgotten, if responses say so.
fn expires(config: &IdempotencyConfig) -> Option<HeaderValue> {
    if !config.expires_header {
        return None;
    }
    let time = wall().checked_add(config.ttl)?;
    // `httpdate` panics beyond the year 9999.
    let is_a_date = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|since| since.as_secs() < 253_402_300_800);
    let time = is_a_date.then(|| httpdate::fmt_http_date(time))?;
    HeaderValue::try_from(time).ok()
}

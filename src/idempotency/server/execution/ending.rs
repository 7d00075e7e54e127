//! The end of an operation: its result is stored, released or neither, and then sent to the caller.

use std::time::{Duration, SystemTime};

use ::http::response::Parts;
use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use tokio::time::sleep;

use crate::chance::draw;
use crate::clock::{Now, wall};
use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::event::OperationStep;
use crate::idempotency::record::{Begun, Claim, Ended};
use crate::idempotency::server::config::IdempotencyConfig;
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::execution::caller::{Caller, REPLAYED};
use crate::idempotency::server::execution::claim::{SOON, give_up, limited, longer};
use crate::idempotency::server::execution::handler::{HandlerOutcome, was_never_taken};
use crate::idempotency::server::operation::Operation;
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::server::response::recorded::{StoredResponse, problem_record};
use crate::idempotency::server::response::storage::{
    EXPIRES, OK, StoragePolicy, Stored, UNKNOWN, grpc_status, headers, stored,
};
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;
use crate::outcome::Executed;

/// The result for the caller, once the record is written.
type FirstResult<Res, E> = Result<Result<Response<StoredBody<Res>>, E>, KeyProblem>;

/// Records the result of the handler or releases the key, and then responds to the caller.
pub(in crate::idempotency::server) async fn close<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    outcome: HandlerOutcome<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let engine = operation.engine();
    if let Some(record) = operation.committed() {
        operation.report(OperationStep::Completed);
        return caller.respond(engine, record, None);
    }
    let (ending, first) = judge(operation, outcome);
    // A request that is still in a queue inside must not be executed after this.
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
    first: FirstResult<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let engine = operation.engine();
    let give_up = Deadline::after(engine.config.max_run);
    let mut first = Some(first);
    let mut pause = SOON;
    loop {
        match completed(operation, &claim, &record).await {
            Ok(Ended::Taken) => {
                operation.report(OperationStep::Completed);
                return send_result(operation, first, caller);
            }
            // A store that retries by itself finds the record that it wrote the first time.
            Ok(Ended::Already(stored)) if stored == record => {
                operation.report(OperationStep::Completed);
                return send_result(operation, first, caller);
            }
            Ok(Ended::Already(record)) => return caller.respond(engine, &record, None),
            Ok(Ended::Lost) => return caller.refuse(engine, KeyProblem::InProgress),
            // This record is smaller.
            Err(StoreError::Full(_))
                if record.len() > problem_record(KeyProblem::NotStored).len() =>
            {
                record = problem_record(KeyProblem::NotStored);
            }
            Err(error) => {
                engine.store_failed(&error);
                // The operation has happened, so the caller gets its response now. The record is written as soon as the store accepts it.
                send_result(operation, first.take(), caller);
                if give_up.is_over(&Now::unread()) {
                    return operation.report(OperationStep::NotRecorded);
                }
                sleep(draw().spread(pause, 0.2)).await;
                pause = longer(pause);
                // A store that is full may still renew the lease.
                let (key, lease) = (operation.record(), claim.lease);
                let renewal = engine.store.renew(key, claim.token, lease, claim.ttl);
                let _ = limited(engine, renewal).await;
            }
        }
    }
}

/// Completes the record. If the record is gone, or another holder has claimed it and lost it as well, it is claimed again:
/// otherwise the operation could run once more.
async fn completed(
    operation: &Operation,
    claim: &Claim,
    record: &Bytes,
) -> Result<Ended, StoreError> {
    let engine = operation.engine();
    let (key, store, ttl) = (operation.record(), &engine.store, engine.config.ttl);
    let complete = || {
        limited(
            engine,
            store.complete(key, claim.token, record.clone(), ttl),
        )
    };
    let ended = complete().await?;
    if ended != Ended::Lost {
        return Ok(ended);
    }
    match limited(engine, store.begin(key, claim)).await? {
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
    first: FirstResult<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let engine = operation.engine();
    let abandon = engine.store.abandon(operation.record(), operation.token());
    match limited(engine, abandon).await {
        // A commit with an unknown outcome did happen.
        Ok(Ended::Already(record)) => return caller.respond(engine, &record, None),
        Ok(Ended::Taken | Ended::Lost) => operation.report(OperationStep::Released),
        Err(error) => {
            engine.store_failed(&error);
            send_result(operation, Some(first), caller);
            return give_up(engine, operation.record(), operation.token()).await;
        }
    }
    send_result(operation, Some(first), caller);
}

/// Ends the lease without a response: the next request is the next run.
async fn end_lease<Res, E: CallError>(
    operation: &Operation,
    claim: Claim,
    first: FirstResult<Res, E>,
    caller: &mut Caller<Res, E>,
) {
    let engine = operation.engine();
    let until = Deadline::after(claim.lease);
    let mut first = Some(first);
    let mut pause = SOON;
    loop {
        let key = operation.record();
        let renewal = engine
            .store
            .renew(key, claim.token, Duration::ZERO, claim.ttl);
        match limited(engine, renewal).await {
            Ok(_) => {
                operation.report(OperationStep::NotStored);
                return send_result(operation, first, caller);
            }
            Err(error) => {
                engine.store_failed(&error);
                send_result(operation, first.take(), caller);
                // The lease has ended by now.
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
    first: Option<FirstResult<Res, E>>,
    caller: &mut Caller<Res, E>,
) {
    match first {
        Some(Ok(result)) => caller.send(result),
        Some(Err(problem)) => caller.refuse(operation.engine(), problem),
        None => {}
    }
}

/// How an operation ends.
enum Ending {
    /// With this record.
    Stored(Bytes),
    /// Nothing happened: the key is released, and no run is counted.
    Released,
    /// Nothing is stored, and whether the operation happened is unknown: the next request is the next run.
    NotStored,
}

/// How the operation ends, and the result for the caller.
fn judge<Res, E: CallError>(
    operation: &Operation,
    outcome: HandlerOutcome<Res, E>,
) -> (Ending, FirstResult<Res, E>) {
    let Engine {
        config, store_when, ..
    } = &**operation.engine();
    let happened = operation.has_happened();
    let stored = |head: &Parts, grpc| {
        if happened {
            return Stored::Response;
        }
        stored(operation.storage(), store_when.as_deref(), head, grpc)
    };
    let failed = || {
        let is_stored = happened || operation.storage() == StoragePolicy::Definitive;
        is_stored.then(|| problem_record(KeyProblem::Failed))
    };
    let mut is_released = operation.is_undone() || was_never_taken(operation);
    let (record, first) = match outcome {
        HandlerOutcome::Response {
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
                (stored == Stored::Unknown).then(|| problem_record(KeyProblem::Unknown))
            };
            let response = Response::from_parts(head, StoredBody::whole(body, trailers));
            (record, Ok(Ok(response)))
        }
        HandlerOutcome::Unbuffered(response) => {
            let (mut head, body) = response.into_parts();
            head.headers.remove(REPLAYED);
            // The stream may still succeed, and then the operation must not run again.
            let grpc = grpc_status(&head, None, OK);
            let record = match stored(&head, grpc) {
                Stored::Response => Some(problem_record(KeyProblem::NotStored)),
                Stored::Unknown => Some(problem_record(KeyProblem::Unknown)),
                Stored::Nothing => None,
            };
            (record, Ok(Ok(Response::from_parts(head, body))))
        }
        HandlerOutcome::Refused(error) => {
            is_released = true;
            (None, Ok(Err(error)))
        }
        HandlerOutcome::CallerLeft => {
            is_released = true;
            (None, Err(KeyProblem::InProgress))
        }
        HandlerOutcome::Failed(error) => {
            let is_refusal = error.rejected().is_some_and(invites_retry);
            let record = failed().filter(|_| happened || !is_refusal);
            (record, Ok(Err(error)))
        }
        HandlerOutcome::Problem(KeyProblem::Failed) if is_released && !happened => {
            (None, Err(KeyProblem::NotExecuted))
        }
        HandlerOutcome::Problem(KeyProblem::Failed) => (failed(), Err(KeyProblem::Failed)),
        // The handler may have acted, so this is stored whatever the policy.
        HandlerOutcome::Problem(problem) => {
            return (Ending::Stored(problem_record(problem)), Err(problem));
        }
    };
    let ending = match record {
        Some(record) if happened || !is_released => Ending::Stored(record),
        _ if is_released => Ending::Released,
        _ => Ending::NotStored,
    };
    (ending, first)
}

/// The record of a response. Adds `Idempotency-Expires` to the response if that is configured.
pub(in crate::idempotency::server) fn recorded(
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
    let stored = StoredResponse {
        status: head.status,
        headers,
        trailers: trailers.cloned().unwrap_or_default(),
        body: body.clone(),
    };
    stored.encode()
}

/// Whether the response to this rejection is 429 or 503, after which clients retry. The handler may have passed on the rejection
/// of a call of its own.
fn invites_retry(rejected: &Rejected) -> bool {
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

/// The value of `Idempotency-Expires` for a response that is stored now, if that is configured.
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

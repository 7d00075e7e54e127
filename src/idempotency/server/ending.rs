//! How an operation ends: stored, released, or neither.

use std::time::SystemTime;

use ::http::response::Parts;
use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;

use super::answer::{Kept, word};
use super::body::KeptBody;
use super::close::First;
use super::config::IdempotencyConfig;
use super::handler::{Came, was_never_taken};
use super::keep::{EXPIRES, OK, StoragePolicy, Stored, UNKNOWN, grpc_status, headers, stored};
use super::operation::Operation;
use super::shared::Shared;
use super::telling::REPLAYED;
use crate::clock::wall;
use crate::error::{CallError, Reason, Rejected};
use crate::key_problem::KeyProblem;
use crate::outcome::Executed;

/// How an operation ends.
pub(super) enum Ending {
    /// With this record.
    Stored(Bytes),
    /// Nothing happened: the key is free, and no run is counted.
    Released,
    /// Nothing is stored, and it is not known what happened: the next request is the next run.
    NotStored,
}

/// How the operation ends, and what the caller receives.
pub(super) fn judge<Res, E: CallError>(
    operation: &Operation,
    came: Came<Res, E>,
) -> (Ending, First<Res, E>) {
    let Shared {
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
            let response = Response::from_parts(head, KeptBody::whole(body, trailers));
            (record, Ok(Ok(response)))
        }
        Came::Unbuffered(response) => {
            let (mut head, body) = response.into_parts();
            head.headers.remove(REPLAYED);
            // How it ends is not known yet. If it succeeded, it must not be done again.
            let grpc = grpc_status(&head, None, OK);
            let record = match stored(&head, grpc) {
                Stored::Response => Some(word(KeyProblem::NotKept)),
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
        Came::Word(KeyProblem::Failed) if is_released && !happened => {
            (None, Err(KeyProblem::NotExecuted))
        }
        Came::Word(KeyProblem::Failed) => (failed(), Err(KeyProblem::Failed)),
        // It may yet have its effect, whatever the policy.
        Came::Word(problem) => return (Ending::Stored(word(problem)), Err(problem)),
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
    let kept = Kept {
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

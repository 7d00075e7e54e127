//! Sends the result of an operation to its caller.

use ::http::{HeaderValue, Response};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::CallError;
use crate::event::OperationStep;
use crate::idempotency::record::RecordKey;
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::server::response::recorded::Recorded;
use crate::key_problem::KeyProblem;

/// The result that the caller waits for.
type CallerResult<Res, E> = Result<Response<StoredBody<Res>>, E>;

/// Sends one result to the caller, if it still waits.
pub(in crate::idempotency::server) struct Caller<Res, E>(
    Option<oneshot::Sender<CallerResult<Res, E>>>,
);

impl<Res, E: CallError> Caller<Res, E> {
    pub(super) const fn new(caller: oneshot::Sender<CallerResult<Res, E>>) -> Self {
        Self(Some(caller))
    }

    pub(super) fn send(&mut self, result: CallerResult<Res, E>) {
        if let Some(caller) = self.0.take() {
            // If the caller has left, the next request gets the response from the record.
            let _ = caller.send(result);
        }
    }

    pub(super) fn refuse(&mut self, engine: &Engine, problem: KeyProblem) {
        self.send(Err(engine.refuse(problem).into()));
    }

    /// Responds with the record of an earlier request.
    pub(super) fn replay(&mut self, engine: &Engine, key: &RecordKey, record: &Bytes) {
        self.respond(engine, record, Some(key));
    }

    /// Responds with a record. `replay_of`: the record is of an earlier request.
    pub(super) fn respond(
        &mut self,
        engine: &Engine,
        record: &Bytes,
        replay_of: Option<&RecordKey>,
    ) {
        match Recorded::decode(record) {
            Ok(Recorded::Response(stored)) => {
                let mut response = stored.into_response();
                if let Some(key) = replay_of {
                    engine.report(OperationStep::Replayed, key, None);
                    let yes = HeaderValue::from_static("true");
                    response.headers_mut().insert(REPLAYED, yes);
                }
                self.send(Ok(response));
            }
            Ok(Recorded::Problem(problem)) => self.refuse(engine, problem),
            Err(error) => {
                engine.store_failed(&error);
                self.refuse(engine, KeyProblem::StoreUnavailable);
            }
        }
    }

    /// When the caller has left.
    pub(super) async fn left(&mut self) {
        match &mut self.0 {
            Some(caller) => caller.closed().await,
            None => std::future::pending().await,
        }
    }
}

/// Marks a response that was replayed from its record.
pub(in crate::idempotency::server) const REPLAYED: &str = "idempotent-replayed";

//! The way back to the caller.

use ::http::{HeaderValue, Response};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::body::StoredBody;
use super::engine::Engine;
use super::recorded::Recorded;
use crate::error::CallError;
use crate::event::OperationStep;
use crate::idempotency::record::RecordKey;
use crate::key_problem::KeyProblem;

/// What the caller waits for.
type CallerResult<Res, E> = Result<Response<StoredBody<Res>>, E>;

/// The way to the caller, if he is still there. He is told once.
pub(super) struct Caller<Res, E>(Option<oneshot::Sender<CallerResult<Res, E>>>);

impl<Res, E: CallError> Caller<Res, E> {
    pub(super) const fn new(caller: oneshot::Sender<CallerResult<Res, E>>) -> Self {
        Self(Some(caller))
    }

    pub(super) fn send(&mut self, result: CallerResult<Res, E>) {
        if let Some(caller) = self.0.take() {
            // He may have left; the record has what he asked for.
            let _ = caller.send(result);
        }
    }

    pub(super) fn refuse(&mut self, shared: &Engine, problem: KeyProblem) {
        self.send(Err(shared.refuse(problem).into()));
    }

    /// Gives the answer of an operation that was done before.
    pub(super) fn replay(&mut self, shared: &Engine, key: &RecordKey, record: &Bytes) {
        self.answer(shared, record, Some(key));
    }

    /// Gives a recorded answer. `replay_of`: the operation was done for an earlier request.
    pub(super) fn answer(
        &mut self,
        shared: &Engine,
        record: &Bytes,
        replay_of: Option<&RecordKey>,
    ) {
        match Recorded::decode(record) {
            Ok(Recorded::Response(kept)) => {
                let mut response = kept.into_response();
                if let Some(key) = replay_of {
                    shared.report(OperationStep::Replayed, key, None);
                    let yes = HeaderValue::from_static("true");
                    response.headers_mut().insert(REPLAYED, yes);
                }
                self.send(Ok(response));
            }
            Ok(Recorded::Problem(problem)) => self.refuse(shared, problem),
            Err(error) => {
                shared.store_failed(&error);
                self.refuse(shared, KeyProblem::StoreUnavailable);
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

/// Says that an answer was given before.
pub(super) const REPLAYED: &str = "idempotent-replayed";

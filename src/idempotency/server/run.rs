//! One operation, in a task of its own: from its claim to its record.

use std::sync::Arc;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use super::body::StoredBody;
use super::caller::Caller;
use super::claim::{ClaimError, claim, give_up, hold};
use super::config::AfterCrash;
use super::ending::close;
use super::engine::Engine;
use super::handler::{Came, handle, unprotected};
use super::operation::{Operation, Ticket};
use super::progress::Running;
use super::storage::StoragePolicy;
use crate::error::CallError;
use crate::event::OperationStep;
use crate::idempotency::record::{Begun, Claim, Fingerprint, RecordKey};
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;

/// What a request is known by.
pub(super) struct Asked {
    pub(super) key: String,
    pub(super) record: RecordKey,
    pub(super) fingerprint: Fingerprint,
    /// Which responses are stored.
    pub(super) storage: StoragePolicy,
    /// Whether it runs without protection when the store cannot be used.
    pub(super) fail_open: bool,
}

pub(super) async fn run<S, B, Res>(
    shared: Arc<Engine>,
    inner: S,
    mut request: Request<StoredBody<B>>,
    asked: Asked,
    mut running: Running,
    mut caller: Caller<Res, S::Error>,
) where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>> + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    let config = &shared.config;
    let wish = Claim::new(asked.fingerprint, config.lease, config.ttl);
    let run = match claim(&shared, asked.record, wish, &mut running, &mut caller).await {
        Ok(Begun::Started { run }) => run,
        Ok(Begun::Running) => return caller.refuse(&shared, KeyProblem::InProgress),
        Ok(Begun::Done(record)) => return caller.replay(&shared, &asked.record, &record),
        Ok(Begun::Mismatch) => return caller.refuse(&shared, KeyProblem::Reused),
        Err(ClaimError::TooMany) => {
            caller.refuse(&shared, KeyProblem::TooManyOperations);
            return give_up(&shared, &asked.record, wish.token).await;
        }
        Err(ClaimError::Store(error)) => {
            shared.store_failed(&error);
            if asked.fail_open && !matches!(error, StoreError::Unreadable(_)) {
                return caller.send(unprotected(&shared, inner, request).await);
            }
            return caller.refuse(&shared, KeyProblem::StoreUnavailable);
        }
    };
    let operation = Operation::new(Arc::clone(&shared), asked, wish.token, run);
    let came = if run > 1 && config.after_crash == AfterCrash::Refuse {
        Came::Problem(KeyProblem::Unknown)
    } else {
        operation.report(if run > 1 {
            OperationStep::TakenOver
        } else {
            OperationStep::Begun
        });
        let outer = request.extensions_mut().insert(Ticket::new(&operation));
        // The handler finds this operation only, so nothing proves any more that it did not act for the outer one.
        if let Some(outer) = outer {
            outer.take();
        }
        tokio::select! {
            biased;
            came = handle(&operation, inner, request, &mut caller) => came,
            never = hold(&operation, &wish) => match never {},
        }
    };
    close(&operation, wish, came, &mut caller).await;
}

//! The task of one operation: from its claim to its record.

use std::sync::Arc;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use crate::error::CallError;
use crate::event::OperationStep;
use crate::idempotency::record::{Begun, Claim};
use crate::idempotency::server::config::AfterCrash;
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::execution::caller::Caller;
use crate::idempotency::server::execution::claim::{ClaimError, claim, give_up};
use crate::idempotency::server::execution::ending::close;
use crate::idempotency::server::execution::handler::{HandlerOutcome, handle, unprotected};
use crate::idempotency::server::execution::lease::renew;
use crate::idempotency::server::execution::progress::Running;
use crate::idempotency::server::operation::{Operation, RunArgs, Ticket};
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;

pub(in crate::idempotency::server) async fn run<S, B, Res>(
    engine: Arc<Engine>,
    inner: S,
    mut request: Request<StoredBody<B>>,
    args: RunArgs,
    mut running: Running,
    mut caller: Caller<Res, S::Error>,
) where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>> + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    let config = &engine.config;
    let new_claim = Claim::new(args.fingerprint, config.lease, config.ttl);
    let run = match claim(&engine, args.record, new_claim, &mut running, &mut caller).await {
        Ok(Begun::Started { run }) => run,
        Ok(Begun::Running) => return caller.refuse(&engine, KeyProblem::InProgress),
        Ok(Begun::Done(record)) => return caller.replay(&engine, &args.record, &record),
        Ok(Begun::Mismatch) => return caller.refuse(&engine, KeyProblem::Reused),
        Err(ClaimError::TooMany) => {
            caller.refuse(&engine, KeyProblem::TooManyOperations);
            return give_up(&engine, &args.record, new_claim.token).await;
        }
        Err(ClaimError::Store(error)) => {
            engine.store_failed(&error);
            if args.fail_open && !matches!(error, StoreError::Unreadable(_)) {
                return caller.send(unprotected(&engine, inner, request).await);
            }
            return caller.refuse(&engine, KeyProblem::StoreUnavailable);
        }
    };
    let operation = Operation::new(Arc::clone(&engine), args, new_claim.token, run);
    let outcome = if run > 1 && config.after_crash == AfterCrash::Refuse {
        HandlerOutcome::Problem(KeyProblem::Unknown)
    } else {
        operation.report(if run > 1 {
            OperationStep::TakenOver
        } else {
            OperationStep::Begun
        });
        let outer = request.extensions_mut().insert(Ticket::new(&operation));
        // The handler only finds this operation, so the outer one counts as taken: nothing else shows whether it has acted.
        if let Some(outer) = outer {
            outer.take();
        }
        tokio::select! {
            biased;
            outcome = handle(&operation, inner, request, &mut caller) => outcome,
            never = renew(&operation, &new_claim) => match never {},
        }
    };
    close(&operation, new_claim, outcome, &mut caller).await;
}

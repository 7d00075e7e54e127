//! Operations without HTTP: message consumers, webhooks, jobs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::oneshot;
use tower_service::Service;

use crate::detach::detach;
use crate::error::{CallError, Reason, Rejected};
use crate::idempotency::record::Fingerprint;
use crate::idempotency::server::digest::digest;
use crate::idempotency::server::execution::caller::Caller;
use crate::idempotency::server::execution::run::run;
use crate::idempotency::server::layer::IdempotencyLayer;
use crate::idempotency::server::lookup::RecordOf;
use crate::idempotency::server::operation::Operation;
use crate::idempotency::server::operation::RunArgs;
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::server::response::storage::StoragePolicy;
use crate::key_problem::KeyProblem;

impl IdempotencyLayer {
    /// Executes an operation once for its key, without HTTP: for the consumer of a message queue that redelivers messages, a
    /// webhook, a job.
    ///
    /// The result is stored and returned to every later call with the same `scope` and `key`, which emits the step
    /// [`Replayed`](crate::event::OperationStep::Replayed). The `scope` separates keys of
    /// different origin, such as streams or tenants. The `fingerprint` must be equal in all calls with the key; use the payload of
    /// the message, or nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::BoxError;
    /// use buttress::idempotency::store::MemoryStore;
    /// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
    ///
    /// let once = IdempotencyLayer::new("consumer", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?;
    /// for _delivery in 1..=2 {
    ///     let (id, payload) = ("order-4711", "10 EUR");
    ///     let done = once
    ///         .run("orders", id, payload, |operation| async move {
    ///             // The provider's own key: the same if the operation runs again after a crash.
    ///             let key = operation.derived_key("provider");
    ///             # let _ = key;
    ///             Ok::<_, BoxError>("charged".into())
    ///         })
    ///         .await?;
    ///     assert_eq!(done, "charged");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The settings of the layer apply, except those about requests and responses: `header`, `required`, `accept_unquoted`, `methods`,
    /// `min_key_len`, `storage`, `headers`, `max_request_body`, `expires_header`. With `fail_open`, the operation is **not** executed
    /// when the store cannot be used: a queue delivers the message again.
    ///
    /// # Errors
    ///
    /// - The operation's own error. It is not stored, and it does not prove that nothing happened: the next call with the key runs
    ///   the operation again as run 2, or fails with `Unknown`, depending on [`AfterCrash`](crate::idempotency::server::AfterCrash). Call
    ///   [`did_not_happen`](Operation::did_not_happen) before to release the key, or [`happened`](Operation::happened) to store the
    ///   failure.
    /// - A [`Rejected`] with [`Reason::Key`]: `InProgress` while another call executes the operation (leave the message in the queue),
    ///   `Reused` for another fingerprint, `NotStored`, `Unknown`, `Failed`, `TooManyOperations`, `StoreUnavailable`, and `Missing` for
    ///   an empty key.
    ///
    /// # Cancel safety
    ///
    /// The operation runs in its own task. Dropping the future before the operation was started ends it and releases the key;
    /// dropping it later does not stop the operation.
    pub async fn run<F, E>(
        &self,
        scope: &str,
        key: &str,
        fingerprint: impl AsRef<[u8]>,
        operation: impl FnOnce(Operation) -> F + Send + 'static,
    ) -> Result<Bytes, E>
    where
        F: Future<Output = Result<Bytes, E>> + Send + 'static,
        E: CallError + Send + 'static,
    {
        let engine = &self.engine;
        if key.is_empty() {
            return Err(engine.refuse(KeyProblem::Missing).into());
        }
        let Some(running) = engine.progress.begin(scope, &engine.config) else {
            return Err(engine.refuse(KeyProblem::TooManyOperations).into());
        };
        let args = RunArgs {
            key: key.to_owned(),
            record: self.record(&RecordOf::run(scope, key)),
            fingerprint: Fingerprint(digest([fingerprint.as_ref()])),
            storage: StoragePolicy::SuccessOnly,
            fail_open: false,
        };
        let (caller, result) = oneshot::channel();
        let request = Request::new(StoredBody::<Empty<Bytes>>::default());
        detach(run(
            Arc::clone(engine),
            Once(Some(operation)),
            request,
            args,
            running,
            Caller::new(caller),
        ));
        // Without a response, the runtime is shutting down, or a store has panicked.
        let response = match result.await {
            Ok(result) => result?,
            Err(_) => return Err(engine.refuse(KeyProblem::InProgress).into()),
        };
        match response.into_body().collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(never) => match never {},
        }
    }
}

/// A service that is called once.
struct Once<O>(Option<O>);

type OnceFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, E>> + Send>>;

impl<O, F, E, B> Service<Request<B>> for Once<O>
where
    O: FnOnce(Operation) -> F,
    F: Future<Output = Result<Bytes, E>> + Send + 'static,
    E: CallError + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = E;
    type Future = OnceFuture<E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let taken = Operation::take(request.extensions()).ok().flatten();
        let Some((once, operation)) = self.0.take().zip(taken) else {
            let name: Arc<str> = "run".into();
            let rejected = Rejected::new(Reason::Key(KeyProblem::InProgress), name);
            return Box::pin(std::future::ready(Err(rejected.into())));
        };
        let result = once(operation);
        Box::pin(async move { Ok(Response::new(Full::new(result.await?))) })
    }
}

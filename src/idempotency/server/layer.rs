//! The layer and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::request::Parts;
use ::http::{Request, Response, response};
use bytes::Bytes;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::config::IdempotencyConfig;
use super::engine::{Compared, Engine};
use super::normalize::Normalize;
use super::scope::Scope;
use crate::error::{BoxError, CallError, ConfigError};
use crate::idempotency::server::execution::future::IdempotencyFuture;
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::store::Store;
use crate::key_problem::KeyProblem;
use crate::refused::drop_refused;

/// Executes each operation once, even if its request is sent more than once: for the handlers of an HTTP or gRPC server.
///
/// Use it for operations that must not be executed twice and whose clients can send a key, such as payments, orders and mails.
/// Do not use it for idempotent handlers, nor for streams: requests and responses are read whole, up to a limit. The
/// [store](crate::idempotency::store) decides what is guaranteed across restarts, processes and crashes.
///
/// ```text
///                       ┌ key, tenant, route ┐   ┌─────── in its own task ────────────┐
/// request ─► guarded? ─►│ parse, read body,  │──►│ begin ─► handler ─► complete       │──► response
///                       │ fingerprint        │   │   │        └ lease renewed         │
///              no ▼     └──────┬─────────────┘   └───┼────────────────────────────────┘
///           handler, as it is  ▼ 400 403 413         ├ running: 409, or wait
///                                                    ├ done: the same response, idempotent-replayed: true
///                                                    └ another fingerprint: 422
/// ```
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, http::StatusCode, routing::post};
/// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
/// use buttress::idempotency::store::MemoryStore;
///
/// async fn pay(operation: Operation, amount: String) -> (StatusCode, String) {
///     // The key for the provider: the same if this operation runs again after a crash.
///     let key = operation.derived_key("provider");
///     # let _ = key;
///     (StatusCode::CREATED, format!("paid {amount}"))
/// }
///
/// // For one client, or for clients that trust each other. Otherwise use `Scope::by` with the authenticated client.
/// let once = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?;
/// let app: Router = Router::new().route("/payments", post(pay)).layer(buttress::http::handle_rejections(once.clone()));
/// # let _ = app;
/// // … serve until shutdown, and then wait for the operations in progress:
/// once.idle().await;
/// # Ok(()) }
/// ```
///
/// Clones and their services share the store and the settings.
///
/// The inner service is called with `Request<StoredBody<B>>` in place of `Request<B>`. axum's routers and handlers accept it. Make
/// your own service generic over its body, or use [`StoredBody`](super::StoredBody).
///
/// # Guarantees
///
/// While leases hold, at most one of all requests with the same key, tenant, method and route runs at a time, across all processes
/// that share the store. All later requests get the recorded response, byte for byte. A caller that leaves, or a time limit
/// further out, ends the wait but not the operation. **If a process dies between the effect and its record,** it is unknown whether
/// the operation happened, and [`AfterCrash`](super::AfterCrash) decides whether it runs again. Only a handler that commits its
/// effect in the same transaction as the record closes this gap (`PostgresStore` of the crate `buttress-postgres`).
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | `header` | `idempotency-key` | the draft of the IETF's HTTP API working group |
/// | `required` | yes | without a key, an operation runs as often as it is sent |
/// | `accept_unquoted` | no | the draft requires a string in double quotes; turn it on for clients that send keys without quotes, as many do |
/// | `methods` | POST, PATCH | all other methods are idempotent. All gRPC calls are POST: select the methods that act with [`guard`](Self::guard) |
/// | `min_key_len` | 16 | a client that guesses a key gets the response of another client; a UUID has 36 characters |
/// | `ttl` | 24 h | as most providers; longer than clients retry automatically |
/// | `lease` | 90 s | after a crash, the key is held for this time. Renewed every third of it, so two renewals may fail |
/// | `max_run` | 10 min | longer than any handler should take: after it, the outcome is unknown |
/// | `wait` | 0 | clients that handle 409 with `Retry-After` need no wait |
/// | `store_timeout` | 1 s | a slow store should not hold up requests for longer |
/// | `max_request_body`, `max_response_body` | 1 MiB | both are held in memory, and the latter in the store |
/// | `storage` | [`Definitive`](super::StoragePolicy::Definitive) | a handler may have acted before its 500, so it does not run again |
/// | `headers` | all that are not about one exchange | retries get the same headers as the first request |
/// | `fail_open` | no | without the store, it is unknown which operations were executed |
/// | `after_crash` | [`RunAgain`](super::AfterCrash::RunAgain) | the handler can detect by [`run`](super::Operation::run) that the operation may have happened, and check |
/// | `max_running` | 1 000 | each operation may hold 2 MiB and a task, also after its client has left; a lower limit rejects requests earlier, with 503 |
/// | `max_running_per_tenant` | none | one tenant may use the whole limit; set it if tenants must not starve each other |
/// | `max_waiting` | 1 000 | requests that [`wait`](super::IdempotencyConfig::wait) for the result of another one hold their body in memory |
/// | `handlers_take_operation` | no | a handler that acts without taking its operation would act again |
/// | `expires_header` | no | `Idempotency-Expires` is not part of the draft |
///
/// # Order
///
/// Inside [`handle_rejections`](crate::http::handle_rejections()) (gRPC: [`handle_grpc_rejections`](crate::http::handle_grpc_rejections)), and inside the layers that
/// authenticate the caller. Put rate limits, load shedding and compression further out: requests that they reject do not reach this
/// layer, and a body that is compressed for one client is not stored for all.
///
/// A **time limit further out** bounds how long a caller waits: the caller receives 504, and the handler continues. A time limit
/// further in drops the handler halfway. Its 408 is stored as an unknown outcome, its 504 as a failure.
///
/// If a layer of this crate further in rejects a request (an open circuit, an expired deadline), the handler was not called, so the
/// key is released. The rejection of a foreign layer, or of a call that the handler made, proves nothing. A handler that forwards *its own request* (a reverse proxy) must forward it through [`http::client`](fn@crate::http::client),
/// or take its [`Operation`](super::Operation) first.
///
/// Put a concurrency limit further in into the same `ServiceBuilder` as this layer: then requests wait for it before they are read.
/// In a separate `.layer(…)` of an axum router the limit is not visible to this layer; set
/// [`handlers_take_operation`](super::IdempotencyConfig::handlers_take_operation), which ends the requests of clients that have left.
///
/// # Bad input
///
/// [`KeyProblem`](crate::KeyProblem) lists the problems. They are detected before the store is called.
///
/// | input | response |
/// |---|---|
/// | no key | 400, unless keys are optional |
/// | an empty header, `""`, a key too short or longer than 255 | 400 |
/// | not ASCII, a tab, an invalid escape | 400 |
/// | the header twice, also with half a key in each; a list; anything except one string | 400 |
/// | without quotes | 400; if `accept_unquoted`, the key itself, the same as in quotes |
/// | with parameters: `"key";v=1` | well-formed ones are ignored |
/// | no tenant | 403 |
/// | a body larger than `max_request_body` | 413; with a `Content-Length` it is not read at all |
/// | a body that ends early | 400 |
/// | a body that a layer further out cuts off | 413 for its size, 408 for its time |
/// | more operations in progress than `max_running` | 503 with `Retry-After`, before the body is read |
/// | the same key, another request | 422 |
///
/// # Failures of the server
///
/// | failure | response |
/// |---|---|
/// | the store is down, full, or slower than `store_timeout` at the claim | 503, or without protection if `fail_open`; 409 to requests that wait for the result of another one. A claim that was made is given up |
/// | … after the handler has responded | the response; writing its record is retried for `max_run`, while the lease is renewed |
/// | no room for a response | the response; 409 after that |
/// | an unreadable record, or one of a newer version | 503, even if `fail_open`: the operation may have been executed. Older versions are read |
/// | clock steps | leases and times are measured by the store; see there |
/// | the handler panics or returns an error, or its body fails | 500 and 500 after that, depending on `storage` |
/// | the handler never ends | it is dropped after `max_run`: 409, and 409 after that |
/// | a time limit inside responds 408 | 408, and 409 after that: the handler may have acted |
/// | the response invites a retry: 401, 407, 425, 429, 503 with `Retry-After` | not stored: the next request is run 2, or gets 409, depending on `after_crash` |
/// | the response is a stream: `text/event-stream`, an upgrade | passed through; 409 after that |
/// | the caller leaves before the handler is called | the key is released |
/// | the inner service never becomes ready | 504 after `max_run`; the key is released |
/// | the lease is lost, because the store could not be reached | the next request is run 2; run 1 cannot overwrite its record |
///
/// # Errors
///
/// The service rejects requests with [`Reason::Key`](crate::Reason::Key), and returns the handler's errors.
///
/// # Events
///
/// [`Event::Operation`](crate::event::Event::Operation) for each step of an operation, [`Event::Rejected`](crate::event::Event::Rejected) for
/// each request that is rejected, [`Event::StoreFailed`](crate::event::Event::StoreFailed), and
/// [`Event::InProgress`](crate::event::Event::InProgress) at each [`refresh`](crate::telemetry::refresh). Steps carry the
/// [id](super::Operation::id) of their operation, by which [`lookup`](super::lookup) finds its record. Keys and stored responses
/// never appear in events, logs or `Debug`.
///
/// # Cancel safety
///
/// If the caller leaves before the handler is called, the operation ends and the key is released. If it leaves later, the operation
/// continues, and the next request with its key gets the response. Operations in progress end with the runtime, as in a crash: wait
/// for [`idle`](Self::idle) before shutdown.
#[derive(Clone)]
pub struct IdempotencyLayer {
    pub(super) engine: Arc<Engine>,
}

impl IdempotencyLayer {
    /// Creates a layer. Its name is part of the keys of its records: use the same name in all processes that serve the same
    /// operations, and another name for other operations.
    ///
    /// # Errors
    ///
    /// An invalid setting, or a name that is empty or has control characters.
    pub fn new(
        name: &str,
        store: impl Store,
        scope: Scope,
        config: IdempotencyConfig,
    ) -> Result<Self, ConfigError> {
        ConfigError::check_name("idempotency", name)?;
        match Engine::new(name, Arc::new(store), scope, config) {
            Ok(engine) => Ok(Self {
                engine: Arc::new(engine),
            }),
            Err(error) => Err(error.of("idempotency", name)),
        }
    }

    /// Guards only requests for which this returns `true`, among those with a guarded method. All others pass through unchanged.
    ///
    /// The function receives the full path of a request, also in axum's nested routers (feature `axum`).
    #[must_use]
    pub fn guard(mut self, guards: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.engine).guards = Some(Arc::new(guards));
        self
    }

    /// Sets the route that a key belongs to, in place of the path: the same key on two routes identifies two operations. Use it if
    /// a path has more than one spelling. For a path with a parameter, use `route_by_matched_path` (feature `axum`).
    ///
    /// By default, a key belongs to the full path of the request and to the path that this layer sees, which differ if a router or
    /// a layer further out rewrites the path. With the feature `axum`, the full path is axum's `OriginalUri`, so nested routers
    /// need no `route`. For another router that strips prefixes, return a name for each route.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.engine).route = Some(Arc::new(route));
        self
    }

    /// Makes a key belong to the pattern of the matched route, such as `/orders/{id}/refunds`, including the prefixes of nested
    /// routers. Without a match, as in a fallback, a key belongs to the full path.
    ///
    /// A key then identifies one operation of the route for all parameters: a request for another order with a used key gets 422,
    /// because the fingerprint covers the path.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use buttress::http::handle_rejections;
    /// use buttress::idempotency::store::MemoryStore;
    /// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
    ///
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let layer = IdempotencyLayer::new("orders", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?
    ///     .route_by_matched_path();
    /// let app: Router = Router::new()
    ///     .route("/orders/{id}/refunds", post(async || "refunded"))
    ///     .route_layer(handle_rejections(layer));
    /// # let _ = app;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn route_by_matched_path(self) -> Self {
        self.route(
            |parts| match parts.extensions.get::<::axum::extract::MatchedPath>() {
                Some(path) => path.as_str().to_owned(),
                None => parts.uri.path().to_owned(),
            },
        )
    }

    /// Sets which differences to ignore between two requests with the same key, such as the order of members in JSON.
    ///
    /// By default method, full path, query, `content-type` and body must be equal, byte for byte, or the second request gets 422. See
    /// [`Normalize`] for the options, and [`fingerprint`](Self::fingerprint) for your own comparison. The last call of either wins.
    #[must_use]
    pub fn normalize(mut self, normalize: Normalize) -> Self {
        Arc::make_mut(&mut self.engine).compared = Compared::Normalized(normalize);
        self
    }

    /// Sets your own fingerprint: two requests with the same key must have the same one, or the second gets 422.
    ///
    /// The function receives the full path of a request, also in axum's nested routers (feature `axum`). Requests that differ only in
    /// parts that the fingerprint omits get the same stored response. [`Normalize::fingerprint`] omits nothing by default.
    #[must_use]
    pub fn fingerprint(
        mut self,
        fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.engine).compared = Compared::Custom(Arc::new(fingerprint));
        self
    }

    /// Decides for a response whether it is stored and replayed: `Some(true)` stores it, `Some(false)` does not, and `None` leaves
    /// the decision to [`StoragePolicy`](super::StoragePolicy).
    ///
    /// A response that is not stored does not prove that nothing happened: the next request with the key runs the operation as
    /// run 2 or is rejected, depending on [`AfterCrash`](super::AfterCrash). Not called if the handler has called
    /// [`did_not_happen`](super::Operation::did_not_happen) or [`happened`](super::Operation::happened).
    ///
    /// ```
    /// # use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
    /// # use buttress::idempotency::store::MemoryStore;
    /// let layer = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?
    ///     // The payment provider is down, and this service has done nothing by then.
    ///     .store_when(|response| (response.status == 502).then_some(false));
    /// # let _ = layer;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn store_when(
        mut self,
        store_when: impl Fn(&response::Parts) -> Option<bool> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.engine).store_when = Some(Arc::new(store_when));
        self
    }

    /// The settings.
    pub fn config(&self) -> &IdempotencyConfig {
        &self.engine.config
    }

    /// The number of operations in progress in this process, including requests that wait.
    pub fn running(&self) -> usize {
        self.engine.progress.running() + self.engine.progress.waiting()
    }

    /// The age of the oldest operation in progress in this process; `None` if there is none.
    pub fn oldest(&self) -> Option<Duration> {
        self.engine.progress.oldest()
    }

    /// Waits until no operation is in progress. Handlers continue after their callers have left and after the server has stopped
    /// accepting connections: wait for this before the process ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn idle(&self) {
        self.engine.progress.idle().await;
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engine.fmt(f)
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency {
            inner,
            engine: Arc::clone(&self.engine),
        }
    }
}

/// A service that executes each operation once. Created by [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    inner: S,
    engine: Arc<Engine>,
}

impl<S, B, Res> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<StoredBody<Res>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S, B, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !self.engine.methods.contains(request.method()) {
            return IdempotencyFuture::passing(self.inner.call(request.map(StoredBody::passing)));
        }
        let (mut parts, body) = request.into_parts();
        let key = if self.engine.guards(&mut parts) {
            self.engine.key(&mut parts)
        } else {
            Ok(None)
        };
        match key {
            Ok(None) => {
                let request = Request::from_parts(parts, StoredBody::passing(body));
                IdempotencyFuture::passing(self.inner.call(request))
            }
            Ok(Some((key, record, tenant))) => {
                let inner = self.release_readiness();
                let engine = Arc::clone(&self.engine);
                if let Some(running) = engine.progress.begin(&tenant, &engine.config) {
                    IdempotencyFuture::reading(engine, inner, parts, body, key, record, running)
                } else {
                    drop_refused((parts, body));
                    IdempotencyFuture::refused(engine.refuse(KeyProblem::TooManyOperations))
                }
            }
            Err(problem) => {
                self.release_readiness();
                drop_refused((parts, body));
                IdempotencyFuture::refused(self.engine.refuse(problem))
            }
        }
    }
}

impl<S: Clone> Idempotency<S> {
    /// Releases the readiness of the inner service, which may hold a permit, while the body is read and the store is called. The
    /// task polls its own clone again before it calls it.
    fn release_readiness(&mut self) -> S {
        let inner = self.inner.clone();
        self.inner = inner.clone();
        inner
    }
}

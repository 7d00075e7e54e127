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

use super::body::StoredBody;
use super::config::IdempotencyConfig;
use super::engine::{Compared, Engine};
use super::future::IdempotencyFuture;
use super::normalize::Normalize;
use super::scope::Scope;
use crate::error::{BoxError, CallError, ConfigError};
use crate::idempotency::store::Store;
use crate::key_problem::KeyProblem;
use crate::refused::drop_refused;

/// Runs an operation once, whatever is sent twice: in front of the handlers of an HTTP or gRPC server.
///
/// Use it where a repetition would do harm and the caller can send a key: payments, orders, mails. Not for handlers that are
/// idempotent by themselves, nor for streams: request and answer are read whole, up to a bound. It is as good as its
/// [store](crate::idempotency::store): what each promises across restarts, processes and crashes stands there.
///
/// ```text
///                       ┌ key, tenant, route ┐   ┌─────── in a task of its own ───────┐
/// request ─► guarded? ─►│ parse, read body,  │──►│ begin ─► handler ─► complete       │──► answer
///                       │ fingerprint        │   │   │        └ lease renewed         │
///              no ▼     └──────┬─────────────┘   └───┼────────────────────────────────┘
///           handler, as it is  ▼ 400 403 413         ├ running: 409, or wait
///                                                    ├ done: the same answer, idempotent-replayed: true
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
///     // The provider's own key: the same if this operation is run again after a crash.
///     let key = operation.derived_key("provider");
///     # let _ = key;
///     (StatusCode::CREATED, format!("paid {amount}"))
/// }
///
/// // One client, or many that trust each other; else `Scope::by` what authentication found out.
/// let once = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?;
/// let app: Router = Router::new().route("/payments", post(pay)).layer(buttress::http::handle_rejections(once.clone()));
/// # let _ = app;
/// // … serve until told to stop, and then let what is under way come to its end:
/// once.idle().await;
/// # Ok(()) }
/// ```
///
/// Clones, and the services they make, share the store and the settings.
///
/// The service inside is called with `Request<StoredBody<B>>` in place of `Request<B>`. Routers and handlers of axum take it as it is; a
/// service of your own is generic in its body, or takes [`StoredBody`](super::StoredBody).
///
/// # What it guarantees
///
/// While leases hold, of all requests with one key of one tenant, method and route at most one runs at a time, across processes if
/// they share the store. What was recorded is the answer to all that follow, byte for byte. A caller that leaves, or a time limit
/// further out, ends the wait and not the work. **A process that dies between the effect and its record** leaves an operation of
/// which nobody knows whether it happened: by [`AfterCrash`](super::AfterCrash) it is run again, or never. Only a handler that
/// commits its effect together with the record closes that gap (`PostgresStore`).
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | `header` | `idempotency-key` | the draft of the IETF's HTTP API working group |
/// | `required` | yes | without a key an operation is silently run as often as it is sent |
/// | `accept_unquoted` | no | the draft wants a string in double quotes; turn it on for clients that send it bare, as many do |
/// | `methods` | POST, PATCH | all others are idempotent by themselves. All of gRPC is POST: name the calls that act by [`guard`](Self::guard) |
/// | `min_key_len` | 16 | a key that can be guessed is another's answer; a UUID has 36 |
/// | `ttl` | 24 h | as most providers; longer than any client repeats by itself |
/// | `lease` | 90 s | after a crash the key is held for so long. Renewed every third of it, so two renewals may fail |
/// | `max_run` | 10 min | longer than any handler should take: past it nobody will ever know what it did |
/// | `wait` | 0 | a client that knows 409 with `Retry-After` needs none |
/// | `store_timeout` | 1 s | what cannot be looked up soon is refused soon |
/// | `max_request_body`, `max_response_body` | 1 MiB | both are held in memory, and the latter in the store |
/// | `storage` | [`Definitive`](super::StoragePolicy::Definitive) | a 500 does not say how far the handler came, so it is not run again |
/// | `headers` | all that are not about one exchange | what a client saw first it sees again |
/// | `fail_open` | no | without the store nobody knows what was done |
/// | `after_crash` | [`RunAgain`](super::AfterCrash::RunAgain) | the handler sees by [`run`](super::Operation::run) that it may have happened, and can look |
/// | `max_running` | 1 000 | each operation may hold 2 MiB and a task, also after its client has left; a lower limit rejects requests earlier, with 503 |
/// | `max_running_per_tenant` | none | one tenant may use the whole limit; set it if tenants must not crowd each other out |
/// | `max_waiting` | 1 000 | requests that [`wait`](super::IdempotencyConfig::wait) for the result of another one hold their body meanwhile |
/// | `handlers_take_operation` | no | a handler that acts without taking its operation would act again |
/// | `expires_header` | no | `Idempotency-Expires` is not part of the draft |
///
/// # Order
///
/// Inside [`answer`](crate::http::handle_rejections()) (gRPC: [`handle_grpc_rejections`](crate::http::handle_grpc_rejections)), and inside the layers that authenticate
/// the caller. Rate limits, load shedding and compression belong further out: a request that they reject does not reach this layer,
/// and a body that is compressed for one client is not stored for all.
///
/// A **time limit further out** bounds how long a caller waits: the caller receives 504, and the handler continues. A time limit
/// further in drops the handler half-way. Its 408 is stored as an unknown outcome, its 504 as a failure.
///
/// Layers of this crate further in may refuse a request (an open circuit, an expired deadline). That proves that the handler was not
/// called, so the key is released. A refusal by a foreign layer, or one that a handler passes on from a call of its own, proves
/// nothing. A handler that forwards *its own request* (a reverse proxy) must forward it through [`http::client`](fn@crate::http::client),
/// or take its [`Operation`](super::Operation) first.
///
/// A concurrency limit further in belongs into the same `ServiceBuilder` as this layer: then requests wait for it before they are read.
/// In a separate `.layer(…)` of an axum router the limit is not visible to this layer; set
/// [`handlers_take_operation`](super::IdempotencyConfig::handlers_take_operation), so that the requests of clients that have left end.
///
/// # Bad input
///
/// Each is answered as [`KeyProblem`](crate::KeyProblem) says, and before anything is looked up.
///
/// | input | answer |
/// |---|---|
/// | no key | 400, unless keys are optional |
/// | an empty header, `""`, a key too short or longer than 255 | 400 |
/// | not ASCII, a tab, an escape that is none | 400 |
/// | the header twice, even half a key in each; a list; anything else than one string | 400 |
/// | without quotes | 400; if `accept_unquoted`, the key itself, the same as in quotes |
/// | with parameters: `"key";v=1` | well-formed ones are ignored |
/// | no tenant | 403 |
/// | a body larger than the bound, with a length or without | 413; with a length it is not read at all |
/// | a body that breaks off | 400 |
/// | a body that a layer further out cuts off | 413 for its size, 408 for its time |
/// | more operations in progress than `max_running` | 503 with `Retry-After`, before the body is read |
/// | the same key, another request | 422 |
///
/// And what may be wrong on this side:
///
/// | trouble | answer |
/// |---|---|
/// | the store is down, full, or slower than `store_timeout` at the claim | 503, or without protection if `fail_open`; 409 to whoever waits for another's answer. A claim that was made after all is given up |
/// | … once the handler has answered | the answer; its record is tried again for `max_run`, the lease held meanwhile |
/// | no room for an answer | the answer; 409 from then on |
/// | garbage, or a record of a newer version | 503, even if `fail_open`: the operation may have been done. Older versions are read |
/// | clocks that step | leases and times are the store's own; see there |
/// | the handler panics or returns an error, or its body breaks off | 500 from then on, by `storage` |
/// | the handler never ends | dropped after `max_run`: 409 from then on |
/// | a time limit inside answers 408 | 408 first, 409 from then on: the handler may have acted |
/// | the handler asks to come back: 401, 407, 425, 429, 503 with `Retry-After` | not stored: the next request is run 2, or 409 by `after_crash` |
/// | the response is a stream: `text/event-stream`, an upgrade | passed through at once; 409 from then on |
/// | the caller leaves before the handler is called | the key is free |
/// | the handler is never called, since what is behind never becomes ready | 504 after `max_run`; the key is free |
/// | the lease is lost, because the store could not be reached for so long | the next request runs it, as run 2; the first cannot overwrite its record |
///
/// # Errors
///
/// Its service refuses with [`Reason::Key`](crate::Reason::Key) and passes the handler's errors on.
///
/// # Events
///
/// [`Event::Operation`](crate::event::Event::Operation) for each step of an operation, [`Event::Rejected`](crate::event::Event::Rejected) for
/// each request that is refused, [`Event::StoreFailed`](crate::event::Event::StoreFailed), and
/// [`Event::InProgress`](crate::event::Event::InProgress) at each [`refresh`](crate::telemetry::refresh). Steps carry the
/// [id](super::Operation::id) of their operation, by which [`lookup`](super::lookup) finds its record. Keys and stored responses
/// never appear in events, logs or `Debug`.
///
/// # Cancel safety
///
/// A caller that leaves before the handler is called ends the operation, and the key is free. Later the operation continues, and the
/// next request with its key gets the answer. When the runtime ends, what is under way ends with it, as in a crash: wait for [`idle`](Self::idle) before.
#[derive(Clone)]
pub struct IdempotencyLayer {
    pub(super) shared: Arc<Engine>,
}

impl IdempotencyLayer {
    /// A layer of this name, which is part of what its records are kept under: the same for all processes that serve the same
    /// operations, another for other ones.
    ///
    /// # Errors
    ///
    /// A setting that cannot work, or a name that is empty or has control characters.
    pub fn new(
        name: &str,
        store: impl Store,
        scope: Scope,
        config: IdempotencyConfig,
    ) -> Result<Self, ConfigError> {
        ConfigError::check_name("idempotency", name)?;
        match Engine::new(name, Arc::new(store), scope, config) {
            Ok(shared) => Ok(Self {
                shared: Arc::new(shared),
            }),
            Err(error) => Err(error.of("idempotency", name)),
        }
    }

    /// Guards only the requests for which this holds, of those with a guarded method. All others pass untouched.
    ///
    /// It sees the full path of a request, also in nested routers of axum (feature `axum`).
    #[must_use]
    pub fn guard(mut self, guards: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).guards = Some(Arc::new(guards));
        self
    }

    /// Sets what a key belongs to, instead of the path: the same key on two routes stands for two operations. Use it for a path
    /// that can be written in two ways. For a path with a parameter there is `route_by_matched_path` (feature `axum`).
    ///
    /// By default a key belongs to the full path of the request and to the path that this layer sees, which are two if a router
    /// or another layer further out rewrites the path. With the feature `axum` the full path is axum's `OriginalUri`, so nested
    /// routers need no `route`. With another router that cuts off prefixes, return here what tells its routes apart.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).route = Some(Arc::new(route));
        self
    }

    /// Makes a key belong to the pattern of the matched route, such as `/orders/{id}/refunds`, with the prefixes of nested routers; to
    /// the full path of a request without a match, as in a fallback.
    ///
    /// One key then stands for one operation of the route, whatever the parameters are: a request for another order with a used
    /// key gets 422, because the fingerprint covers the path.
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
    ///     .route_layer(answer(layer));
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

    /// Sets what to ignore when two requests with one key are compared: the order of members in JSON, the boundary of a multipart body and the like.
    ///
    /// By default method, full path, query, `content-type` and body must be equal, byte for byte, or the second request gets 422. See
    /// [`Normalize`] for what can be ignored, and [`fingerprint`](Self::fingerprint) for a comparison of your own. The last call of either
    /// wins.
    #[must_use]
    pub fn normalize(mut self, normalize: Normalize) -> Self {
        Arc::make_mut(&mut self.shared).compared = Compared::Normalized(normalize);
        self
    }

    /// Sets a fingerprint of your own: two requests with one key must have the same one, or the second gets 422.
    ///
    /// It sees the full path of a request, also in nested routers of axum (feature `axum`). What it leaves out is not compared: a request that differs
    /// only there gets the stored response of another. [`Normalize::fingerprint`] is a start that leaves out nothing.
    #[must_use]
    pub fn fingerprint(
        mut self,
        fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.shared).compared = Compared::Custom(Arc::new(fingerprint));
        self
    }

    /// Decides for a response whether it is stored and replayed: `Some(true)` stores it, `Some(false)` does not, and `None` leaves
    /// the decision to [`StoragePolicy`](super::StoragePolicy).
    ///
    /// A response that is not stored does not prove that nothing happened: the next request with the key runs the operation as
    /// run 2 or is refused, as [`AfterCrash`](super::AfterCrash) says. Not called if the handler has called
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
        Arc::make_mut(&mut self.shared).store_when = Some(Arc::new(store_when));
        self
    }

    /// The settings.
    pub fn config(&self) -> &IdempotencyConfig {
        &self.shared.config
    }

    /// How many operations are under way in this process.
    pub fn running(&self) -> usize {
        self.shared.progress.running() + self.shared.progress.waiting()
    }

    /// How long ago the oldest operation in progress in this process began; `None` if there is none.
    pub fn oldest(&self) -> Option<Duration> {
        self.shared.progress.oldest()
    }

    /// Waits until no operation is under way. Handlers go on when their callers leave, and when the server stops to listen:
    /// wait here, for as long as you can, before the process ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn idle(&self) {
        self.shared.progress.idle().await;
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A service that runs an operation once. Made by [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    inner: S,
    shared: Arc<Engine>,
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
        if !self.shared.methods.contains(request.method()) {
            return IdempotencyFuture::passing(self.inner.call(request.map(StoredBody::passing)));
        }
        let (mut parts, body) = request.into_parts();
        let key = if self.shared.guards(&mut parts) {
            self.shared.key(&mut parts)
        } else {
            Ok(None)
        };
        match key {
            Ok(None) => {
                let request = Request::from_parts(parts, StoredBody::passing(body));
                IdempotencyFuture::passing(self.inner.call(request))
            }
            Ok(Some((key, record, tenant))) => {
                let inner = self.give_readiness_back();
                let shared = Arc::clone(&self.shared);
                if let Some(running) = shared.progress.begin(&tenant, &shared.config) {
                    IdempotencyFuture::reading(shared, inner, parts, body, key, record, running)
                } else {
                    drop_refused((parts, body));
                    IdempotencyFuture::refused(shared.refuse(KeyProblem::TooManyOperations))
                }
            }
            Err(problem) => {
                self.give_readiness_back();
                drop_refused((parts, body));
                IdempotencyFuture::refused(self.shared.refuse(problem))
            }
        }
    }
}

impl<S: Clone> Idempotency<S> {
    /// What is ready may hold a place, which must not be kept while a body is read or a store is asked: the handler's service is
    /// polled again before it is called, if it is.
    fn give_readiness_back(&mut self) -> S {
        let inner = self.inner.clone();
        self.inner = inner.clone();
        inner
    }
}

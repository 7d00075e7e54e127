//! The layer and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::request::Parts;
use ::http::{HeaderName, Method, Request, Response};
use bytes::Bytes;
use http_body::Body;
use tokio::sync::{Semaphore, watch};
use tower_layer::Layer;
use tower_service::Service;

use super::body::KeptBody;
use super::config::IdempotencyConfig;
use super::digest::digest;
use super::future::IdempotencyFuture;
use super::policy::Policy;
use super::scope::Scope;
use crate::error::{CallError, ConfigError, Reason, Rejected};
use crate::event::{Event, OperationStep, Source, emit};
use crate::idempotency::key;
use crate::idempotency::record::{Fingerprint, RecordKey};
use crate::idempotency::store::{Store, StoreError};
use crate::key_problem::KeyProblem;

/// Runs an operation once, whatever is sent twice. See the [module](super).
///
/// Clones, and the services they make, share the store and the settings.
#[derive(Clone)]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

/// What all services of a layer share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) source: Arc<Source>,
    pub(super) store: Arc<dyn Store>,
    pub(super) scope: Scope,
    pub(super) config: IdempotencyConfig,
    pub(super) header: HeaderName,
    methods: Vec<Method>,
    pub(super) guards: Option<Arc<Guards>>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) fingerprint: Option<Arc<Print>>,
    /// How many operations are under way.
    pub(super) running: Arc<watch::Sender<usize>>,
    /// Places for claims that are being given up.
    pub(super) giving_up: Arc<Semaphore>,
}

pub(super) type Guards = dyn Fn(&Parts) -> bool + Send + Sync;
pub(super) type Route = dyn Fn(&Parts) -> String + Send + Sync;
pub(super) type Print = dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync;

impl IdempotencyLayer {
    /// A layer of this name, which is part of what its records are kept under: the same for all processes that serve the same
    /// operations, another for other ones.
    ///
    /// # Errors
    ///
    /// A setting that cannot work.
    pub fn new(
        name: &str,
        store: impl Store,
        scope: Scope,
        config: IdempotencyConfig,
    ) -> Result<Self, ConfigError> {
        let of = |error: ConfigError| error.of("idempotency", name);
        config.validate().map_err(of)?;
        let header = key::header_name("header", &config.header).map_err(of)?;
        let methods = config.methods.iter();
        let methods = methods.filter_map(|method| Method::from_bytes(method.as_bytes()).ok());
        Ok(Self {
            shared: Arc::new(Shared {
                source: Arc::new(Source::new("idempotency", name)),
                store: Arc::new(store),
                scope,
                header,
                methods: methods.collect(),
                config,
                guards: None,
                route: None,
                fingerprint: None,
                running: Arc::new(watch::Sender::new(0)),
                giving_up: Arc::new(Semaphore::new(GIVING_UP)),
            }),
        })
    }

    /// Guards only the requests for which this holds, of those with a guarded method. All others pass untouched.
    #[must_use]
    pub fn guard(mut self, guards: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).guards = Some(Arc::new(guards));
        self
    }

    /// What stands for the route in the place of the path: the same key on two routes stands for two operations. A path that is
    /// written in two ways, or a router that cuts off its beginning, wants one.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).route = Some(Arc::new(route));
        self
    }

    /// What must be equal in two requests with one key, or the second is refused with 422: by default method, path and query,
    /// `content-type` and body. For clients that write the same request in more than one way.
    #[must_use]
    pub fn fingerprint(
        mut self,
        fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.shared).fingerprint = Some(Arc::new(fingerprint));
        self
    }

    /// The settings.
    pub fn config(&self) -> &IdempotencyConfig {
        &self.shared.config
    }

    /// What its clients must know, made from the settings: to be served, or put into the service's documentation.
    pub fn policy(&self) -> Policy {
        Policy::new(Arc::clone(&self.shared))
    }

    /// How many operations are under way in this process.
    pub fn running(&self) -> usize {
        *self.shared.running.borrow()
    }

    /// Waits until no operation is under way. Handlers go on when their callers leave, and when the server stops to listen:
    /// wait here, for as long as you can, before the process ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn idle(&self) {
        let mut running = self.shared.running.subscribe();
        // An error would mean that the sender is gone, which this very layer holds.
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("name", self.source.name())
            .field("store", &self.store)
            .field("scope", &self.scope)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn guards(&self, parts: &Parts) -> bool {
        self.guards.as_ref().is_none_or(|guards| guards(parts))
    }

    /// The caller's key and what its record is kept under; `None`: to be served without protection.
    fn key(&self, parts: &Parts) -> Result<Option<(String, RecordKey)>, KeyProblem> {
        let config = &self.config;
        let key = key::received(
            &parts.headers,
            &self.header,
            config.shortest_key,
            config.lenient,
        );
        let Some(key) = key.map_err(KeyProblem::Malformed)? else {
            return if config.required {
                Err(KeyProblem::Missing)
            } else {
                Ok(None)
            };
        };
        let tenant = self.scope.tenant(parts).ok_or(KeyProblem::NoTenant)?;
        let route = match &self.route {
            Some(route) => route(parts),
            None => parts.uri.path().to_owned(),
        };
        let record = RecordKey(digest([
            self.source.name().as_bytes(),
            tenant.as_bytes(),
            parts.method.as_str().as_bytes(),
            route.as_bytes(),
            key.as_bytes(),
        ]));
        Ok(Some((key, record)))
    }

    pub(super) fn fingerprint(&self, parts: &Parts, body: &Bytes) -> Fingerprint {
        if let Some(print) = &self.fingerprint {
            return Fingerprint(digest([&print(parts, body)[..]]));
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let kind = parts.headers.get(::http::header::CONTENT_TYPE);
        Fingerprint(digest([
            parts.method.as_str().as_bytes(),
            path.as_bytes(),
            kind.map_or(&[], |kind| kind.as_bytes()),
            body,
        ]))
    }

    /// The refusal of a request, which is reported.
    pub(super) fn refuse(&self, problem: KeyProblem) -> Rejected {
        let wait = match problem {
            KeyProblem::InProgress | KeyProblem::StoreUnavailable => Some(RETRY_AFTER),
            _ => None,
        };
        let name = Arc::clone(self.source.name());
        let rejected = Rejected::new(Reason::Key(problem), name)
            .retry_after(wait)
            .executed(problem.executed());
        emit(&Event::Rejected {
            source: &self.source,
            rejected: &rejected,
        });
        rejected
    }
}

impl Shared {
    pub(super) fn report(&self, step: OperationStep) {
        emit(&Event::Operation {
            source: &self.source,
            step,
        });
    }

    pub(super) fn store_failed(&self, error: &StoreError) {
        emit(&Event::StoreFailed {
            source: &self.source,
            error,
        });
    }
}

/// The most claims that are given up at once, each in a task: while a store is down, every request would leave one.
const GIVING_UP: usize = 1024;

/// When it makes sense to ask again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency {
            inner,
            shared: Arc::clone(&self.shared),
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

/// A service that runs an operation once. Made by [`IdempotencyLayer`].
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, Res> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<KeptBody<B>>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<KeptBody<Res>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S, B, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !self.shared.methods.contains(request.method()) {
            return IdempotencyFuture::passing(self.inner.call(request.map(KeptBody::passing)));
        }
        let (parts, body) = request.into_parts();
        let key = if self.shared.guards(&parts) {
            self.shared.key(&parts)
        } else {
            Ok(None)
        };
        match key {
            Ok(None) => {
                let request = Request::from_parts(parts, KeptBody::passing(body));
                IdempotencyFuture::passing(self.inner.call(request))
            }
            Ok(Some((key, record))) => {
                let inner = self.give_readiness_back();
                let shared = Arc::clone(&self.shared);
                IdempotencyFuture::reading(shared, inner, parts, body, key, record)
            }
            Err(problem) => {
                self.give_readiness_back();
                IdempotencyFuture::refused(self.shared.refuse(problem))
            }
        }
    }
}

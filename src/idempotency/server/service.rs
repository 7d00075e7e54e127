//! The service.

use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use super::body::KeptBody;
use super::future::IdempotencyFuture;
use super::shared::Shared;
use crate::error::{BoxError, CallError};
use crate::key_problem::KeyProblem;
use crate::refused::drop_refused;

/// A service that runs an operation once. Made by [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Idempotency<S> {
    pub(super) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B, Res> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<KeptBody<B>>, Response = Response<Res>> + Clone + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<KeptBody<Res>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S, B, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !self.shared.guards_method(request.method()) {
            return IdempotencyFuture::passing(self.inner.call(request.map(KeptBody::passing)));
        }
        let (mut parts, body) = request.into_parts();
        let key = if self.shared.guards(&mut parts) {
            self.shared.key(&mut parts)
        } else {
            Ok(None)
        };
        match key {
            Ok(None) => {
                let request = Request::from_parts(parts, KeptBody::passing(body));
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

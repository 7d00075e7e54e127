//! Adds idempotency keys to requests.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::HeaderName;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::key::{self, DEFAULT_HEADER, Form};
use super::{GenerateKey, KeyedRequest};
use crate::call::CallOptions;
use crate::error::{CallError, ConfigError, Reason, Rejected};
use crate::key_problem::KeyProblem;

/// Adds an idempotency key to every call that is not idempotent by itself. See the [module](super).
#[derive(Clone, Debug)]
pub struct IdempotencyKeyLayer<M = bool> {
    header: HeaderName,
    form: Form,
    generate: M,
}

impl Default for IdempotencyKeyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl IdempotencyKeyLayer {
    /// Quoted keys in `idempotency-key`.
    pub const fn new() -> Self {
        Self {
            header: DEFAULT_HEADER,
            form: Form::Quoted,
            generate: true,
        }
    }
}

impl<M> IdempotencyKeyLayer<M> {
    /// Which calls get a generated key if their callers chose none: `true`, all of them (the default); `false`, none; or a
    /// function of the request, because a key is of no use to a server that ignores it.
    ///
    /// ```
    /// use buttress::idempotency::IdempotencyKeyLayer;
    /// use http::Request;
    ///
    /// let orders_only = IdempotencyKeyLayer::new()
    ///     .generate(|request: &Request<String>| request.uri().path().starts_with("/orders"));
    /// # let _ = orders_only;
    /// ```
    #[must_use]
    pub fn generate<N>(self, generate: N) -> IdempotencyKeyLayer<N> {
        IdempotencyKeyLayer {
            header: self.header,
            form: self.form,
            generate,
        }
    }

    /// The header that carries the key, such as `paypal-request-id`. Set [`Replay::key_header`] too.
    ///
    /// # Errors
    ///
    /// It is not a header name.
    ///
    /// [`Replay::key_header`]: crate::http::Replay::key_header
    pub fn header(mut self, name: &str) -> Result<Self, ConfigError> {
        self.header = key::header_name("header", name)?;
        Ok(self)
    }

    pub(crate) fn header_name(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Sends the key without quotes: for Stripe, Adyen and others that count them as part of the key.
    #[must_use]
    pub fn unquoted(mut self) -> Self {
        self.form = Form::Unquoted;
        self
    }
}

impl<S, M: Clone> Layer<S> for IdempotencyKeyLayer<M> {
    type Service = IdempotencyKey<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyKey {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose calls carry keys. Made by [`IdempotencyKeyLayer`].
#[derive(Clone, Debug)]
pub struct IdempotencyKey<S, M = bool> {
    inner: S,
    layer: IdempotencyKeyLayer<M>,
}

impl<S, M, Req> Service<Req> for IdempotencyKey<S, M>
where
    S: Service<Req> + Clone,
    S::Error: CallError,
    Req: KeyedRequest,
    M: GenerateKey<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = IdempotencyKeyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let state = match self.layer.equip(&mut request) {
            Ok(Origin::Options) => {
                let _hidden = CallOptions::hide_taken_key();
                State::Running(self.inner.call(request))
            }
            Ok(Origin::Elsewhere) => {
                let _hidden = CallOptions::hide_key();
                State::Running(self.inner.call(request))
            }
            Err(reason) => {
                // The clone releases the readiness of the inner service for a call that is not made.
                self.inner = self.inner.clone();
                let name = self.layer.header.as_str();
                State::Refused(Some(Rejected::new(reason, name)))
            }
        };
        IdempotencyKeyFuture { state }
    }
}

/// Where the key of a request comes from, if it has one.
enum Origin {
    /// The options of the call.
    Options,
    /// The request itself, or the layer; or there is none.
    Elsewhere,
}

impl<M> IdempotencyKeyLayer<M> {
    /// Adds a key to the request, unless it needs none or has one.
    fn equip<R: KeyedRequest>(&self, request: &mut R) -> Result<Origin, Reason>
    where
        M: GenerateKey<R>,
    {
        if !request.wants_key() || request.headers_mut().contains_key(&self.header) {
            return Ok(Origin::Elsewhere);
        }
        let (key, origin) = match CallOptions::current_key() {
            Some(scoped) => {
                let key = key::given(scoped.text(), self.form);
                let key = key.map_err(|why| Reason::Policy(why.into()))?;
                if !scoped.claim() {
                    return Err(Reason::Key(KeyProblem::SecondCall));
                }
                (key, Origin::Options)
            }
            None if self.generate.generates(request) => {
                (key::generated(self.form), Origin::Elsewhere)
            }
            None => return Ok(Origin::Elsewhere),
        };
        request.headers_mut().insert(self.header.clone(), key);
        Ok(origin)
    }
}

/// The future of the service of [`IdempotencyKeyLayer`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct IdempotencyKeyFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = Projected)]
#[derive(Debug)]
enum State<F> {
    Running(#[pin] F),
    /// `None` once it was returned.
    Refused(Option<Rejected>),
}

impl<F, Res, E> Future for IdempotencyKeyFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: CallError,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        match state.as_mut().project() {
            Projected::Running(future) => {
                let hidden = CallOptions::hide_key();
                let polled = future.poll(cx);
                drop(hidden);
                if polled.is_ready() {
                    state.set(State::Refused(None));
                }
                polled
            }
            Projected::Refused(rejected) => {
                let rejected = rejected.take();
                let rejected = rejected.expect("`IdempotencyKeyFuture` polled after completion");
                Poll::Ready(Err(rejected.into()))
            }
        }
    }
}

//! Layers around a service that never fails: rejections become responses.

use crate::http::client::stack_error::IntoStackError;
use crate::http::reject::Respond;
use crate::http::reject::response::Problem;
use crate::http::reject::retry_headers::{mark_passed, mark_refused, veto, watch_spent};
use crate::http::request::HttpRequest;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Method, Response};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Error, Rejected};
use crate::outcome::Executed;

/// Puts layers of this crate around a service whose error is `Infallible`, such as an axum router or handler, and turns their
/// rejections into responses. The error stays `Infallible`, so axum needs no `HandleErrorLayer`.
///
/// ```
/// use axum::{Router, routing::get};
/// use buttress::timeout::TimeoutLayer;
/// use std::time::Duration;
///
/// let app: Router = Router::new()
///     .route("/orders", get(|| async { "none yet" }))
///     .layer(buttress::http::handle_rejections(TimeoutLayer::new("orders", Duration::from_secs(2))));
/// # let _ = app;
/// ```
///
/// For several layers, pass a tuple or a `tower::ServiceBuilder`. The first of them is the outermost.
///
/// # Responses
///
/// | rejection | status |
/// |---|---|
/// | an open circuit, a policy that rejected the call | 503 |
/// | a quota that is used up | 429, with `RateLimit` and `RateLimit-Policy` |
/// | a time limit: attempt, connection, head, body, deadline | 504 |
///
/// If the wait is known, `Retry-After` has it in whole seconds, rounded up and at most 68 years. The body is
/// `application/problem+json` (RFC 9457) whose `detail` is the rejection's message: it names the layer and its wait. The
/// response's body must be `From<String>`, as axum's and `http_body_util::Full` are. The response to a HEAD request has the
/// `Content-Length` of that body, and no body.
///
/// The rejection of a call that was not executed is marked in the response's extensions, where [`ByStatus`](crate::http::ByStatus)
/// finds it: an outer gate does not count it as a failure of the service. To report it to clients, see
/// [`HandleRejectionsLayer::not_executed_header`].
///
/// An error of the service itself is returned unchanged.
///
/// # Cancel safety
///
/// Dropping the future drops the call inside.
pub const fn handle_rejections<L>(layers: L) -> HandleRejectionsLayer<L> {
    HandleRejectionsLayer::new(layers, Problem)
}

/// The layer of [`handle_rejections`].
#[derive(Clone, Copy, Debug, Default)]
pub struct HandleRejectionsLayer<L, R = Problem> {
    layers: L,
    responder: Responder<R>,
}

/// Turns rejections into responses.
#[derive(Clone, Copy, Debug, Default)]
struct Responder<R> {
    respond: R,
    /// Whether `x-buttress-not-executed` is sent.
    marks: bool,
    /// Whether `x-should-retry: false` is sent.
    should_retry: bool,
}

impl<L, R> HandleRejectionsLayer<L, R> {
    pub(in crate::http) const fn new(layers: L, respond: R) -> Self {
        Self {
            layers,
            responder: Responder {
                respond,
                marks: false,
                should_retry: false,
            },
        }
    }

    /// Whether the response to a call that was not executed carries `x-buttress-not-executed: 1`. Default: no.
    ///
    /// A client that trusts it ([`TrustNotExecutedLayer`](crate::http::TrustNotExecutedLayer)) may then retry even a POST. The header
    /// concerns one hop: it is always removed from the service's own responses, which may come from another server.
    #[must_use]
    pub const fn not_executed_header(mut self, not_executed_header: bool) -> Self {
        self.responder.marks = not_executed_header;
        self
    }

    /// Whether a response of 500 and above carries `x-should-retry: false` if a retry layer inside, around the calls that the
    /// service makes, has spent its attempts or its budget. Default: no.
    ///
    /// Three attempts in each of three tiers are 27 attempts at the last one, so only one tier should retry. A
    /// `x-should-retry` that the service sets is not changed. Calls that the service makes from another task do not count.
    #[must_use]
    pub const fn should_retry_header(mut self, should_retry_header: bool) -> Self {
        self.responder.should_retry = should_retry_header;
        self
    }
}

impl<S, L: Layer<IntoStackError<S>>, R: Clone> Layer<S> for HandleRejectionsLayer<L, R> {
    type Service = HandleRejections<L::Service, R>;

    fn layer(&self, inner: S) -> Self::Service {
        HandleRejections {
            inner: self.layers.layer(IntoStackError::new(inner)),
            responder: self.responder.clone(),
            refused: None,
        }
    }
}

/// A service whose rejections become responses. Made by [`handle_rejections`].
#[derive(Debug)]
pub struct HandleRejections<S, R = Problem> {
    inner: S,
    responder: Responder<R>,
    /// The rejection from `poll_ready`, for the next call.
    refused: Option<Rejected>,
}

/// A clone was not polled, so it has no rejection.
impl<S: Clone, R: Clone> Clone for HandleRejections<S, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            responder: self.responder.clone(),
            refused: None,
        }
    }
}

impl<S, Req, B, E, R> Service<Req> for HandleRejections<S, R>
where
    S: Service<Req, Response = Response<B>, Error = Error<E>>,
    R: Respond<B> + Clone,
    Req: HttpRequest,
{
    type Response = Response<R::Body>;
    type Error = E;
    type Future = HandleRejectionsFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.refused = match ready!(self.inner.poll_ready(cx)) {
            Ok(()) => None,
            Err(Error::Rejected(rejected)) => Some(rejected),
            Err(Error::Inner(error)) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let is_head = *request.method() == Method::HEAD;
        HandleRejectionsFuture {
            state: match self.refused.take() {
                Some(rejected) => State::Refused(Some(rejected)),
                None => State::Running(self.inner.call(request)),
            },
            responder: self.responder.clone(),
            is_head,
            spent_below: false,
        }
    }
}

/// The future of a service of [`HandleRejectionsLayer`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct HandleRejectionsFuture<F, R = Problem> {
    #[pin]
    state: State<F>,
    responder: Responder<R>,
    /// Whether it is the response to a HEAD request.
    is_head: bool,
    /// Whether a retry layer inside has given up.
    spent_below: bool,
}

#[pin_project(project = Projected)]
#[derive(Debug)]
enum State<F> {
    Running(#[pin] F),
    /// `None` once it was returned, and after any other result.
    Refused(Option<Rejected>),
}

impl<F, B, E, R> Future for HandleRejectionsFuture<F, R>
where
    F: Future<Output = Result<Response<B>, Error<E>>>,
    R: Respond<B>,
{
    type Output = Result<Response<R::Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let responder = &*this.responder;
        let to = |rejected: &Rejected| responder.to(rejected, *this.is_head);
        let mut response = match this.state.as_mut().project() {
            Projected::Refused(rejected) => {
                let rejected = rejected.take();
                to(&rejected.expect("`HandleRejectionsFuture` polled after completion"))
            }
            Projected::Running(future) => {
                let polled = if responder.should_retry {
                    let (polled, spent) = watch_spent(|| future.poll(cx));
                    *this.spent_below |= spent;
                    polled
                } else {
                    future.poll(cx)
                };
                let result = ready!(polled);
                this.state.set(State::Refused(None));
                match result {
                    Ok(mut response) => {
                        mark_passed(&mut response, responder.marks);
                        responder.respond.pass(response)
                    }
                    Err(Error::Rejected(rejected)) => to(&rejected),
                    Err(Error::Inner(error)) => return Poll::Ready(Err(error)),
                }
            }
        };
        if *this.spent_below {
            veto(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}

impl<R> Responder<R> {
    fn to<B>(&self, rejected: &Rejected, is_head: bool) -> Response<R::Body>
    where
        R: Respond<B>,
    {
        let mut response = if is_head {
            self.respond.respond_to_head(rejected)
        } else {
            self.respond.respond(rejected)
        };
        if rejected.executed == Executed::No {
            mark_refused(&mut response, self.marks);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::http::ByStatus;
    use crate::outcome::{Outcome, RetryAdvice};

    #[test]
    fn only_a_call_that_was_not_executed_is_marked_so() {
        let open = Rejected::new(Reason::CircuitOpen, "orders");
        let meaning = |rejected| {
            let response = Responder::<Problem>::default().to::<String>(&rejected, false);
            ByStatus::new().response(&response)
        };
        let refused = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
        assert_eq!(meaning(open.clone()), refused);
        assert_eq!(meaning(open.executed(Executed::Maybe)), Outcome::TRANSIENT);
    }
}

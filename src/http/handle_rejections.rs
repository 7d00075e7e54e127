//! Layers around a service that never fails: rejections become responses.

use super::lift::Lift;
use super::marks::{mark_passed, mark_refused, veto, watch_spent};
use super::problem::Problem;
use super::request::HttpRequest;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Method, Response};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Error, Rejected};
use crate::outcome::Executed;

/// Puts layers of this crate around a service whose error is `Infallible`, such as an axum router or handler, and answers
/// their rejections as responses. The error stays `Infallible`, so axum needs no `HandleErrorLayer`.
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
/// Several layers go in as one: a tuple, or a `tower::ServiceBuilder`. The first of them is the outermost.
///
/// # The answers
///
/// | rejection | status |
/// |---|---|
/// | an open circuit, a policy that refused | 503 |
/// | a quota that is used up | 429, with `RateLimit` and `RateLimit-Policy` |
/// | a time limit: attempt, connection, head, body, deadline | 504 |
///
/// With `Retry-After` in whole seconds, rounded up and 68 years at most, if the wait is known. The body is
/// `application/problem+json` (RFC 9457) whose `detail` is the rejection's message: it names the layer and its wait. The
/// response's body must be `From<String>`, as axum's and `http_body_util::Full` are. The response to a HEAD request has the
/// `Content-Length` of that body, and no body.
///
/// A rejection that kept the call from being executed is marked as such in the response's extensions, where
/// [`ByStatus`](super::ByStatus) finds it: a gate further out does not count our own refusals against the service. Clients
/// are told only by choice: [`HandleRejectionsLayer::not_executed_header`].
///
/// An error of the service's own, if it can have one, is passed on untouched.
///
/// # Cancel safety
///
/// Dropping the future drops the call inside.
pub const fn handle_rejections<L>(layers: L) -> HandleRejectionsLayer<L> {
    HandleRejectionsLayer::new(layers, Problem)
}

/// How a rejection becomes a response. What each responder answers is told where it is made.
pub trait Respond<B> {
    /// The body of all responses.
    type Body;

    /// The response to a call that was rejected.
    fn respond(&self, rejected: &Rejected) -> Response<Self::Body>;

    /// The response to a HEAD request that was rejected: the same, without a body.
    fn respond_to_head(&self, rejected: &Rejected) -> Response<Self::Body> {
        self.respond(rejected)
    }

    /// The service's own response.
    fn pass(&self, response: Response<B>) -> Response<Self::Body>;
}

/// Made by [`handle_rejections`].
#[derive(Clone, Copy, Debug, Default)]
pub struct HandleRejectionsLayer<L, R = Problem> {
    layers: L,
    respond: R,
    /// Whether a refusal says on the wire that nothing was executed.
    marks: bool,
    /// Whether a failure whose retries are spent asks the client not to retry.
    should_retry: bool,
}

impl<L, R> HandleRejectionsLayer<L, R> {
    pub(super) const fn new(layers: L, respond: R) -> Self {
        Self {
            layers,
            respond,
            marks: false,
            should_retry: false,
        }
    }

    /// Whether an answer to a call that was not executed says so to the client, as `x-buttress-not-executed: 1`. Default: no.
    ///
    /// Then a client that believes it ([`TrustNotExecutedLayer`](super::TrustNotExecutedLayer)) may repeat even a POST. The header is about one
    /// hop: one that the service itself has on a response, perhaps from a server further on, is taken off in any case.
    #[must_use]
    pub const fn not_executed_header(mut self, not_executed_header: bool) -> Self {
        self.marks = not_executed_header;
        self
    }

    /// Whether a response of 500 and above carries `x-should-retry: false` if a retry layer inside, around the calls that the
    /// service makes, has spent its attempts or its budget. Default: no.
    ///
    /// Three attempts at each of three services in a row are 27 at the last one: one tier that retries is enough. The
    /// service's own `x-should-retry` stays. A call that the service makes from another task is not seen.
    #[must_use]
    pub const fn should_retry_header(mut self, should_retry_header: bool) -> Self {
        self.should_retry = should_retry_header;
        self
    }
}

impl<S, L: Layer<Lift<S>>, R: Clone> Layer<S> for HandleRejectionsLayer<L, R> {
    type Service = HandleRejections<L::Service, R>;

    fn layer(&self, inner: S) -> Self::Service {
        HandleRejections {
            inner: self.layers.layer(Lift::new(inner)),
            respond: self.respond.clone(),
            marks: self.marks,
            should_retry: self.should_retry,
            refused: None,
        }
    }
}

/// Answers the rejections of the layers inside. Made by [`handle_rejections`].
#[derive(Debug)]
pub struct HandleRejections<S, R = Problem> {
    inner: S,
    respond: R,
    /// Whether a refusal says on the wire that nothing was executed.
    marks: bool,
    /// Whether a failure whose retries are spent asks the client not to retry.
    should_retry: bool,
    /// What `poll_ready` came to: the answer to the next call.
    refused: Option<Rejected>,
}

/// A clone was not polled, so it inherits no answer.
impl<S: Clone, R: Clone> Clone for HandleRejections<S, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            respond: self.respond.clone(),
            marks: self.marks,
            should_retry: self.should_retry,
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
            respond: self.respond.clone(),
            marks: self.marks,
            is_head,
            spent_below: self.should_retry.then_some(false),
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
    respond: R,
    /// Whether a refusal says on the wire that nothing was executed.
    marks: bool,
    /// Whether it is the response to a HEAD request.
    is_head: bool,
    /// Whether a retry layer inside has given up, if the client is to be asked not to retry then.
    spent_below: Option<bool>,
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
        let marks = *this.marks;
        let to = |rejected: &Rejected| respond(this.respond, rejected, marks, *this.is_head);
        let mut response = match this.state.as_mut().project() {
            Projected::Refused(rejected) => {
                let rejected = rejected.take();
                to(&rejected.expect("`HandleRejectionsFuture` polled after completion"))
            }
            Projected::Running(future) => {
                let polled = if let Some(spent_below) = this.spent_below {
                    let (polled, spent) = watch_spent(|| future.poll(cx));
                    *spent_below |= spent;
                    polled
                } else {
                    future.poll(cx)
                };
                let result = ready!(polled);
                this.state.set(State::Refused(None));
                match result {
                    Ok(mut response) => {
                        mark_passed(&mut response, marks);
                        this.respond.pass(response)
                    }
                    Err(Error::Rejected(rejected)) => to(&rejected),
                    Err(Error::Inner(error)) => return Poll::Ready(Err(error)),
                }
            }
        };
        if *this.spent_below == Some(true) {
            veto(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}

fn respond<B, R: Respond<B>>(
    respond: &R,
    rejected: &Rejected,
    marks: bool,
    is_head: bool,
) -> Response<R::Body> {
    let mut response = if is_head {
        respond.respond_to_head(rejected)
    } else {
        respond.respond(rejected)
    };
    if rejected.executed == Executed::No {
        mark_refused(&mut response, marks);
    }
    response
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
            ByStatus::new().response(&respond::<String, _>(&Problem, &rejected, false, false))
        };
        let refused = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
        assert_eq!(meaning(open.clone()), refused);
        assert_eq!(meaning(open.executed(Executed::Maybe)), Outcome::TRANSIENT);
    }
}

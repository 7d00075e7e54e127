//! Layers around a service that never fails: rejections become responses.

use super::lift::Lift;
use super::problem::Problem;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
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
/// use buttress::TimeoutLayer;
/// use std::time::Duration;
///
/// let app: Router = Router::new()
///     .route("/orders", get(|| async { "none yet" }))
///     .layer(buttress::http::answer(TimeoutLayer::new("orders", Duration::from_secs(2))));
/// # let _ = app;
/// ```
///
/// Several layers go in as one: a tuple, or a `tower::ServiceBuilder`. The first of them is the outermost.
///
/// # The answers
///
/// | rejection | status |
/// |---|---|
/// | an open circuit, a policy that refused | 503, with `Retry-After` in whole seconds, rounded up, if the wait is known |
/// | attempt timeout, deadline, stalled body | 504 |
///
/// The body is `application/problem+json` (RFC 9457) whose `detail` is the rejection's message: it names the layer and
/// its wait. A rejection that kept the call from being executed is marked as such in the response's extensions, where
/// [`ByStatus`](super::ByStatus) finds it: a gate further out does not count our own refusals against the service.
///
/// The response's body must be `From<String>`, as axum's and `http_body_util::Full` are.
///
/// # Cancel safety
///
/// Dropping the future drops the call inside.
pub const fn answer<L>(layers: L) -> AnswerLayer<L> {
    AnswerLayer::new(layers, Problem)
}

/// How a rejection becomes a response. What each responder answers is told where it is made.
pub trait Respond<B> {
    /// The response to a call that was rejected.
    fn respond(&self, rejected: &Rejected) -> Response<B>;
}

/// Made by [`answer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerLayer<L, R = Problem> {
    layers: L,
    respond: R,
}

impl<L, R> AnswerLayer<L, R> {
    pub(super) const fn new(layers: L, respond: R) -> Self {
        Self { layers, respond }
    }
}

impl<S, L: Layer<Lift<S>>, R: Clone> Layer<S> for AnswerLayer<L, R> {
    type Service = Answer<L::Service, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Answer {
            inner: self.layers.layer(Lift::new(inner)),
            respond: self.respond.clone(),
            refused: None,
        }
    }
}

/// Answers the rejections of the layers inside. Made by [`answer`].
#[derive(Debug)]
pub struct Answer<S, R = Problem> {
    inner: S,
    respond: R,
    /// What `poll_ready` came to: the answer to the next call.
    refused: Option<Rejected>,
}

/// A clone was not polled, so it inherits no answer.
impl<S: Clone, R: Clone> Clone for Answer<S, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            respond: self.respond.clone(),
            refused: None,
        }
    }
}

impl<S, Req, B, E, R> Service<Req> for Answer<S, R>
where
    S: Service<Req, Response = Response<B>, Error = Error<E>>,
    R: Respond<B> + Clone,
{
    type Response = Response<B>;
    type Error = E;
    type Future = AnswerFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.refused = match ready!(self.inner.poll_ready(cx)) {
            Ok(()) => None,
            Err(Error::Rejected(rejected)) => Some(rejected),
            Err(Error::Inner(error)) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        AnswerFuture {
            state: match self.refused.take() {
                Some(rejected) => State::Refused(rejected),
                None => State::Running(self.inner.call(request)),
            },
            respond: self.respond.clone(),
        }
    }
}

/// The future of [`Answer`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AnswerFuture<F, R = Problem> {
    #[pin]
    state: State<F>,
    respond: R,
}

#[pin_project(project = Projected)]
#[derive(Debug)]
enum State<F> {
    Running(#[pin] F),
    Refused(Rejected),
}

impl<F, B, E, R> Future for AnswerFuture<F, R>
where
    F: Future<Output = Result<Response<B>, Error<E>>>,
    R: Respond<B>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(Ok(match this.state.project() {
            Projected::Refused(rejected) => respond(this.respond, rejected),
            Projected::Running(future) => match ready!(future.poll(cx)) {
                Ok(response) => response,
                Err(Error::Rejected(rejected)) => respond(this.respond, &rejected),
                Err(Error::Inner(error)) => return Poll::Ready(Err(error)),
            },
        }))
    }
}

fn respond<B>(respond: &impl Respond<B>, rejected: &Rejected) -> Response<B> {
    let mut response = respond.respond(rejected);
    if rejected.executed == Executed::No {
        response.extensions_mut().insert(NotExecuted);
    }
    response
}

/// Says of a response that nobody acted on its request. It never leaves the process, and only this module sets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotExecuted;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::http::ByStatus;
    use crate::outcome::{Again, Outcome};

    #[test]
    fn only_a_call_that_was_not_executed_is_marked_so() {
        let open = Rejected::new(Reason::CircuitOpen, "orders");
        let meaning = |rejected| ByStatus::new().response(&respond::<String>(&Problem, &rejected));
        let refused = Outcome::NEUTRAL.not_executed().repeat(Again::Never);
        assert_eq!(meaning(open.clone()), refused);
        assert_eq!(meaning(open.executed(Executed::Maybe)), Outcome::TRANSIENT);
    }
}

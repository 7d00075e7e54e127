//! Layers around a service that never fails: rejections become responses.

use super::lift::Lift;
use std::convert::Infallible;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Error, Reason, Rejected};
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
    AnswerLayer { layers }
}

/// Made by [`answer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerLayer<L> {
    layers: L,
}

impl<S, L: Layer<Lift<S>>> Layer<S> for AnswerLayer<L> {
    type Service = Answer<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        Answer::new(self.layers.layer(Lift::new(inner)))
    }
}

/// Answers the rejections of the layers inside. Made by [`answer`].
#[derive(Debug)]
pub struct Answer<S> {
    inner: S,
    /// What `poll_ready` came to: the answer to the next call.
    refused: Option<Rejected>,
}

impl<S> Answer<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            refused: None,
        }
    }
}

/// A clone was not polled, so it inherits no answer.
impl<S: Clone> Clone for Answer<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S, Req, B> Service<Req> for Answer<S>
where
    S: Service<Req, Response = Response<B>, Error = Error<Infallible>>,
    B: From<String>,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = AnswerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.refused = match ready!(self.inner.poll_ready(cx)) {
            Ok(()) => None,
            Err(error) => Some(rejection(error)),
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        AnswerFuture {
            state: match self.refused.take() {
                Some(rejected) => State::Refused(rejected),
                None => State::Running(self.inner.call(request)),
            },
        }
    }
}

/// The future of [`Answer`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AnswerFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = Projected)]
#[derive(Debug)]
enum State<F> {
    Running(#[pin] F),
    Refused(Rejected),
}

impl<F, B> Future for AnswerFuture<F>
where
    F: Future<Output = Result<Response<B>, Error<Infallible>>>,
    B: From<String>,
{
    type Output = Result<Response<B>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match self.project().state.project() {
            Projected::Refused(rejected) => respond(rejected),
            Projected::Running(future) => match ready!(future.poll(cx)) {
                Ok(response) => response,
                Err(error) => respond(&rejection(error)),
            },
        };
        Poll::Ready(Ok(response))
    }
}

fn rejection(error: Error<Infallible>) -> Rejected {
    match error {
        Error::Rejected(rejected) => rejected,
        Error::Inner(never) => match never {},
    }
}

/// Says of a response that nobody acted on its request. It never leaves the process, and only this module sets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotExecuted;

fn respond<B: From<String>>(rejected: &Rejected) -> Response<B> {
    let status = match rejected.reason {
        Reason::AttemptTimeout { .. } | Reason::Deadline | Reason::BodyIdle { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Reason::CircuitOpen
        | Reason::CircuitProbing
        | Reason::CircuitRampingUp
        | Reason::CircuitForcedOpen
        | Reason::CircuitIsolated
        | Reason::Policy(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(B::from(problem(status, &rejected.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(wait) = rejected.retry_after {
        let seconds = wait
            .as_secs()
            .saturating_add(u64::from(wait.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if rejected.executed == Executed::No {
        response.extensions_mut().insert(NotExecuted);
    }
    response
}

/// RFC 9457, without a `type`: the status says it all.
fn problem(status: StatusCode, detail: &str) -> String {
    let mut body = format!(
        r#"{{"title":"{}","status":{},"detail":""#,
        status.canonical_reason().unwrap_or_default(),
        status.as_u16()
    );
    for letter in detail.chars() {
        match letter {
            '"' | '\\' => body.extend(['\\', letter]),
            letter if u32::from(letter) < 0x20 => {
                // Writing to a string does not fail.
                let _ = write!(body, "\\u{:04x}", u32::from(letter));
            }
            letter => body.push(letter),
        }
    }
    body.push_str("\"}");
    body
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::ByStatus;
    use crate::outcome::{Again, Outcome};

    #[test]
    fn the_status_and_the_wait_follow_from_the_rejection() {
        let open = Rejected::new(Reason::CircuitOpen, "orders")
            .retry_after(Some(Duration::from_millis(1200)));
        let response: Response<String> = respond(&open);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(
            response.body(),
            r#"{"title":"Service Unavailable","status":503,"detail":"circuit breaker `orders` is open, next probe in 1.2s"}"#
        );
        let limit = Duration::from_secs(1);
        let late = Rejected::new(Reason::AttemptTimeout { limit }, "orders");
        let response: Response<String> = respond(&late);
        assert_eq!(response.status(), 504);
        assert!(!response.headers().contains_key("retry-after"));
        let never = open.retry_after(Some(Duration::MAX));
        let response: Response<String> = respond(&never);
        assert_eq!(response.headers()["retry-after"], u64::MAX.to_string());
    }

    #[test]
    fn only_a_call_that_was_not_executed_is_marked_so() {
        let open = Rejected::new(Reason::CircuitOpen, "orders");
        let meaning = |rejected| ByStatus::new().response(&respond::<String>(&rejected));
        let refused = Outcome::NEUTRAL.not_executed().repeat(Again::Never);
        assert_eq!(meaning(open.clone()), refused);
        assert_eq!(meaning(open.executed(Executed::Maybe)), Outcome::TRANSIENT);
    }

    #[test]
    fn a_detail_of_any_text_is_still_json() {
        let why = "a \"quoted\" \\ back\nslash \u{1} ü";
        let rejected = Rejected::new(Reason::Policy(why.into()), "x");
        let response: Response<String> = respond(&rejected);
        assert_eq!(
            response.body(),
            "{\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\
             \"`x` refused the call: a \\\"quoted\\\" \\\\ back\\u000aslash \\u0001 ü\"}"
        );
    }
}

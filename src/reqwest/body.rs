//! Observes and drains the bodies of reqwest's responses.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::response::Builder;
use ::reqwest::{Body, Response, ResponseBuilderExt};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;

use crate::budget::RetryBudget;
use crate::error::{BoxError, CallError, Error, Reason, Rejected};
use crate::gate::{Finish, Permit};
use crate::http::{AtBodyEnd, ClassifyEnd, Drain, Draining, deposit_later};
use crate::outcome::{Classify, Outcome};
use crate::retry::Discard;

/// The response stays a `reqwest::Response`; wrapping its body costs one allocation. If a time limit of this crate ends the body,
/// reqwest's error is a [timeout](::reqwest::Error::is_timeout).
impl<E, P, C> Finish<Response, E, P, C> for AtBodyEnd
where
    E: CallError,
    P: Permit + Send + Sync + 'static,
    C: Classify<Response, E> + ClassifyEnd + Clone + Send + Sync + 'static,
{
    type Response = Response;

    fn finish(
        &self,
        mut result: Result<Response, E>,
        permit: P,
        classify: &C,
    ) -> Result<Response, E> {
        let call = Self::begin(&mut result, permit, classify);
        let response = result?;
        let url = response.url().clone();
        let (mut head, body) = ::http::Response::from(response).into_parts();
        // reqwest stores the URL in an extension that only its builder can set.
        if let Ok(with_url) = Builder::new().url(url).body(()) {
            head.extensions.extend(with_url.into_parts().0.extensions);
        }
        let body = Body::wrap(Timed(self.wrap(body, call)));
        Ok(Response::from(::http::Response::from_parts(head, body)))
    }
}

/// A body whose timeouts reqwest recognizes.
#[pin_project]
struct Timed<B>(#[pin] B);

impl<B, E> HttpBody for Timed<B>
where
    B: HttpBody<Error = Error<E>>,
    E: StdError + Send + Sync + 'static,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let frame = self.project().0.poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(recognizable)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cold]
fn recognizable<E: StdError + Send + Sync + 'static>(error: Error<E>) -> BoxError {
    match error {
        Error::Rejected(rejected) if is_time_limit(&rejected.reason) => {
            io::Error::new(io::ErrorKind::TimedOut, TimedOut(rejected)).into()
        }
        error => error.into(),
    }
}

const fn is_time_limit(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Deadline
            | Reason::BodyIdle { .. }
            | Reason::AttemptTimeout { .. }
            | Reason::HeaderTimeout { .. }
            | Reason::ConnectTimeout { .. }
    )
}

/// A timeout of this crate inside an [`io::Error`], which omits its direct content from the chain of sources. The rejection is the
/// source of this type, where users find it.
#[derive(Debug)]
struct TimedOut(Rejected);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response body timed out")
    }
}

impl StdError for TimedOut {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl Discard<Response> for Drain {
    type Discarding = Draining<Body>;

    fn discard(&self, response: Response) -> Option<Draining<Body>> {
        self.rest(response.version(), response.into())
    }

    #[inline]
    fn deposit_later(&self, response: &Response, head: &Outcome, budget: &RetryBudget) -> bool {
        deposit_later(response, head, budget)
    }
}

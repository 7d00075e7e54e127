//! A request builder's last call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::reqwest::{Request, RequestBuilder};
use pin_project::pin_project;
use tower_service::Service;

use crate::error::{CallError, Error};

/// A request that could not be built is the service's own error: no layer refused it.
impl From<::reqwest::Error> for Error<::reqwest::Error> {
    fn from(error: ::reqwest::Error) -> Self {
        Self::Inner(error)
    }
}

/// Sends a request through a stack of layers instead of straight from its client.
pub trait SendThrough: Sized {
    /// Builds the request, clones the stack, waits until the clone is ready, and calls it.
    ///
    /// The stack is any service that takes a `reqwest::Request` and whose error can hold a rejection; its innermost part is
    /// usually a `reqwest::Client`, whose error is wrapped by `.map_err(buttress::Error::Inner)`. A bare `reqwest::Client` does
    /// not compile, because it protects nothing. The client that the builder came from plays no part.
    ///
    /// # Errors
    ///
    /// Those of the stack. A request that cannot be built (a bad URL, a bad header) is a `reqwest::Error`, which the
    /// stack's error can be made `From`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the call; before its first poll nothing was sent.
    fn send_through<S>(self, stack: &S) -> SendThroughFuture<S>
    where
        S: Service<Request> + Clone,
        S::Error: CallError + From<::reqwest::Error>;
}

impl SendThrough for RequestBuilder {
    fn send_through<S>(self, stack: &S) -> SendThroughFuture<S>
    where
        S: Service<Request> + Clone,
        S::Error: CallError + From<::reqwest::Error>,
    {
        SendThroughFuture {
            state: match self.build() {
                Ok(request) => State::Waiting(stack.clone(), Some(request)),
                Err(error) => State::Failed(Some(error)),
            },
        }
    }
}

/// The future of [`SendThrough::send_through`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct SendThroughFuture<S: Service<Request>> {
    #[pin]
    state: State<S, S::Future>,
}

impl<S: Service<Request>> std::fmt::Debug for SendThroughFuture<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendThroughFuture").finish_non_exhaustive()
    }
}

#[pin_project(project = Projected)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation a call"
)]
enum State<S, F> {
    /// Until the stack is ready. The request is there until it was sent.
    Waiting(S, Option<Request>),
    Running(#[pin] F),
    /// The request could not be built. The error is there until it was given.
    Failed(Option<::reqwest::Error>),
}

impl<S> Future for SendThroughFuture<S>
where
    S: Service<Request>,
    S::Error: From<::reqwest::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                Projected::Waiting(stack, request) => {
                    ready!(stack.poll_ready(cx))?;
                    let Some(request) = request.take() else {
                        return Poll::Pending;
                    };
                    let running = stack.call(request);
                    state.set(State::Running(running));
                }
                Projected::Running(future) => return future.poll(cx),
                Projected::Failed(error) => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error.into())),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}

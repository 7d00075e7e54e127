//! Sending a request through a stack.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::reqwest::{Request, RequestBuilder};
use pin_project::pin_project;
use tower_service::Service;

use crate::call::CallOptions;
use crate::call::CallScope;
use crate::error::{CallError, Error};

/// A request that could not be built is an error of the service, not a rejection.
impl From<::reqwest::Error> for Error<::reqwest::Error> {
    fn from(error: ::reqwest::Error) -> Self {
        Self::Inner(error)
    }
}

/// Sends a request through a stack of layers instead of directly through its client.
pub trait SendThrough: Sized {
    /// Builds the request, clones the stack, waits until the clone is ready, and calls it.
    ///
    /// The stack is any service that takes a `reqwest::Request` and whose error can hold a rejection. Its innermost service is
    /// usually a `reqwest::Client`, whose error is wrapped by `.map_err(buttress::Error::Inner)`. A `reqwest::Client` without
    /// layers does not compile, because it protects nothing. The client that made the builder is not used.
    ///
    /// # Errors
    ///
    /// Those of the stack. A request that cannot be built (a bad URL, a bad header) is a `reqwest::Error`, which the
    /// stack's error can be made `From`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call. Nothing is sent before the first poll.
    ///
    /// # The time limit of the request
    ///
    /// The standard stack [`http::client`](fn@crate::http::client) applies [`RequestBuilder::timeout`] to the whole call, retries
    /// and the response's body included: it shortens `total`, and ends the call as abandoned. Each attempt is sent with the
    /// time that is left. The limit of an attempt still applies: to wait longer than that for one response, set
    /// [`CallOptions::attempt_timeout`] too.
    fn send_through<S>(self, stack: &S) -> SendThroughFuture<S>
    where
        S: Service<Request> + Clone,
        S::Error: CallError + From<::reqwest::Error>;

    /// Like [`send_through`](Self::send_through), with options for this call.
    ///
    /// ```no_run
    /// # async fn example(client: reqwest::Client, stack: tower::util::BoxCloneService<reqwest::Request, reqwest::Response, buttress::Error<reqwest::Error>>) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use buttress::CallOptions;
    /// use buttress::reqwest::SendThrough;
    ///
    /// let report = client.get("https://api.example.com/report");
    /// let patient = CallOptions::new()
    ///     .timeout(Duration::from_secs(60))
    ///     .attempt_timeout(Duration::from_secs(60));
    /// let response = report.send_through_with(&stack, patient).await?;
    /// # let _ = response;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send_through`](Self::send_through).
    ///
    /// # Cancel safety
    ///
    /// As of [`send_through`](Self::send_through).
    fn send_through_with<S>(
        self,
        stack: &S,
        options: CallOptions,
    ) -> CallScope<SendThroughFuture<S>>
    where
        S: Service<Request> + Clone,
        S::Error: CallError + From<::reqwest::Error>,
    {
        options.scope(self.send_through(stack))
    }
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
    /// Waits until the stack is ready. `None` after the request was sent.
    Waiting(S, Option<Request>),
    Running(#[pin] F),
    /// The request could not be built. `None` after any result was returned.
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
                    if let Err(error) = ready!(stack.poll_ready(cx)) {
                        state.set(State::Failed(None));
                        return Poll::Ready(Err(error));
                    }
                    let request = request.take();
                    let running = stack.call(request.expect("the request is sent once"));
                    state.set(State::Running(running));
                }
                Projected::Running(future) => {
                    let result = ready!(future.poll(cx));
                    state.set(State::Failed(None));
                    return Poll::Ready(result);
                }
                Projected::Failed(error) => {
                    let error = error.take();
                    let error = error.expect("`SendThroughFuture` polled after completion");
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }
}

//! The service of the standard server stack, and its future.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use super::config::ServerConfig;
use crate::call::CallOptions;
use crate::clock::Moment;
use crate::deadline::{Deadline, DeadlineScope};
use crate::gate::Gate;
use crate::gate::future::GateFuture;
use crate::http::body::gated::{AtBodyEnd, GatedBody};
use crate::http::classify::status::ByStatus;
use crate::http::client::stack_error::{IntoStackError, IntoStackErrorFuture};
use crate::http::reject::layer::{HandleRejections, HandleRejectionsFuture};
use crate::http::reject::retry_headers::NOT_EXECUTED;
use crate::http::server::handler_deadline::HandlerDeadline;
use crate::telemetry::{Observation, Observed};
use crate::timeout::future::{DeadlineFuture, TimeoutFuture};
use crate::timeout::{DeadlineService, Timeout};

/// What is around a handler, from the outside in.
type Stack<S> = HandleRejections<Guards<IntoStackError<S>>>;

pub(super) type Guards<S> =
    Gate<DeadlineService<Timeout<HandlerDeadline<S>>>, Option<Observed>, ByStatus, AtBodyEnd>;

type Guarded<F> = HandleRejectionsFuture<
    GateFuture<
        DeadlineFuture<TimeoutFuture<DeadlineScope<IntoStackErrorFuture<F>>>>,
        Option<Observation>,
        ByStatus,
        AtBodyEnd,
    >,
>;

/// The response body of [`ServerService`]: the handler's body with its limits, or the text of a rejection.
pub(crate) type ServerBody<B> = GatedBody<B, Option<Observation>, ByStatus>;

/// A service behind the standard server stack. Made by [`ServerLayer`](crate::http::ServerLayer).
#[derive(Clone)]
pub struct ServerService<S> {
    pub(super) stack: Stack<S>,
    /// For requests that bypass the stack.
    pub(super) handler: S,
    pub(super) config: Arc<ServerConfig>,
}

impl<S> fmt::Debug for ServerService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerService").finish_non_exhaustive()
    }
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for ServerService<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body + From<String>,
{
    type Response = Response<ServerBody<B>>;
    type Error = Infallible;
    type Future = ServerFuture<S, Request<ReqBody>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // The options of a caller in the same process apply to its call only: not to the limits here, nor to the handler's
        // own calls.
        request.extensions_mut().remove::<CallOptions>();
        let _hidden = CallOptions::hide_all();
        let path = request.uri().path();
        if self.config.bypass.iter().any(|bypass| bypass == path) {
            // The clone releases the readiness of the stack, which the handler might otherwise wait for.
            self.stack = self.stack.clone();
            return ServerFuture {
                state: State::Waiting(self.handler.clone(), Some(request)),
            };
        }
        let config = self.config.deadline.as_ref();
        let deadline = config
            .and_then(|config| config.deadline(&request))
            .unwrap_or(Deadline::at(Moment::FAR));
        let future = {
            let _entered = deadline.enter();
            self.stack.call(request)
        };
        ServerFuture {
            // Around the whole stack, so that the body is bounded too.
            state: State::Guarded(deadline.scope(future)),
        }
    }
}

/// The future of [`ServerService`].
///
/// # Cancel safety
///
/// Dropping it drops the handler's future.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ServerFuture<S: Service<Req>, Req> {
    #[pin]
    state: State<S, Req, S::Future>,
}

impl<S: Service<Req>, Req> fmt::Debug for ServerFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFuture").finish_non_exhaustive()
    }
}

#[pin_project(project = StateNow)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation a call"
)]
enum State<S, Req, F> {
    Guarded(#[pin] DeadlineScope<Guarded<F>>),
    /// Bypasses the stack, until the handler is ready. The request is `Some` until then.
    Waiting(S, Option<Req>),
    Bypassed(#[pin] F),
    Done,
}

impl<S, Req, B> Future for ServerFuture<S, Req>
where
    S: Service<Req, Response = Response<B>, Error = Infallible>,
    B: Body + From<String>,
{
    type Output = Result<Response<ServerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _hidden = CallOptions::hide_all();
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateNow::Guarded(future) => return future.poll(cx),
                StateNow::Waiting(handler, request) => {
                    ready!(handler.poll_ready(cx))?;
                    let request = request.take();
                    let future = handler.call(request.expect("the request is taken once"));
                    state.set(State::Bypassed(future));
                }
                StateNow::Bypassed(future) => {
                    let mut response = ready!(future.poll(cx))?;
                    state.set(State::Done);
                    // Only this stack may set it: from the handler, it would be about another hop.
                    response.headers_mut().remove(NOT_EXECUTED);
                    return Poll::Ready(Ok(response.map(GatedBody::free)));
                }
                StateNow::Done => panic!("`ServerFuture` polled after completion"),
            }
        }
    }
}

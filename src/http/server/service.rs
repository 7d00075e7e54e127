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
use super::within::Within;
use crate::call::CallOptions;
use crate::clock::Moment;
use crate::deadline::{Deadline, DeadlineScope};
use crate::gate::Gate;
use crate::gate::future::GateFuture;
use crate::http::body::{AtBodyEnd, GatedBody};
use crate::http::classify::ByStatus;
use crate::http::handle_rejections::{HandleRejections, HandleRejectionsFuture};
use crate::http::lift::{Lift, LiftFuture};
use crate::http::marks::NOT_EXECUTED;
use crate::telemetry::{Observation, Observed};
use crate::timeout::future::{DeadlineFuture, TimeoutFuture};
use crate::timeout::{DeadlineService, Timeout};

/// What is around a handler, from the outside in.
type Stack<S> = HandleRejections<Guards<Lift<S>>>;

pub(super) type Guards<S> =
    Gate<DeadlineService<Timeout<Within<S>>>, Option<Observed>, ByStatus, AtBodyEnd>;

type Guarded<F> = HandleRejectionsFuture<
    GateFuture<
        DeadlineFuture<TimeoutFuture<DeadlineScope<LiftFuture<F>>>>,
        Option<Observation>,
        ByStatus,
        AtBodyEnd,
    >,
>;

/// The body of a response of [`ServerService`]: the handler's, within its limits, or the text of an answer.
pub(crate) type ServerBody<B> = GatedBody<B, Option<Observation>, ByStatus>;

/// A service behind the standard server stack. Made by [`ServerLayer`](crate::http::ServerLayer).
#[derive(Clone)]
pub struct ServerService<S> {
    pub(super) stack: Stack<S>,
    /// For what skips the stack.
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
        // The options of a caller in the same process are about its call. They lift no limit here, and no call of the handler
        // has them.
        request.extensions_mut().remove::<CallOptions>();
        let _hidden = CallOptions::hide_all();
        let path = request.uri().path();
        if self.config.bypass.iter().any(|bypass| bypass == path) {
            // The readiness that is not used is given back, or the handler might wait for it.
            self.stack = self.stack.clone();
            return ServerFuture {
                state: State::Waiting(self.handler.clone(), Some(request)),
            };
        }
        let brought = self.config.deadline.as_ref();
        let deadline = brought
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
    /// Past the stack: until the handler is ready. The request is there until it was handed over.
    Waiting(S, Option<Req>),
    Bare(#[pin] F),
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
                    let bare = handler.call(request.expect("it is handed over once"));
                    state.set(State::Bare(bare));
                }
                StateNow::Bare(future) => {
                    let mut response = ready!(future.poll(cx))?;
                    state.set(State::Done);
                    // No refusal of this stack: whoever has set it speaks of another hop.
                    response.headers_mut().remove(NOT_EXECUTED);
                    return Poll::Ready(Ok(response.map(GatedBody::free)));
                }
                StateNow::Done => panic!("`ServerFuture` polled after completion"),
            }
        }
    }
}

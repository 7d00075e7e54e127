//! The limit of a response's head, counted from the request's last byte.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::Now;
use crate::error::{CallError, Reason, Rejected};
use crate::event::{Event, Source, emit};
use crate::outcome::Executed;
use crate::timeout::Alarm;

/// Limits the time between the end of a request and the head of its response: a slow upload is not the server's fault.
///
/// Where uploads may take long, set this and leave the attempt's own limit wide. A request without a body is sent at once.
/// The last byte counts as sent when the client has taken it out of the body; some of it may still lie in its buffers and
/// those of the system. A body that fails, or that is dropped because the server would have no more of it, has ended too.
///
/// Goes next to the client. The inner service gets a wrapped body; one that insists on its own type of body (tonic's
/// `Channel`, an axum router) gets that by a `map_request` in between, as here:
///
/// ```
/// use std::time::Duration;
///
/// use axum::body::Body;
/// use buttress::Error;
/// use buttress::http::HeaderTimeoutLayer;
/// use tower::ServiceBuilder;
///
/// # let router = axum::Router::<()>::new();
/// let uploads = ServiceBuilder::new()
///     .layer(HeaderTimeoutLayer::new("uploads", Duration::from_secs(3)))
///     .map_err(Error::Inner)
///     .map_request(|request: http::Request<_>| request.map(Body::new))
///     .service(router);
/// # let _ = tower::Service::call(&mut { uploads }, http::Request::new(Body::empty()));
/// ```
///
/// reqwest's requests stay reqwest's. One with a body is then a stream to reqwest: it is not sent again by a redirect that
/// would repeat it (307, 308), but the redirect returned.
///
/// # Errors
///
/// [`Reason::HeaderTimeout`]: a failure of the service, which may have executed the call.
///
/// # Events
///
/// [`Event::Rejected`] of the layer `headers`.
#[derive(Clone, Debug)]
pub struct HeaderTimeoutLayer {
    source: Arc<Source>,
    limit: Duration,
}

impl HeaderTimeoutLayer {
    /// A limit for the responses of what is called `name`; `Duration::MAX` is none.
    pub fn new(name: impl Into<Arc<str>>, limit: Duration) -> Self {
        Self {
            source: Arc::new(Source::new("headers", name)),
            limit,
        }
    }
}

impl<S> Layer<S> for HeaderTimeoutLayer {
    type Service = HeaderTimeout<S>;

    fn layer(&self, inner: S) -> HeaderTimeout<S> {
        HeaderTimeout {
            inner,
            source: Arc::clone(&self.source),
            limit: self.limit,
        }
    }
}

/// A client whose responses must begin in time. Made by [`HeaderTimeoutLayer`].
#[derive(Clone, Debug)]
pub struct HeaderTimeout<S> {
    pub(crate) inner: S,
    source: Arc<Source>,
    limit: Duration,
}

impl<S, B> Service<Request<B>> for HeaderTimeout<S>
where
    S: Service<Request<WatchedBody<B>>>,
    S::Error: CallError,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HeaderTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (body, sending) = watch(body);
        self.send(Request::from_parts(head, body), sending)
    }
}

impl<S> HeaderTimeout<S> {
    /// Sends a request whose end is in view; `None`, if it has none to wait for.
    pub(crate) fn send<Req>(
        &mut self,
        request: Req,
        sending: Option<Sending>,
    ) -> HeaderTimeoutFuture<S::Future>
    where
        S: Service<Req>,
    {
        HeaderTimeoutFuture {
            response: self.inner.call(request),
            sending,
            alarm: Alarm::new(),
            source: Arc::clone(&self.source),
            limit: self.limit,
            done: false,
        }
    }
}

/// Ready when the body has ended, in whatever way.
pub(crate) type Sending = oneshot::Receiver<()>;

/// The body with its end in view. One that is empty has ended, and costs no allocation.
pub(crate) fn watch<B: Body>(body: B) -> (WatchedBody<B>, Option<Sending>) {
    let (ended, sending) = if body.is_end_stream() {
        (None, None)
    } else {
        let (ended, sending) = oneshot::channel();
        (Some(ended), Some(sending))
    };
    (WatchedBody { body, ended }, sending)
}

/// A request's body whose end is noticed by [`HeaderTimeoutLayer`]; to the client it is the same.
#[pin_project]
#[derive(Debug)]
pub struct WatchedBody<B> {
    #[pin]
    body: B,
    /// Dropped when the body has ended, which is all the news there is.
    ended: Option<oneshot::Sender<()>>,
}

impl<B: Body> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let goes_on = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !goes_on || this.body.is_end_stream() {
            *this.ended = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The future of a service of [`HeaderTimeoutLayer`].
///
/// # Cancel safety
///
/// Dropping it drops the inner future.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct HeaderTimeoutFuture<F> {
    #[pin]
    response: F,
    /// `None` once the request has ended.
    sending: Option<Sending>,
    #[pin]
    alarm: Alarm,
    source: Arc<Source>,
    limit: Duration,
    done: bool,
}

impl<F, Res, E> Future for HeaderTimeoutFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: CallError,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        assert!(!*this.done, "`HeaderTimeoutFuture` polled after completion");
        if let Poll::Ready(result) = this.response.poll(cx) {
            *this.done = true;
            return Poll::Ready(result);
        }
        if *this.limit == Duration::MAX {
            return Poll::Pending;
        }
        if let Some(sending) = this.sending.as_mut() {
            // However it ended. Outside tokio's cooperative budget, as the alarm.
            let _ = ready!(Pin::new(&mut unconstrained(sending)).poll(cx));
            *this.sending = None;
        }
        if !this.alarm.is_armed() {
            this.alarm.as_mut().arm(*this.limit, &Now::unread());
        }
        ready!(this.alarm.poll(cx));
        *this.done = true;
        let reason = Reason::HeaderTimeout { limit: *this.limit };
        let rejected =
            Rejected::new(reason, Arc::clone(this.source.name())).executed(Executed::Maybe);
        emit(&Event::Rejected {
            source: this.source,
            rejected: &rejected,
        });
        Poll::Ready(Err(rejected.into()))
    }
}

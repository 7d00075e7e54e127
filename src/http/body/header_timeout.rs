//! A time limit for the response's head, counted from the request's last byte.

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

/// Limits the time between the end of a request and the head of its response, so a slow upload does not count.
///
/// For long uploads, set this limit and a generous limit for the attempt. The last byte counts as sent when the client has
/// taken it out of the body; it may still be in the buffers of the client and the system. A body that fails or is dropped has
/// ended too.
///
/// Goes next to the client. The inner service gets a wrapped body. For a service with a body type of its own (tonic's
/// `Channel`, an axum router), convert it with `map_request`:
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
/// It also accepts reqwest's requests. A request with a body then becomes a stream to reqwest, which does not follow a
/// redirect that would send the body again (307, 308) but returns the redirect.
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
    /// A limit for the responses of the client `name`; `Duration::MAX` is none.
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
            layer: self.clone(),
        }
    }
}

/// A client whose responses must begin in time. Made by [`HeaderTimeoutLayer`].
#[derive(Clone, Debug)]
pub struct HeaderTimeout<S> {
    pub(crate) inner: S,
    layer: HeaderTimeoutLayer,
}

impl<S, B> Service<Request<B>> for HeaderTimeout<S>
where
    S: Service<Request<HeaderTimeoutBody<B>>>,
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
    /// Sends a request; the limit begins when `sending` is ready, or at once if it is `None`.
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
            layer: self.layer.clone(),
            done: false,
        }
    }
}

/// Ready when the body has ended, in whatever way.
pub(crate) type Sending = oneshot::Receiver<()>;

/// The body, and a receiver that is ready when the body ends. An empty body has ended and costs no allocation.
pub(crate) fn watch<B: Body>(body: B) -> (HeaderTimeoutBody<B>, Option<Sending>) {
    let (ended, sending) = if body.is_end_stream() {
        (None, None)
    } else {
        let (ended, sending) = oneshot::channel();
        (Some(ended), Some(sending))
    };
    (HeaderTimeoutBody { body, ended }, sending)
}

/// A request body that reports its end to [`HeaderTimeoutLayer`].
#[pin_project]
#[derive(Debug)]
pub struct HeaderTimeoutBody<B> {
    #[pin]
    body: B,
    /// Dropped when the body has ended, which closes the channel.
    ended: Option<oneshot::Sender<()>>,
}

impl<B: Body> Body for HeaderTimeoutBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let continues = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !continues || this.body.is_end_stream() {
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
    layer: HeaderTimeoutLayer,
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
        let HeaderTimeoutLayer { source, limit } = &*this.layer;
        let limit = *limit;
        if limit == Duration::MAX {
            return Poll::Pending;
        }
        if let Some(sending) = this.sending.as_mut() {
            // Outside tokio's cooperative budget, as the alarm.
            let _ = ready!(Pin::new(&mut unconstrained(sending)).poll(cx));
            *this.sending = None;
        }
        if !this.alarm.is_armed() {
            this.alarm.as_mut().arm(limit, &Now::unread());
        }
        ready!(this.alarm.poll(cx));
        *this.done = true;
        let reason = Reason::HeaderTimeout { limit };
        let rejected = Rejected::new(reason, Arc::clone(source.name())).executed(Executed::Maybe);
        emit(&Event::Rejected {
            source,
            rejected: &rejected,
        });
        Poll::Ready(Err(rejected.into()))
    }
}

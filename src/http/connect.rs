//! A time limit for connecting.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::Now;
use crate::error::{BoxError, Reason, Rejected};
use crate::event::{Event, Source, emit};
use crate::timeout::Alarm;

/// Limits how long a client's connector may take: the name, every address, TLS. Default: 1 s.
///
/// It goes around the connector, *inside* the client. A server that does not accept connections then costs one second instead
/// of the attempt's whole limit, and the call was certainly not executed, so any request may be retried. For connectors of
/// hyper-util, of tonic's `Endpoint::connect_with_connector` and of reqwest's `ClientBuilder::connector_layer`.
///
/// A connector that tries several addresses one after the other shares the limit among them; give hyper-util's
/// `HttpConnector` the same limit (`set_connect_timeout`), and it divides the time among the addresses.
///
/// ```
/// use buttress::http::ConnectTimeoutLayer;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::client::legacy::connect::HttpConnector;
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
///
/// let connector = ConnectTimeoutLayer::new("search").layer(HttpConnector::new());
/// let hyper = Client::builder(TokioExecutor::new()).build::<_, String>(connector);
/// # let _ = hyper;
/// ```
///
/// # Errors
///
/// A [`Rejected`] with [`Reason::ConnectTimeout`], boxed, which the client reports as an error of its own that
/// `is_connect()`; else the connector's error. Both mean the same to [`error_outcome`](super::error_outcome): transient,
/// not executed.
///
/// # Events
///
/// [`Event::Rejected`] of the layer `connect`. It may occur without a failed call: a client that starts to connect
/// and then finds an idle connection leaves the new one to the next call.
#[derive(Clone, Debug)]
pub struct ConnectTimeoutLayer {
    source: Arc<Source>,
    limit: Duration,
}

impl ConnectTimeoutLayer {
    /// A limit of 1 s for the connections of the client `name`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            source: Arc::new(Source::new("connect", name)),
            limit: Duration::from_secs(1),
        }
    }

    /// Another limit; `Duration::MAX` is none.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl<S> Layer<S> for ConnectTimeoutLayer {
    type Service = ConnectTimeout<S>;

    fn layer(&self, inner: S) -> ConnectTimeout<S> {
        ConnectTimeout {
            inner,
            layer: self.clone(),
        }
    }
}

/// A connector whose connections have a time limit. Made by [`ConnectTimeoutLayer`].
#[derive(Clone, Debug)]
pub struct ConnectTimeout<S> {
    inner: S,
    layer: ConnectTimeoutLayer,
}

impl<S, Target> Service<Target> for ConnectTimeout<S>
where
    S: Service<Target>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConnectTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        ConnectTimeoutFuture {
            connecting: self.inner.call(target),
            alarm: None,
            layer: self.layer.clone(),
            done: false,
        }
    }
}

/// The future of a [`ConnectTimeout`].
///
/// # Cancel safety
///
/// Dropping it gives up the connection.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ConnectTimeoutFuture<F> {
    #[pin]
    connecting: F,
    /// Boxed, since hyper-util takes connectors only if their futures are `Unpin`. A connection is worth an allocation.
    alarm: Option<Pin<Box<Alarm>>>,
    layer: ConnectTimeoutLayer,
    done: bool,
}

impl<F, T, E> Future for ConnectTimeoutFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        assert!(
            !*this.done,
            "`ConnectTimeoutFuture` polled after completion"
        );
        if let Poll::Ready(connected) = this.connecting.poll(cx) {
            *this.done = true;
            return Poll::Ready(connected.map_err(Into::into));
        }
        let ConnectTimeoutLayer { source, limit } = &*this.layer;
        let limit = *limit;
        if limit == Duration::MAX {
            return Poll::Pending;
        }
        let alarm = this.alarm.get_or_insert_with(|| {
            let mut alarm = Box::pin(Alarm::new());
            alarm.as_mut().arm(limit, &Now::unread());
            alarm
        });
        ready!(alarm.as_mut().poll(cx));
        *this.done = true;
        let reason = Reason::ConnectTimeout { limit };
        let rejected = Rejected::new(reason, Arc::clone(source.name()));
        emit(&Event::Rejected {
            source,
            rejected: &rejected,
        });
        Poll::Ready(Err(rejected.into()))
    }
}

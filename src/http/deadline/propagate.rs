//! Sends the remaining time to the server.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::DeadlineHeader;
use crate::call::CallOptions;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::http::HttpRequest;
use crate::timeout::TimeoutLayer;

/// Propagates the remaining time to the server in a request header: on every attempt the time until the deadline or the
/// attempt's own limit, whichever is less, rounded down.
///
/// It goes innermost, inside retry and attempt timeout. A smaller value that the caller has set in the header is not
/// changed. A call without any limit is sent unchanged. An `http::Request` may carry a [`Deadline`] of its own in its extensions;
/// the earliest counts.
///
/// A time limit of the request itself, which reqwest enforces, is shortened to the time left until the deadline. Otherwise
/// it would restart with every attempt. It covers the response's body, so it is not changed for a call whose response
/// [streams](CallOptions::streams).
///
/// The time is that of the call's task when the service is called: a `Buffer` between the deadline and this layer hides it. A
/// client inside that follows redirects or retries sends the same value again.
///
/// ```
/// use std::time::Duration;
/// use buttress::http::deadline::{DeadlineHeader, PropagateDeadlineLayer};
/// use buttress::Error;
/// use buttress::timeout::{DeadlineLayer, TimeoutLayer};
/// use tower::ServiceBuilder;
///
/// # let client = tower::service_fn(async |_: http::Request<()>| Ok::<_, std::io::Error>(http::Response::new(())));
/// let attempt = TimeoutLayer::new("search", Duration::from_secs(1));
/// let out = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).inside(&attempt);
/// let search = ServiceBuilder::new()
///     .layer(DeadlineLayer::new("search", Duration::from_secs(3)))
///     .layer(attempt)
///     .layer(out)
///     .map_err(Error::Inner)
///     .service(client);
/// # fn takes<S: tower::Service<http::Request<()>>>(_: S) {}
/// # takes(search);
/// ```
#[derive(Clone, Debug)]
pub struct PropagateDeadlineLayer {
    /// `None`: nothing is written. Shared, because the service is cloned with every call that may be retried.
    out: Option<Arc<Out>>,
}

#[derive(Clone, Debug)]
struct Out {
    header: DeadlineHeader,
    /// Whether `grpc-timeout` is the caller's limit too, where `header` is another one.
    grpc: bool,
    attempt: Option<TimeoutLayer>,
}

impl PropagateDeadlineLayer {
    /// Writes this header; with `None`, nothing.
    pub fn new(header: impl Into<Option<DeadlineHeader>>) -> Self {
        let out = header.into().map(|header| Out {
            header,
            grpc: false,
            attempt: None,
        });
        Self {
            out: out.map(Arc::new),
        }
    }

    /// The timeout layer around this one, whose limit counts too. Without it, only a [`CallOptions::attempt_timeout`] does.
    #[must_use]
    pub fn inside(mut self, attempt: &TimeoutLayer) -> Self {
        if let Some(out) = &mut self.out {
            Arc::make_mut(out).attempt = Some(attempt.clone());
        }
        self
    }

    /// The same for gRPC, whose callers set `grpc-timeout` whatever header is configured.
    #[must_use]
    pub(crate) fn grpc(mut self) -> Self {
        if let Some(out) = &mut self.out {
            Arc::make_mut(out).grpc = true;
        }
        self
    }

    /// The deadline that the caller has set on this request: in its extensions, in the header, or as its own time limit.
    pub(crate) fn callers_deadline<R: HttpRequest>(&self, request: &R) -> Option<Deadline> {
        let extension = request.extensions().and_then(|of| of.get().copied());
        let header = self.out.as_ref().and_then(|out| out.read(request));
        let limit = header.into_iter().chain(request.timeout()).min();
        let deadline = limit.map(Deadline::after);
        deadline.into_iter().chain(extension).min()
    }

    /// The header, if one is written.
    pub fn header(&self) -> Option<&DeadlineHeader> {
        self.out.as_ref().map(|out| &out.header)
    }
}

impl Out {
    /// The headers in which a caller may have set a limit.
    fn callers_headers(&self) -> impl Iterator<Item = &DeadlineHeader> {
        let grpc = self.grpc && self.header != DeadlineHeader::GrpcTimeout;
        let grpc = grpc.then_some(&DeadlineHeader::GrpcTimeout);
        grpc.into_iter().chain([&self.header])
    }

    /// The time that the caller's headers give the call.
    fn read<R: HttpRequest>(&self, request: &R) -> Option<Duration> {
        let headers = request.headers();
        let given = self.callers_headers();
        given.filter_map(|header| header.read(headers)).min()
    }

    fn write<R: HttpRequest>(&self, request: &mut R) {
        let limit = CallOptions::current_attempt_timeout()
            .or_else(|| self.attempt.as_ref().map(TimeoutLayer::limit))
            .unwrap_or(Duration::MAX);
        let own = request
            .extensions()
            .and_then(|of| of.get::<Deadline>().copied());
        let deadline = Deadline::current().into_iter().chain(own).min();
        let left = deadline
            .map_or(Duration::MAX, |deadline| deadline.remaining(&Now::unread()))
            .min(limit);
        if left == Duration::MAX {
            return;
        }
        let headers = request.headers_mut();
        for header in self.callers_headers() {
            let asked = header.read(headers);
            let is_written = *header == self.header || asked.is_some();
            if is_written && asked.is_none_or(|asked| left < asked) {
                // An error means that there is no room for another header.
                let _ = headers.try_insert(header.name().clone(), header.format(left));
            }
        }
    }
}

/// Shortens the time limit of the request itself to the time left until the deadline.
fn shorten<R: HttpRequest>(request: &mut R) {
    if let (Some(own), Some(deadline)) = (request.timeout(), Deadline::current()) {
        let left = deadline.remaining(&Now::unread());
        if left < own && !CallOptions::current_streams() {
            request.set_timeout(left);
        }
    }
}

impl<S> Layer<S> for PropagateDeadlineLayer {
    type Service = PropagateDeadline<S>;

    fn layer(&self, inner: S) -> PropagateDeadline<S> {
        PropagateDeadline {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service that receives the remaining time. Made by [`PropagateDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct PropagateDeadline<S> {
    inner: S,
    layer: PropagateDeadlineLayer,
}

impl<S, Req> Service<Req> for PropagateDeadline<S>
where
    S: Service<Req>,
    Req: HttpRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        if let Some(out) = &self.layer.out {
            out.write(&mut request);
        }
        shorten(&mut request);
        let _hidden = CallOptions::hide_attempt_timeout();
        self.inner.call(request)
    }
}

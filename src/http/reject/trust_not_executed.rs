//! Trusts some servers that report that they did not execute a request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hashbrown::Equivalent;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::authority::Authority;
use crate::http::reject::retry_headers::{NOT_EXECUTED, NotExecuted};
use crate::http::request::{HttpRequest, HttpResponse};

/// Trusts some servers that report that they did not execute a request. Put it next to the client.
///
/// They report it with `x-buttress-not-executed: 1`, as [`handle_rejections`](crate::http::handle_rejections) does with
/// [`not_executed_header`](crate::http::HandleRejectionsLayer::not_executed_header). [`ByStatus`](crate::http::ByStatus) then classifies the failure
/// as overloaded, and a retry layer may retry the request whatever its method. From any other server, the header is ignored.
/// It is removed in either case, because it concerns this hop only.
///
/// Name only servers that you are connected to directly: a proxy in between may have retried the request, and an earlier
/// attempt may have been executed.
///
/// ```
/// use buttress::http::{Authority, TrustNotExecutedLayer};
///
/// let orders: Authority = "http://orders.internal:8080".parse()?;
/// let layer = TrustNotExecutedLayer::new([orders]);
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TrustNotExecutedLayer {
    servers: Arc<[Authority]>,
}

impl TrustNotExecutedLayer {
    /// Trusts only these servers.
    pub fn new(servers: impl Into<Arc<[Authority]>>) -> Self {
        Self {
            servers: servers.into(),
        }
    }
}

impl<S> Layer<S> for TrustNotExecutedLayer {
    type Service = TrustNotExecuted<S>;

    fn layer(&self, inner: S) -> TrustNotExecuted<S> {
        TrustNotExecuted {
            inner,
            layer: self.clone(),
        }
    }
}

/// A client that trusts some servers. Made by [`TrustNotExecutedLayer`].
#[derive(Clone, Debug)]
pub struct TrustNotExecuted<S> {
    inner: S,
    layer: TrustNotExecutedLayer,
}

impl<S, Req> Service<Req> for TrustNotExecuted<S>
where
    S: Service<Req>,
    S::Response: HttpResponse,
    Req: HttpRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TrustNotExecutedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let server = request.authority();
        let trusted = self.layer.servers.iter().any(|one| server.equivalent(one));
        TrustNotExecutedFuture {
            inner: self.inner.call(request),
            trusted,
            done: false,
        }
    }
}

/// The future of a service of [`TrustNotExecutedLayer`].
///
/// # Cancel safety
///
/// Dropping it drops the inner future.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TrustNotExecutedFuture<F> {
    #[pin]
    inner: F,
    trusted: bool,
    done: bool,
}

impl<F, Res, E> Future for TrustNotExecutedFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    Res: HttpResponse,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        assert!(
            !*this.done,
            "`TrustNotExecutedFuture` polled after completion"
        );
        let result = ready!(this.inner.poll(cx));
        *this.done = true;
        let mut response = result?;
        // A header that occurs twice does not come from one server only.
        let mut values = response.headers().get_all(NOT_EXECUTED).iter();
        let one = values.next().is_some_and(|value| value == "1") && values.next().is_none();
        if one && *this.trusted {
            response.extensions_mut().insert(NotExecuted::There);
        }
        response.headers_mut().remove(NOT_EXECUTED);
        Poll::Ready(Ok(response))
    }
}

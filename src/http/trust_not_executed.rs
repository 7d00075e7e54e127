//! Which servers are believed when they say that they did not act on a request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hashbrown::Equivalent;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::authority::Authority;
use super::marks::{NOT_EXECUTED, NotExecuted};
use super::request::{HttpRequest, HttpResponse};

/// Believes some servers when they say that they did not act on a request; put it next to the client.
///
/// They say so by `x-buttress-not-executed: 1` on a response, as [`handle_rejections`](super::handle_rejections) does with
/// [`not_executed_header`](super::HandleRejectionsLayer::not_executed_header). [`ByStatus`](super::ByStatus) then takes a failure for
/// overload, and a retry layer may repeat the request whatever its method. From any other server the header counts for
/// nothing. It is taken off in either case: it is about this hop only.
///
/// Name only servers that you are connected to directly: a proxy between you that repeats requests may have had one of
/// them executed before another was refused.
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
    /// Believes these servers, and no others.
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
            servers: Arc::clone(&self.servers),
        }
    }
}

/// A client that believes some servers. Made by [`TrustNotExecutedLayer`].
#[derive(Clone, Debug)]
pub struct TrustNotExecuted<S> {
    inner: S,
    servers: Arc<[Authority]>,
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
        let trusted = self.servers.iter().any(|one| server.equivalent(one));
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
        // Twice is said by more than the one server: no word to rely on.
        let mut said = response.headers().get_all(NOT_EXECUTED).iter();
        let one = said.next().is_some_and(|value| value == "1") && said.next().is_none();
        if one && *this.trusted {
            response.extensions_mut().insert(NotExecuted::There);
        }
        response.headers_mut().remove(NOT_EXECUTED);
        Poll::Ready(Ok(response))
    }
}

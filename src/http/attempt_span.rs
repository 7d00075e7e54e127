//! A span for each attempt, as OpenTelemetry has it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Method, StatusCode};
use pin_project::{pin_project, pinned_drop};
use tower_layer::Layer;
use tower_service::Service;
use tracing::field::Empty;
use tracing::instrument::{Instrument, Instrumented};
use tracing::{Span, info_span};

use super::request::{HttpRequest, HttpResponse};
use crate::call::Call;
use crate::http::classify::status::ByStatus;
use crate::outcome::Classify;

/// Opens a `tracing` span for each attempt, with the fields of OpenTelemetry's conventions for HTTP clients.
///
/// Put it innermost, or just outside of the attempt's time limit, so that the span records why it ended. Its parent is the span
/// in which the call is made, its level `INFO`, its target `buttress`. It is entered whenever the attempt is polled or
/// dropped, and ends with the response's head.
///
/// | field | value |
/// |---|---|
/// | `otel.name`, `http.request.method` | the method; `HTTP` and `_OTHER` if it is not one of RFC 9110 or PATCH |
/// | `otel.kind` | `client` |
/// | `url.scheme`, `server.address`, `server.port` | the server of the request |
/// | `http.request.resend_count` | [`Call::resends`]; absent on the first attempt |
/// | `http.response.status_code` | the status, if there was a response |
/// | `error.type` | the status from 400 on, else the classifier's ([`Classify::error_type`]); `cancelled` if the attempt was dropped, `panic` if it panicked; absent on success |
/// | `otel.status_code` | `ERROR` with a status from 400 on, an error or a panic |
///
/// It contains neither path nor query, because they may contain secrets.
///
/// ```
/// use std::time::Duration;
/// use buttress::http::{AttemptSpanLayer, ByStatus, Replay};
/// use buttress::retry::{RetryConfig, RetryLayer};
/// use buttress::Error;
/// use buttress::timeout::TimeoutLayer;
/// use tower::ServiceBuilder;
///
/// # let hyper = tower::service_fn(async |_: http::Request<String>| Ok::<_, std::io::Error>(http::Response::new(String::new())));
/// let search = ServiceBuilder::new()
///     .layer(RetryLayer::new("search", RetryConfig::new(), Replay::new())?.classify(ByStatus::new()))
///     .layer(AttemptSpanLayer::new())
///     .layer(TimeoutLayer::new("search", Duration::from_secs(3)))
///     .map_err(Error::Inner)
///     .service(hyper);
/// let search = buttress::verify::<http::Request<String>, _>(search);
/// # let _ = search;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
///
/// # Cancel safety
///
/// Dropping the future drops the attempt, inside its span.
#[derive(Clone, Copy, Debug)]
pub struct AttemptSpanLayer<C = ByStatus> {
    classify: C,
    enabled: bool,
}

impl Default for AttemptSpanLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl AttemptSpanLayer {
    /// A span for each attempt.
    pub const fn new() -> Self {
        Self {
            classify: ByStatus::new(),
            enabled: true,
        }
    }
}

impl<C> AttemptSpanLayer<C> {
    /// Sets the classifier that names errors. Default: [`ByStatus`].
    #[must_use]
    pub fn classify<D>(self, classify: D) -> AttemptSpanLayer<D> {
        AttemptSpanLayer {
            classify,
            enabled: self.enabled,
        }
    }

    /// Whether there are any spans. Default: yes.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }
}

impl<S, C: Clone> Layer<S> for AttemptSpanLayer<C> {
    type Service = AttemptSpan<S, C>;

    fn layer(&self, inner: S) -> AttemptSpan<S, C> {
        AttemptSpan {
            inner,
            layer: self.clone(),
        }
    }
}

/// A client whose attempts are spans. Made by [`AttemptSpanLayer`].
#[derive(Clone, Debug)]
pub struct AttemptSpan<S, C = ByStatus> {
    inner: S,
    layer: AttemptSpanLayer<C>,
}

impl<S, C, Req> Service<Req> for AttemptSpan<S, C>
where
    S: Service<Req>,
    S::Response: HttpResponse,
    C: Classify<S::Response, S::Error> + Clone,
    Req: HttpRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AttemptSpanFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let span = if self.layer.enabled {
            open(&request)
        } else {
            Span::none()
        };
        let attempt = span.in_scope(|| self.inner.call(request));
        AttemptSpanFuture {
            attempt: attempt.instrument(span),
            classify: self.layer.classify.clone(),
            ended: false,
            unwound: false,
        }
    }
}

/// The span of this request. Its fields are computed only if the span is enabled.
fn open(request: &impl HttpRequest) -> Span {
    let resends = || Some(Call::current().resends()).filter(|resends| *resends > 0);
    info_span!(
        target: "buttress",
        "attempt",
        otel.kind = "client",
        otel.name = known(request.method()).unwrap_or("HTTP"),
        otel.status_code = Empty,
        http.request.method = known(request.method()).unwrap_or("_OTHER"),
        http.request.resend_count = resends(),
        http.response.status_code = Empty,
        url.scheme = request.authority().scheme,
        server.address = request.authority().address(),
        server.port = request.authority().port_in_use(),
        "error.type" = Empty,
    )
}

/// A known method: callers could use others to create any number of names.
fn known(method: &Method) -> Option<&str> {
    let known = matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH
    );
    known.then(|| method.as_str())
}

/// The future of a service of [`AttemptSpanLayer`].
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AttemptSpanFuture<F, C = ByStatus> {
    #[pin]
    attempt: Instrumented<F>,
    classify: C,
    ended: bool,
    /// Whether a poll has begun and not returned.
    unwound: bool,
}

impl<F, C, Res, E> Future for AttemptSpanFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    Res: HttpResponse,
    C: Classify<Res, E>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        assert!(!*this.ended, "`AttemptSpanFuture` polled after completion");
        *this.unwound = true;
        let polled = this.attempt.as_mut().poll(cx);
        *this.unwound = false;
        let result = ready!(polled);
        *this.ended = true;
        let span = this.attempt.span();
        if !span.is_disabled() {
            match &result {
                Ok(response) => record_status(span, response.status()),
                Err(error) => record_failure(span, this.classify.error_type(error)),
            }
        }
        Poll::Ready(result)
    }
}

fn record_status(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.as_u16() >= 400 {
        record_failure(span, status.as_str());
    }
}

fn record_failure(span: &Span, error_type: &str) {
    span.record("error.type", error_type);
    span.record("otel.status_code", "ERROR");
}

#[pinned_drop]
impl<F, C> PinnedDrop for AttemptSpanFuture<F, C> {
    fn drop(self: Pin<&mut Self>) {
        if self.unwound {
            record_failure(self.attempt.span(), "panic");
        } else if !self.ended {
            self.attempt.span().record("error.type", "cancelled");
        }
    }
}

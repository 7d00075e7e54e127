//! Clients treat a stored response as final, and a stored failure as neutral for the breaker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState};
use buttress::http::{ByStatus, ClientConfig, IdempotencyKeys, Replay, client};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::{BoxError, CallOptions, Error};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<bytes::Bytes>;

/// A server with one stored response, and the number of requests to it.
fn server(
    status: u16,
    headers: &[(&'static str, &'static str)],
) -> (
    impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static,
    Arc<AtomicUsize>,
) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        })
        .collect();
    let service = service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Body::default());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers.clone();
        async { Ok(response) }
    });
    (service, asked)
}

fn payment() -> Request<Body> {
    let request = Request::post("http://shop.example/payments");
    request.body(Body::from("10 EUR")).unwrap()
}

const RETRY_AFTER: (&str, &str) = ("retry-after", "1");
const REPLAYED: (&str, &str) = ("idempotent-replayed", "true");

/// The number of attempts of the standard stack at a server with this response, and the state of a breaker that one failure opens.
async fn attempts(status: u16, headers: &[(&'static str, &'static str)]) -> (usize, BreakerState) {
    let (server, asked) = server(status, headers);
    let breaker = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO);
    // Its breaker would end the retries.
    let config = || ClientConfig::default().idempotency_keys(IdempotencyKeys::Honored);
    let retried = client("replayed.retry", config().breaker(None)).unwrap();
    let response = retried.layer(server.clone()).oneshot(payment()).await;
    assert_eq!(response.unwrap().status(), status);
    let attempts = asked.load(Ordering::SeqCst);
    let guarded = client("replayed.breaker", config().breaker(breaker)).unwrap();
    let stack = guarded.layer(server);
    let _ = CallOptions::new()
        .retry(false)
        .scope(stack.oneshot(payment()))
        .await;
    let state = guarded.breakers().unwrap().entries()[0].1.state();
    (attempts, state)
}

#[tokio::test(start_paused = true)]
async fn the_standard_client_takes_a_stored_response_as_final() {
    assert_eq!(attempts(503, &[RETRY_AFTER]).await.0, 3);
    for status in [200, 400, 409, 425, 429, 500, 502, 503, 504] {
        let stored = attempts(status, &[RETRY_AFTER, REPLAYED]).await;
        assert_eq!(stored, (1, BreakerState::Closed), "{status}");
        let should_retry = [REPLAYED, ("x-should-retry", "true")];
        assert_eq!(attempts(status, &should_retry).await.0, 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn any_value_true_marks_a_stored_response() {
    for value in ["true", "TRUE", " true", "false, true"] {
        let marked = [("idempotent-replayed", value)];
        assert_eq!(attempts(500, &marked).await.0, 1, "{value}");
    }
    for value in ["false", "", "1", "untrue"] {
        let unmarked = [("idempotent-replayed", value)];
        assert_eq!(attempts(500, &unmarked).await.0, 3, "{value}");
    }
    let twice = [("idempotent-replayed", "false"), REPLAYED];
    assert_eq!(attempts(500, &twice).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn single_layers_take_a_stored_response_as_final() {
    let (stored, asked) = server(503, &[RETRY_AFTER, REPLAYED]);
    let breaker = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO);
    let breaker = Breaker::new("replayed.single", breaker).unwrap();
    let retry = RetryLayer::new(
        "replayed.single",
        RetryConfig::new(),
        Replay::new().idempotency_keys(IdempotencyKeys::Honored),
    );
    let service = tower::ServiceBuilder::new()
        .layer(retry.unwrap().classify(ByStatus::new()))
        .layer(BreakerLayer::new(breaker.clone(), ByStatus::new()))
        .map_err(Error::Inner)
        .service(stored);
    let mut request = payment();
    let key = HeaderValue::from_static("\"0123456789abcdef\"");
    request.headers_mut().insert("idempotency-key", key);
    let response: Result<_, Error<BoxError>> = service.oneshot(request).await;
    assert_eq!(response.unwrap().status(), 503);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

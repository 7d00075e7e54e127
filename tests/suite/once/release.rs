//! When a key is released, when a response is stored, and when the outcome is unknown.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::clock::Now;
use buttress::http::{ClientConfig, client, handle_rejections};
use buttress::idempotency::{
    AfterCrash, IdempotencyConfig, IdempotencyLayer, Operation, StoragePolicy, StoredBody,
};
use buttress::timeout::TimeoutLayer;
use buttress::{BoxError, ErrorIsTransient};
use tokio::sync::Semaphore;
use tower::buffer::BufferLayer;
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::timeout::TimeoutLayer as HttpTimeoutLayer;

use super::shop::settle;
use super::{layer, payment, sent};

const SECOND: Duration = Duration::from_secs(1);
const KEY: &str = "order-4711-00001";

fn router(pay: MethodRouter, layer: IdempotencyLayer) -> Router {
    Router::new()
        .route("/payments", pay)
        .layer(handle_rejections(layer))
}

/// The status of each of these requests with one key, one after the other.
async fn statuses(router: &Router, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(sent(router, payment(KEY, "10 EUR")).await.0.as_u16());
        settle().await;
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_inside_leaves_one_effect_and_an_unknown_outcome() {
    for storage in [
        StoragePolicy::Definitive,
        StoragePolicy::SuccessOnly,
        StoragePolicy::DeleteOnError,
    ] {
        for after_crash in [AfterCrash::RunAgain, AfterCrash::Refuse] {
            let effects = Arc::new(AtomicUsize::new(0));
            let acts = Arc::clone(&effects);
            let pay = async move || {
                acts.fetch_add(1, Ordering::SeqCst);
                pending::<&'static str>().await
            };
            let config = IdempotencyConfig::default()
                .storage(storage)
                .after_crash(after_crash);
            let limit = HttpTimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, SECOND);
            let router = Router::new()
                .route("/payments", post(pay))
                .layer(limit)
                .layer(handle_rejections(layer(config)));
            assert_eq!(statuses(&router, 3).await, [408, 409, 409]);
            assert_eq!(
                effects.load(Ordering::SeqCst),
                1,
                "{storage:?} {after_crash:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_overload_response_is_not_replayed_once_the_service_is_idle() {
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let pay = async move |operation: Operation| {
        let _ = wait.acquire().await.unwrap();
        format!("run {}", operation.run())
    };
    let shed = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |_: BoxError| {
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")])
        }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let router = Router::new()
        .route("/payments", post(pay))
        .layer(shed)
        .layer(handle_rejections(layer(IdempotencyConfig::default())));
    let first = router.clone();
    let first = tokio::spawn(async move { sent(&first, payment("order-4711-00000", "")).await });
    settle().await;
    let shed = sent(&router, payment(KEY, "10 EUR")).await;
    assert_eq!(shed.0, 503, "{shed:?}");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().2, "run 1");
    // The rejection of a foreign layer does not prove that nothing happened.
    let second = sent(&router, payment(KEY, "10 EUR")).await;
    assert_eq!(second, (StatusCode::OK, None, "run 2".into()));
}

/// A handler that returns this without taking its operation.
async fn never_takes(
    config: IdempotencyConfig,
    response: impl IntoResponse + Clone + Send + Sync + 'static,
) -> (u16, Option<u32>) {
    let first = Arc::new(AtomicUsize::new(0));
    let pay = async move |request: Request| {
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            return response.into_response();
        }
        let operation = Operation::take(request.extensions()).unwrap().unwrap();
        operation.run().to_string().into_response()
    };
    let router = router(post(pay), layer(config));
    let status = sent(&router, payment(KEY, "10 EUR")).await.0.as_u16();
    let run = sent(&router, payment(KEY, "10 EUR")).await.2.parse().ok();
    (status, run)
}

#[tokio::test(start_paused = true)]
async fn where_handlers_take_their_operation_a_response_before_that_releases_the_key() {
    let takes = IdempotencyConfig::default().handlers_take_operation(true);
    let released = [200, 401, 404, 408, 422, 500, 503].map(|status| (&takes, status, Some(1)));
    // By default it proves nothing.
    let default = IdempotencyConfig::default();
    let not_released = [(&default, 404, None), (&default, 401, Some(2))];
    for (config, status, run) in released.into_iter().chain(not_released) {
        let response = StatusCode::from_u16(status).unwrap();
        let seen = never_takes(config.clone(), response).await;
        assert_eq!(seen, (status, run));
    }
}

/// A time limit in front of a queue of one place, whose worker is busy when the request comes.
async fn effects_behind_a_queue(config: IdempotencyConfig) -> (usize, Vec<u32>) {
    let effects = Arc::new(AtomicUsize::new(0));
    let runs = Arc::new(std::sync::Mutex::new(Vec::new()));
    let gate = Arc::new(Semaphore::new(0));
    let (acts, wait, ran) = (Arc::clone(&effects), Arc::clone(&gate), Arc::clone(&runs));
    let handler = service_fn(move |request: http::Request<StoredBody<Body>>| {
        let (acts, wait, ran) = (Arc::clone(&acts), Arc::clone(&wait), Arc::clone(&ran));
        async move {
            if request.uri().path() == "/block" {
                let _ = wait.acquire().await.unwrap();
            } else if let Ok(operation) = Operation::take(request.extensions()) {
                ran.lock().unwrap().push(operation.unwrap().run());
                acts.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    let queue = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(handler);
    let mut blocked = queue.clone();
    let block = http::Request::post("/block")
        .body(StoredBody::default())
        .unwrap();
    tokio::spawn(blocked.ready().await.unwrap().call(block));
    settle().await;
    let service = ServiceBuilder::new()
        .layer(layer(config))
        .layer(TimeoutLayer::new("queue", SECOND))
        .service(queue);
    let ask = || service.clone().oneshot(payment(KEY, "10 EUR"));
    assert!(ask().await.is_err(), "it is still in the queue");
    gate.add_permits(1);
    settle().await;
    let _ = ask().await;
    settle().await;
    let runs = runs.lock().unwrap().clone();
    (effects.load(Ordering::SeqCst), runs)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_still_in_a_queue_when_its_time_is_over_has_one_effect() {
    let config = IdempotencyConfig::default;
    assert_eq!(
        effects_behind_a_queue(config()).await.0,
        0,
        "it was cut off"
    );
    let released = effects_behind_a_queue(config().handlers_take_operation(true)).await;
    // The first request found its operation ended.
    assert_eq!(released, (1, vec![1]));
}

/// A breaker that rejects every call.
fn open() -> Breaker {
    let breaker = Breaker::new("provider", BreakerConfig::default()).unwrap();
    breaker.isolate();
    breaker
}

type Inside = http::Request<StoredBody<Body>>;

/// The number of effects of two requests to this handler, which acts and then passes on the rejection of its own call.
async fn effects_of_two<S>(config: IdempotencyConfig, effects: &AtomicUsize, handler: S) -> usize
where
    S: Service<Inside, Response = Response, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let service = layer(config).layer(handler);
    for _ in 0..2 {
        let _ = service.clone().oneshot(payment(KEY, "10 EUR")).await;
        settle().await;
    }
    effects.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_of_the_handler_does_not_release_the_key() {
    let config = || IdempotencyConfig::default().after_crash(AfterCrash::Refuse);
    let provider = service_fn(async |_: Inside| Ok::<_, BoxError>(Response::new(Body::empty())));
    let call = || {
        http::Request::post("/charges")
            .body(StoredBody::default())
            .unwrap()
    };

    // As an error.
    let effects = Arc::new(AtomicUsize::new(0));
    let acts = Arc::clone(&effects);
    let calls = BreakerLayer::new(open(), ErrorIsTransient).layer(provider);
    let handler = service_fn(move |_: Inside| {
        acts.fetch_add(1, Ordering::SeqCst);
        calls.clone().oneshot(call())
    });
    assert_eq!(effects_of_two(config(), &effects, handler).await, 1);

    // As a response.
    let effects = Arc::new(AtomicUsize::new(0));
    let acts = Arc::clone(&effects);
    let infallible =
        service_fn(async |_: Inside| Ok::<_, Infallible>(Response::new(Body::empty())));
    let calls = handle_rejections(BreakerLayer::new(open(), ErrorIsTransient)).layer(infallible);
    let handler = service_fn(move |_: Inside| {
        acts.fetch_add(1, Ordering::SeqCst);
        let calls = calls.clone();
        async move {
            Ok(calls
                .oneshot(call())
                .await
                .unwrap_or_else(|never| match never {}))
        }
    });
    assert_eq!(effects_of_two(config(), &effects, handler).await, 1);

    // As a reverse proxy: the request itself is passed on, and rejected.
    let effects = Arc::new(AtomicUsize::new(0));
    let acts = Arc::clone(&effects);
    let proxy = client("proxy", ClientConfig::default()).unwrap();
    let proxy = proxy.map_request_body(Body::new);
    proxy
        .breakers()
        .unwrap()
        .get(&call(), &Now::unread())
        .isolate();
    let provider = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty())));
    let calls = proxy
        .layer(provider)
        .map_response(|response| response.map(Body::new));
    let calls: BoxCloneSyncService<Inside, Response, BoxError> = BoxCloneSyncService::new(calls);
    let handler = service_fn(move |request: Inside| {
        acts.fetch_add(1, Ordering::SeqCst);
        calls.clone().oneshot(request)
    });
    assert_eq!(effects_of_two(config(), &effects, handler).await, 1);
}

#[tokio::test(start_paused = true)]
async fn store_when_takes_precedence_over_the_policy() {
    for (status, stored) in [
        (200, false),
        (404, true),
        (408, true),
        (408, false),
        (429, true),
        (500, true),
    ] {
        let pay = async move |operation: Operation| {
            let status = StatusCode::from_u16(status).unwrap();
            (status, operation.run().to_string())
        };
        let layer = super::layer(IdempotencyConfig::default()).store_when(move |response| {
            let decides = !matches!(response.status.as_u16(), 404 | 500);
            decides.then_some(stored)
        });
        let router = router(post(pay), layer);
        assert_eq!(statuses(&router, 1).await, [status]);
        let again = sent(&router, payment(KEY, "10 EUR")).await;
        let run = if stored { "1" } else { "2" };
        assert_eq!((again.0.as_u16(), &*again.2), (status, run));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_has_ended_cannot_be_taken() {
    let (requests, mut received) = tokio::sync::mpsc::unbounded_channel();
    let handler = service_fn(move |request: http::Request<StoredBody<Body>>| {
        requests.send(request).unwrap();
        ready(Ok::<_, BoxError>(Response::new(Body::empty())))
    });
    let service = layer(IdempotencyConfig::default()).layer(handler);
    service.oneshot(payment(KEY, "10 EUR")).await.unwrap();
    let request = received.recv().await.unwrap();
    let error = Operation::take(request.extensions()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the operation ended before its handler was called"
    );
    // As an extractor.
    let router: Router = Router::new().route("/payments", post(async |_: Operation| "acted"));
    let response = router.oneshot(request.map(Body::new)).await.unwrap();
    assert_eq!(response.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_another_one_does_not_release_what_the_inner_one_has_executed() {
    let takes = || IdempotencyConfig::default().handlers_take_operation(true);
    let inner = IdempotencyConfig::default()
        .header("x-inner-key")
        .required(true);
    let effects = Arc::new(AtomicUsize::new(0));
    let acts = Arc::clone(&effects);
    let pay = async move |_: Operation| {
        acts.fetch_add(1, Ordering::SeqCst);
        StatusCode::OK
    };
    let router = Router::new()
        .route("/payments", post(pay))
        .layer(handle_rejections(layer(inner)))
        .layer(handle_rejections(layer(takes())));
    let request = || {
        let mut request = payment(KEY, "10 EUR");
        let key = request.headers()["idempotency-key"].clone();
        request.headers_mut().insert("x-inner-key", key);
        request
    };
    for replayed in [None, Some("true".to_owned())] {
        let (status, again, _) = sent(&router, request()).await;
        assert_eq!((status, again), (StatusCode::OK, replayed));
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

//! Every layer keeps tower's contract, over a strict service and over those in whose company layers have failed.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Breaker, BreakerLayer, BreakerState};
use buttress::gate::{By, Keyed, KeyedConfig, by};
use buttress::http::{ByStatus, answer};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::repeat::Cloned;
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::telemetry::{ObserveLayer, Observed};
use buttress::{BoxError, DeadlineLayer, Error, ErrorIsTransient, TimeoutLayer, repeat};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{Failure, Inner, SECOND, bad, breaker, good, poll, rejection, three_in_a_row};

type PerRequest = Keyed<u32, By<fn(&()) -> u32>, Breaker>;

fn keyed() -> BreakerLayer<ErrorIsTransient, PerRequest> {
    let key: fn(&()) -> u32 = |()| 7;
    let keyed = Breaker::keyed(
        "contract",
        three_in_a_row(),
        KeyedConfig::default(),
        by(key),
    );
    BreakerLayer::new(keyed.unwrap(), ErrorIsTransient)
}

fn single() -> BreakerLayer<ErrorIsTransient> {
    BreakerLayer::new(breaker("contract", three_in_a_row()), ErrorIsTransient)
}

fn observe() -> ObserveLayer<ErrorIsTransient> {
    ObserveLayer::new(Observed::new("contract"), ErrorIsTransient)
}

/// At once, as often as the budget pays.
fn retry() -> RetryLayer<Cloned> {
    let at_once = Backoff::constant(std::time::Duration::ZERO).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(at_once);
    RetryLayer::new("contract", config, repeat::cloned()).unwrap()
}

/// `clones`: how often a call clones the service.
async fn keeps_the_contract<L>(layer: L, clones: usize)
where
    L: Layer<Inner> + Clone,
    L::Service: Service<(), Response = &'static str, Error = Failure> + Clone,
{
    let inner: Inner = Inner::new(|_| good());
    let mut service = layer.layer(inner.clone());
    // Polled ready before each call, or the strict service panics.
    for _ in 0..3 {
        assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    }
    assert_eq!(inner.calls(), 3);
    // What was polled ready can be called although it was cloned meanwhile; the clone is polled by itself.
    service.ready().await.unwrap();
    let cloned = service.clone();
    assert_eq!(service.call(()).await, Ok("good"));
    assert_eq!(cloned.oneshot(()).await, Ok("good"));
    // Readiness is the inner service's: waited for, and its errors are passed on.
    inner.pend_once();
    let ready = poll(std::pin::pin!(std::future::poll_fn(
        |cx| service.poll_ready(cx)
    )));
    assert!(ready.is_pending());
    inner.fail_ready_once(Error::Inner("gone"));
    let ready = poll(std::pin::pin!(std::future::poll_fn(
        |cx| service.poll_ready(cx)
    )));
    assert_eq!(ready, Poll::Ready(Err(Error::Inner("gone"))));
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    // The service is not cloned needlessly.
    let before = inner.clones();
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    assert_eq!(inner.clones() - before, clones);
    assert_eq!(inner.live(), 0);
    // A failure of the service comes out as it went in.
    let failing = layer.clone().layer(Inner::new(|_| bad()));
    assert_eq!(failing.oneshot(()).await, Err(Error::Inner("bad")));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_keeps_the_contract() {
    keeps_the_contract(DeadlineLayer::new("contract", SECOND), 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_keeps_the_contract() {
    keeps_the_contract(TimeoutLayer::new("contract", SECOND), 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_keeps_the_contract() {
    keeps_the_contract(single(), 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_keyed_breaker_keeps_the_contract() {
    keeps_the_contract(keyed(), 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_keeps_the_contract() {
    keeps_the_contract(observe(), 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_the_contract_and_clones_the_service_once_a_call() {
    keeps_the_contract(retry(), 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_whole_stack_keeps_the_contract() {
    let stack = ServiceBuilder::new()
        .layer(observe())
        .layer(DeadlineLayer::new("contract", 3 * SECOND))
        .layer(retry())
        .layer(single())
        .layer(keyed())
        .layer(TimeoutLayer::new("contract", SECOND))
        .layer(observe())
        .into_inner();
    keeps_the_contract(stack, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_keeps_the_contract() {
    let inner: Inner<http::Request<()>> = Inner::new(|_| good());
    let mut service = IdempotencyKeyLayer::new().layer(inner.clone());
    for _ in 0..3 {
        let request = http::Request::post("/").body(()).unwrap();
        assert_eq!(
            service.ready().await.unwrap().call(request).await,
            Ok("good")
        );
    }
    inner.fail_ready_once(Error::Inner("gone"));
    assert!(service.ready().await.is_err());
    let request = http::Request::get("/").body(()).unwrap();
    assert_eq!(service.clone().oneshot(request).await, Ok("good"));
    let requests = inner.take_requests();
    let keys: Vec<_> = requests
        .iter()
        .map(|request| request.headers().get("idempotency-key"))
        .collect();
    assert!(keys[0].is_some() && keys[0] != keys[1] && keys[3].is_none());
    assert_eq!(inner.clones(), 2, "one was ours");
}

#[tokio::test(start_paused = true)]
async fn over_a_concurrency_limit_of_one_the_whole_stack_works() {
    let inner: Inner = Inner::new(|call| if call % 3 == 2 { good() } else { bad() });
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("limited", 60 * SECOND))
        .layer(retry().without_budget())
        .layer(single())
        .layer(TimeoutLayer::new("limited", SECOND))
        .service(ConcurrencyLimit::new(inner.clone(), 1));
    let calls = (0..10).map(|_| tokio::spawn(stack.clone().oneshot(())));
    for call in calls.collect::<Vec<_>>() {
        let result = call.await.unwrap();
        assert!(
            matches!(result, Ok("good") | Err(Error::Inner("bad"))),
            "{result:?}"
        );
    }
    assert!(inner.calls() >= 10);
    assert_eq!(inner.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn over_a_buffer_the_whole_stack_works_and_its_errors_are_boxed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |(): ()| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<(), _>(std::io::Error::other("bad")))
    });
    let handle = breaker("buffered", three_in_a_row());
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("buffered", 60 * SECOND))
        .layer(retry())
        .layer(BreakerLayer::new(handle.clone(), ErrorIsTransient))
        .layer(TimeoutLayer::new("buffered", SECOND))
        .service(Buffer::new(service, 1));
    let error: BoxError = stack.clone().oneshot(()).await.unwrap_err();
    assert!(
        error.is::<std::io::Error>(),
        "the service's own error: {error}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(handle.state(), BreakerState::Open);
    let error = stack.oneshot(()).await.unwrap_err();
    let error: &buttress::Rejected = error.downcast_ref().expect("our own refusal");
    assert_eq!(&*error.name, "buffered");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_borrow_and_need_not_be_send() {
    let counter = Rc::new(Cell::new(0));
    let text = String::from("borrowed");
    let service = service_fn(async |(counter, text): (Rc<Cell<u32>>, &str)| {
        tokio::time::sleep(SECOND / 10).await;
        counter.set(counter.get() + 1);
        if counter.get() < 3 {
            return Err(Error::Inner("bad"));
        }
        Ok(text.len())
    });
    let stack = ServiceBuilder::new()
        .layer(observe())
        .layer(DeadlineLayer::new("local", 3 * SECOND))
        .layer(retry())
        .layer(single())
        .layer(TimeoutLayer::new("local", SECOND))
        .service(service);
    assert_eq!(stack.oneshot((Rc::clone(&counter), &text[..])).await, Ok(8));
    assert_eq!(counter.get(), 3);
}

// ── axum ──

/// A router whose handler always fails, and how often it was asked.
fn failing_router() -> (axum::Router, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(http::StatusCode::INTERNAL_SERVER_ERROR)
    };
    let router = axum::Router::new()
        .route("/a", axum::routing::get(handler.clone()))
        .route("/b", axum::routing::get(handler));
    (router, asked)
}

async fn get(router: &axum::Router, path: &str) -> axum::response::Response {
    let request = http::Request::get(path)
        .body(axum::body::Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_breaker_in_axums_router_layer_really_opens() {
    let (router, asked) = failing_router();
    let handle = breaker("axum", three_in_a_row());
    let layer = BreakerLayer::new(handle.clone(), ByStatus::new());
    let router = router.layer(answer(layer));
    for number in 0..40 {
        let response = get(&router, ["/a", "/b"][number % 2]).await;
        let expected = if number < 3 { 500 } else { 503 };
        assert_eq!(response.status(), expected, "request {number}");
        let wait = response.headers().get(http::header::RETRY_AFTER);
        assert_eq!(wait.is_some_and(|wait| wait == "2"), number >= 3);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(handle.state(), BreakerState::Open);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(get(&router, "/a").await.status(), 500, "a probe");
    assert_eq!(get(&router, "/b").await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn every_layer_goes_into_axums_router_layer() {
    let (router, asked) = failing_router();
    let layers = ServiceBuilder::new()
        .layer(ObserveLayer::new(
            Observed::new("axum-all"),
            ByStatus::new(),
        ))
        .layer(DeadlineLayer::new("axum-all", 3 * SECOND))
        .layer(BreakerLayer::new(
            breaker("axum-all", three_in_a_row()),
            ByStatus::new(),
        ))
        .layer(TimeoutLayer::new("axum-all", SECOND))
        .into_inner();
    let router = router
        .route("/hang", axum::routing::get(std::future::pending::<()>))
        .layer(answer(layers));
    assert_eq!(get(&router, "/hang").await.status(), 504);
    for _ in 0..40 {
        get(&router, "/a").await;
    }
    assert_eq!(
        asked.load(Ordering::SeqCst),
        2,
        "the timeout was the first failure"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_fails_needs_no_error_of_its_own() {
    let stack =
        answer(TimeoutLayer::new("infallible", SECOND)).layer(service_fn(async |(): ()| {
            std::future::pending::<()>().await;
            Ok::<http::Response<String>, Infallible>(http::Response::default())
        }));
    let Ok(response) = stack.oneshot(()).await;
    assert_eq!(response.status(), 504);
}

#[tokio::test(start_paused = true)]
async fn a_layer_outside_does_not_keep_the_readiness_it_has_used() {
    // What a call has taken of the limit is free again when the call is over, though the stack lives on.
    let limited = ConcurrencyLimit::new(Inner::new(|_| good()), 1);
    let mut stack = retry().layer(single().layer(limited.clone()));
    assert_eq!(stack.ready().await.unwrap().call(()).await, Ok("good"));
    let mut other = limited;
    let ready = poll(std::pin::pin!(std::future::poll_fn(|cx| {
        Service::<()>::poll_ready(&mut other, cx)
    })));
    assert!(ready.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_takes_no_place_of_a_limit_inside_it() {
    let handle = breaker("no-place", three_in_a_row());
    handle.isolate();
    let limited = ConcurrencyLimit::new(Inner::new(|_| good()), 1);
    let layer = BreakerLayer::new(handle, ErrorIsTransient);
    let mut refused: Vec<_> = (0..10).map(|_| layer.layer(limited.clone())).collect();
    for service in &mut refused {
        service.ready().await.unwrap();
    }
    assert_eq!(limited.oneshot(()).await, Ok("good"));
    for mut service in refused {
        rejection(service.call(()).await);
    }
}

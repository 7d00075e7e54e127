//! Limits on operations in progress, and callers that leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{ServiceBuilder, ServiceExt};

use super::shop::{Fate, Scripted, Shop, payment, reply, settle, with_header};

const SECOND: Duration = Duration::from_secs(1);

fn with_key(number: usize) -> http::Request<super::shop::Flow> {
    let key = format!("\"key-of-operation-{number}\"");
    with_header(payment("10 EUR"), "idempotency-key", key)
}

#[tokio::test(start_paused = true)]
async fn beyond_the_limit_a_request_is_rejected_before_its_body_is_read() {
    let mut shop = Shop::new(IdempotencyConfig::default().max_running(2));
    // A body that is still being read counts.
    let (more, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let reading = shop.send(with_key(0).map(|_| body.boxed_unsync()));
    let (running, called) = shop.running(with_key(1)).await;
    let (mut unread, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let rejected = shop
        .call_with(with_key(2).map(|_| body.boxed_unsync()))
        .await;
    rejected.assert_problem(503, "TooManyOperations");
    assert_eq!(rejected.headers["retry-after"], "1");
    assert!(unread.send_data("x".into()).await.is_err());
    assert_eq!(shop.layer.running(), 2);
    called.finish(running, reply(201, "paid")).await;
    assert_eq!(shop.served(with_key(2), reply(201, "")).await.status, 201);
    drop(more);
    shop.called().await.finish(reading, reply(201, "")).await;
    assert_eq!((shop.layer.running(), shop.layer.oldest()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn each_tenant_has_its_own_limit() {
    let tenant = Scope::by(|request: &http::request::Parts| {
        let tenant = request.headers.get("x-tenant")?;
        tenant.to_str().ok().map(Into::into)
    });
    let config = IdempotencyConfig::default().max_running_per_tenant(Some(1));
    let layer = IdempotencyLayer::new("tenants", MemoryStore::new(), tenant, config).unwrap();
    let mut shop = Shop::of(layer);
    let of = |tenant: &str, number| with_header(with_key(number), "x-tenant", tenant);
    let (first, called) = shop.running(of("a", 1)).await;
    assert_eq!(
        shop.call_with(of("a", 2)).await.problem(),
        "TooManyOperations"
    );
    assert_eq!(shop.served(of("b", 2), reply(201, "")).await.status, 201);
    called.finish(first, reply(201, "")).await;
    assert_eq!(shop.served(of("a", 2), reply(201, "")).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_have_their_own_limit() {
    let config = IdempotencyConfig::default()
        .wait(10 * SECOND)
        .max_waiting(2)
        .max_running(2);
    let mut shop = Shop::new(config);
    let (first, called) = shop.running(with_key(1)).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(shop.send(with_key(1)));
        settle().await;
    }
    shop.rejects(with_key(1), 409, "InProgress").await;
    // They leave room for other operations.
    assert_eq!(shop.served(with_key(2), reply(201, "")).await.status, 201);
    called.finish(first, reply(201, "paid")).await;
    for request in waiting {
        assert_eq!(request.await.unwrap().of(), (201, true, "paid"));
    }
    assert_eq!(shop.layer.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_waited_needs_a_place_to_run() {
    let config = IdempotencyConfig::default()
        .wait(10 * SECOND)
        .max_running(2);
    let store = Scripted::new(|_, _| Fate::Done);
    let mut shop = Shop::with(store.clone(), config);
    let (first, first_called) = shop.running(with_key(1)).await;
    let waiting = shop.send(with_key(1));
    settle().await;
    let others = [shop.send(with_key(2)), shop.send(with_key(3))];
    let second_called = shop.called().await;
    settle().await;
    // The third has no place yet: the first and the second have both.
    let [second, third] = others;
    assert_eq!(third.await.unwrap().problem(), "TooManyOperations");
    first_called.operation().did_not_happen();
    first_called.finish(first, reply(503, "")).await;
    let (third, third_called) = shop.running(with_key(3)).await;
    // The key is free, and the request that waits for it claims it, but there is no place.
    let waited = waiting.await.unwrap();
    waited.assert_problem(503, "TooManyOperations");
    for (called, sent) in [(second_called, second), (third_called, third)] {
        assert_eq!(called.finish(sent, reply(201, "")).await.status, 201);
    }
    shop.layer.idle().await;
    assert_eq!(store.inner.len(), 2, "the claim was given up");
    let (sent, called) = shop.running(with_key(1)).await;
    assert_eq!(called.operation().run(), 1);
    assert_eq!(called.finish(sent, reply(201, "")).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_handler_is_called_releases_the_key() {
    // While the store is called, and while the service inside is not ready.
    for leaves_after in [SECOND / 4, SECOND] {
        let store = Scripted::first("begin", 1, Fate::Slow(SECOND / 2));
        let config = IdempotencyConfig::default();
        let layer = IdempotencyLayer::new("left", store.clone(), Scope::Global, config).unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let pay = async move |operation: Operation| {
            count.fetch_add(1, Ordering::SeqCst);
            operation.run().to_string()
        };
        // In one builder, the layer sees whether the service inside is ready.
        let places = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&places));
        let layers = ServiceBuilder::new()
            .layer(handle_rejections(layer.clone()))
            .layer(limit);
        let router = Router::new().route("/payments", post(pay)).layer(layers);
        let request = || super::payment("order-4711-00001", "10 EUR");
        let call = tokio::spawn(router.clone().oneshot(request()));
        settle().await;
        // Another request takes the only permit during the call to the store.
        let place = places.try_acquire().unwrap();
        assert_eq!(layer.running(), 1);
        sleep(leaves_after).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        layer.idle().await;
        assert_eq!(store.inner.len(), 0);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        drop(place);
        let (status, replayed, run) = super::sent(&router, request()).await;
        assert_eq!((status, replayed, &*run), (StatusCode::OK, None, "1"));
    }
}

/// The statuses of a client that sends its request after 5 000 others have left, and obeys `Retry-After`.
async fn after_impatient_clients(
    layer: IdempotencyLayer,
    router: Router,
    in_progress: usize,
) -> Vec<u16> {
    let request = |number: usize| {
        let body = Body::from(vec![b'x'; 50 * 1024]);
        Request::post("/payments")
            .header("idempotency-key", format!("\"key-of-operation-{number}\""))
            .body(body)
            .unwrap()
    };
    let mut calls = Vec::new();
    for number in 0..5_000 {
        calls.push(tokio::spawn(router.clone().oneshot(request(number))));
        tokio::task::yield_now().await;
        assert!(layer.running() <= 1_000, "the default limit");
    }
    settle().await;
    assert_eq!(layer.running(), in_progress);
    for call in calls {
        call.abort();
    }
    let start = Instant::now();
    let mut statuses = Vec::new();
    loop {
        let response = router.clone().oneshot(request(10_000)).await.unwrap();
        statuses.push(response.status().as_u16());
        let Some(wait) = response.headers().get("retry-after") else {
            assert!(start.elapsed() <= 3 * SECOND, "{:?}", start.elapsed());
            layer.idle().await;
            return statuses;
        };
        sleep(Duration::from_secs(wait.to_str().unwrap().parse().unwrap())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_have_left_do_not_delay_others() {
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let pay = async move |_: Operation| {
        count.fetch_add(1, Ordering::SeqCst);
        sleep(SECOND).await;
        "paid"
    };
    let routes = Router::new().route("/payments", post(pay));
    let limit = || GlobalConcurrencyLimitLayer::new(100);

    // In one builder, requests wait for a place before the layer reads them.
    let once = super::layer(IdempotencyConfig::default());
    let layers = ServiceBuilder::new()
        .layer(handle_rejections(once.clone()))
        .layer(limit());
    let statuses = after_impatient_clients(once, routes.clone().layer(layers), 100).await;
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    assert_eq!(
        called.swap(0, Ordering::SeqCst),
        101,
        "those that had left were not run"
    );

    // Separate layers of a router are always ready. Operations that no handler has taken prove that nothing happened.
    let once = super::layer(IdempotencyConfig::default().handlers_take_operation(true));
    let router = routes.layer(limit()).layer(handle_rejections(once.clone()));
    let statuses = after_impatient_clients(once, router, 1_000).await;
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    assert_eq!(
        called.load(Ordering::SeqCst),
        101,
        "those that had left were not run"
    );
}

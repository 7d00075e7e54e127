//! A server that acts once, whatever is sent twice.

mod around;
mod bodies;
mod cut_off;
mod edges;
mod fingerprints;
mod keys;
mod limits;
mod model;
mod paths;
mod release;
mod repair;
mod replayed;
mod rpc;
mod rpc_methods;
mod runs;
mod shop;
mod stores;
mod told;
mod wire;
mod without_http;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use buttress::http::answer;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use http_body_util::BodyExt;
use tower::ServiceExt;

fn shop(config: IdempotencyConfig) -> (Router, Arc<AtomicUsize>) {
    let payments = Arc::new(AtomicUsize::new(0));
    let layer = IdempotencyLayer::new("shop", MemoryStore::new(), Scope::Global, config).unwrap();
    let count = Arc::clone(&payments);
    let pay = async move |operation: Operation, body: String| {
        assert_eq!(operation.run(), 1);
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        (StatusCode::CREATED, format!("payment {number}: {body}"))
    };
    let router = Router::new()
        .route("/payments", post(pay))
        .layer(answer(layer));
    (router, payments)
}

fn payment(key: &str, body: &str) -> Request<Body> {
    Request::post("/payments")
        .header("idempotency-key", format!("\"{key}\""))
        .body(Body::from(body.to_owned()))
        .unwrap()
}

async fn sent(router: &Router, request: Request<Body>) -> (StatusCode, Option<String>, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let replayed = response.headers().get("idempotent-replayed").cloned();
    let replayed = replayed.map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, replayed, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_sent_twice_is_done_once_and_answered_twice() {
    let (router, payments) = shop(IdempotencyConfig::default());
    let first = sent(&router, payment("order-4711-0001", "10 EUR")).await;
    assert_eq!(first.0, 400, "{first:?}");
    let first = sent(&router, payment("order-4711-00001", "10 EUR")).await;
    assert_eq!(
        first,
        (StatusCode::CREATED, None, "payment 1: 10 EUR".into())
    );
    let again = sent(&router, payment("order-4711-00001", "10 EUR")).await;
    let yes = Some("true".into());
    assert_eq!(
        again,
        (StatusCode::CREATED, yes, "payment 1: 10 EUR".into())
    );
    let other = sent(&router, payment("order-4711-00001", "11 EUR")).await;
    assert_eq!(other.0, 422, "{other:?}");
    assert_eq!(payments.load(Ordering::SeqCst), 1);
}

//! The idempotent server.

mod around;
mod bodies;
mod edges;
mod fingerprints;
mod joined;
mod keys;
mod limits;
mod model;
mod paths;
mod release;
mod repair;
mod replayed;
mod reported;
mod rpc_methods;
mod runs;
mod shop;
mod stores;
mod wire;
mod without_http;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
use http_body_util::BodyExt;
use tower::ServiceExt;

fn layer(config: IdempotencyConfig) -> IdempotencyLayer {
    IdempotencyLayer::new("shop", MemoryStore::new(), Scope::Global, config).unwrap()
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

//! A run that was cut off is not forgotten: the next one knows of it, whatever comes between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use buttress::http::answer;
use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Token};
use buttress::idempotency::store::{MemoryStore, Store, StoreError};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{advance, sleep};
use tower::ServiceExt;

use crate::forwarding::forward;

/// A store that can lose what it is told, and what it tells.
#[derive(Clone, Debug, Default)]
struct Lossy {
    records: Arc<MemoryStore>,
    /// It takes no answers, and says that it did: as if the process had died.
    forgets: Arc<AtomicBool>,
    /// Claims are made, and their claimants not told.
    is_mute: Arc<AtomicBool>,
}

impl Store for Lossy {
    forward!(records: renew, abandon);

    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let begun = self.records.begin(key, claim).await;
            if self.is_mute.swap(false, Ordering::SeqCst) {
                return Err(StoreError::unavailable("lost on the way"));
            }
            begun
        })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        if self.forgets.load(Ordering::SeqCst) {
            return Box::pin(async { Ok(Ended::Taken) });
        }
        self.records.complete(key, token, answer, ttl)
    }
}

/// Answers with the number of its run, and the status that the request asks for.
fn shop(store: &Lossy) -> Router {
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("runs", store.clone(), Scope::Global, config).unwrap();
    let pay = async |operation: Operation, request: Request<Body>| {
        let status = request.headers().get("x-status").cloned();
        let status = status.map_or(StatusCode::CREATED, |status| {
            StatusCode::from_bytes(status.as_bytes()).unwrap()
        });
        if request.headers().contains_key("x-undone") {
            operation.did_not_happen();
        }
        (status, operation.run().to_string())
    };
    Router::new().route("/", post(pay)).layer(answer(layer))
}

async fn sent(shop: &Router, extra: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::post("/").header("idempotency-key", "\"order-4711-00001\"");
    for (name, value) in extra {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = shop.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A shop with an operation whose first run was cut off, and its lease is over.
async fn cut_off() -> (Lossy, Router) {
    let store = Lossy::default();
    let shop = shop(&store);
    store.forgets.store(true, Ordering::SeqCst);
    assert_eq!(sent(&shop, &[]).await, (201, "1".into()));
    store.forgets.store(false, Ordering::SeqCst);
    assert_eq!(sent(&shop, &[]).await.0, 409);
    advance(Duration::from_secs(91)).await;
    (store, shop)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_does_not_hide_the_run_before() {
    let (_, shop) = cut_off().await;
    assert_eq!(sent(&shop, &[("x-status", "429")]).await, (429, "2".into()));
    assert_eq!(sent(&shop, &[]).await, (201, "3".into()));
    assert_eq!(sent(&shop, &[]).await, (201, "3".into()));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_lost_on_the_way_does_not_hide_the_run_before() {
    let (store, shop) = cut_off().await;
    store.is_mute.store(true, Ordering::SeqCst);
    assert_eq!(sent(&shop, &[]).await.0, 503);
    // Time enough to give it up, and not for its lease to end.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sent(&shop, &[]).await, (201, "3".into()));
}

#[tokio::test(start_paused = true)]
async fn a_first_claim_that_was_lost_on_the_way_leaves_nothing_behind() {
    let store = Lossy::default();
    let shop = shop(&store);
    store.is_mute.store(true, Ordering::SeqCst);
    assert_eq!(sent(&shop, &[]).await.0, 503);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sent(&shop, &[]).await, (201, "1".into()));
}

#[tokio::test(start_paused = true)]
async fn what_did_not_happen_in_a_later_run_does_not_hide_the_run_before() {
    let (_, shop) = cut_off().await;
    let undone = [("x-undone", "1"), ("x-status", "503")];
    assert_eq!(sent(&shop, &undone).await, (503, "2".into()));
    assert_eq!(sent(&shop, &[]).await, (201, "3".into()));
}

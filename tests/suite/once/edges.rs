//! Rare cases: destructors that panic, stores that retry, trailers over HTTP/1.1.

use std::future::{IntoFuture, Ready, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{Ended, MemoryStore, RecordKey, Store, Token};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope, StoredBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::forwarding::forward;

use super::shop::{Fate, Flow, Scripted, Shop, flow, frames, payment, reply, send_to};

const SECOND: Duration = Duration::from_secs(1);

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("scripted panic");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_dropped_does_not_run_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<StoredBody<Flow>>| {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            let _guard = PanicsWhenDropped;
            pending::<Result<Response<Flow>, &'static str>>().await
        }
    });
    let layer = super::layer(IdempotencyConfig::default());
    let service = handle_rejections(layer).layer(handler);
    for _ in 0..2 {
        let seen = send_to(service.clone(), payment("10 EUR")).await.unwrap();
        seen.assert_problem(409, "Unknown");
        sleep(600 * SECOND).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_gets_409_if_the_store_fails() {
    for fail_open in [false, true] {
        let store = Scripted::new(|asked, before| {
            if asked == "begin" && before > 1 {
                Fate::Down
            } else {
                Fate::Done
            }
        });
        let config = IdempotencyConfig::default().wait(10 * SECOND);
        let mut shop = Shop::with(store, config.fail_open(fail_open));
        let (first, called) = shop.running(payment("10 EUR")).await;
        let waits = shop.send(payment("10 EUR"));
        shop.assert_not_called().await;
        sleep(SECOND).await;
        shop.assert_not_called().await;
        let waited = waits.await.unwrap();
        waited.assert_problem(409, "InProgress");
        called.pays(first).await;
    }
}

/// A store that sends each completion twice, as a client does whose connection breaks.
#[derive(Debug, Default)]
struct Resends(MemoryStore);

impl Store for Resends {
    forward!(0: begin, renew, abandon);

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            self.0.complete(key, token, answer.clone(), ttl).await?;
            self.0.complete(key, token, answer, ttl).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_whose_record_is_written_twice_is_sent_whole() {
    let config = IdempotencyConfig::default().max_response_body(4);
    let mut shop = Shop::with(Resends::default(), config.clone());
    let first = shop.served(payment("10 EUR"), reply(201, "large")).await;
    assert_eq!(first.of(), (201, false, "large"));
    shop.rejects(payment("10 EUR"), 409, "NotStored").await;

    let mut shop = Shop::with(Resends::default(), config);
    let mut answer = reply(201, "paid");
    let cookie = HeaderValue::from_static("session=1");
    answer.headers_mut().insert("set-cookie", cookie);
    let first = shop.served(payment("10 EUR"), answer).await;
    assert!(first.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn a_route_layer_stores_nothing_without_a_route() {
    let store = MemoryStore::new();
    let config = IdempotencyConfig::default();
    let layer = || {
        let layer = IdempotencyLayer::new("shop", store.clone(), Scope::Global, config.clone());
        handle_rejections(layer.unwrap())
    };
    let routes = || Router::new().route("/", post(async || "paid"));
    for router in [routes().route_layer(layer()), routes().layer(layer())] {
        assert!(store.is_empty());
        let request = super::payment("order-4711-00001", "10 EUR");
        assert_eq!(router.oneshot(request).await.unwrap().status(), 404);
    }
    assert_eq!(store.len(), 1);
}

#[tokio::test]
async fn trailers_are_sent_and_replayed_over_http_1() {
    let handler = async || {
        let sum = HeaderMap::from_iter([(
            HeaderName::from_static("x-sum"),
            HeaderValue::from_static("7"),
        )]);
        let body = frames(vec![Frame::data("paid".into()), Frame::trailers(sum)]);
        ([("trailer", "x-sum")], axum::body::Body::new(body))
    };
    let layer = super::layer(IdempotencyConfig::default());
    let router = Router::new()
        .route("/", post(handler))
        .layer(handle_rejections(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    for replayed in [false, true] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close, te\r\nte: trailers\r\n\
            idempotency-key: \"0123456789abcdef\"\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said.contains("idempotent-replayed"), replayed, "{said}");
        assert!(said.contains("\r\nx-sum: 7\r\n"), "{said}");
    }
}

#[test]
fn the_future_of_an_unguarded_call_is_small() {
    let handler =
        service_fn(|_: Request<StoredBody<Flow>>| ready(Ok::<_, &str>(reply(200, "paid"))));
    let layer = super::layer(IdempotencyConfig::default());
    let passing = ServiceBuilder::new()
        .layer(handle_rejections(layer))
        .service(handler)
        .call(Request::new(flow("")));
    let inner = size_of::<Ready<Result<Response<Flow>, &str>>>();
    let size = size_of_val(&passing);
    assert!(size <= inner + 64, "{size} for one of {inner}");
}

//! A payment service that ignores idempotency keys and fails after the charge: with the defaults, each payment is charged once. Real
//! servers and clients on loopback, in real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use buttress::http::{ClientConfig, IdempotencyKeys, client};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::reqwest::SendThrough;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

/// How the service fails after the charge.
#[derive(Clone, Copy, Debug)]
enum Fails {
    With(u16),
    /// Responds with 409 and `Retry-After`.
    InProgress,
    /// Never responds.
    Stalls,
    /// The connection breaks.
    Breaks,
}

const WAYS: [Fails; 15] = [
    Fails::With(408),
    Fails::With(429),
    Fails::With(500),
    Fails::With(502),
    Fails::With(503),
    Fails::With(504),
    Fails::With(506),
    Fails::With(520),
    Fails::With(400),
    Fails::With(409),
    Fails::With(422),
    Fails::With(507),
    Fails::InProgress,
    Fails::Stalls,
    Fails::Breaks,
];

#[derive(Default)]
struct Ledger {
    charges: AtomicUsize,
    keys: AtomicUsize,
}

async fn service(fails: Fails) -> (String, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    let books = Arc::clone(&ledger);
    let pay = post(move |headers: HeaderMap| async move {
        books.charges.fetch_add(1, Ordering::SeqCst);
        if headers.contains_key("idempotency-key") {
            books.keys.fetch_add(1, Ordering::SeqCst);
        }
        let soon = [("retry-after", "0")];
        match fails {
            Fails::With(status) => (StatusCode::from_u16(status).unwrap(), [("x", "y")]),
            Fails::InProgress => (StatusCode::CONFLICT, soon),
            Fails::Stalls => std::future::pending().await,
            Fails::Breaks => panic!("scripted: the connection breaks"),
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/payments", listener.local_addr().unwrap());
    let app = Router::new().route("/payments", pay);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (uri, ledger)
}

/// The defaults with a shorter attempt limit.
fn defaults() -> ClientConfig {
    ClientConfig::default().attempt(Duration::from_millis(500))
}

/// Pays once through a hyper client, with a key that an outer layer has generated.
async fn pay(uri: &str, config: ClientConfig) {
    let hyper = Client::builder(TokioExecutor::new())
        .retry_canceled_requests(false)
        .build_http::<Full<Bytes>>();
    let stack = client("payments", config).unwrap().layer(hyper);
    let request = http::Request::post(uri)
        .body(Full::from("ten euros"))
        .unwrap();
    let keyed = IdempotencyKeyLayer::new().layer(stack);
    let _ = keyed.oneshot(request).await;
}

#[tokio::test]
async fn a_payment_is_charged_once_after_any_failure_of_the_service() {
    for fails in WAYS {
        let (uri, ledger) = service(fails).await;
        pay(&uri, defaults()).await;
        assert_eq!(ledger.charges.load(Ordering::SeqCst), 1, "{fails:?}");
        assert_eq!(ledger.keys.load(Ordering::SeqCst), 1, "it carried a key");
    }
}

#[tokio::test]
async fn a_payment_through_reqwest_is_charged_once() {
    for fails in WAYS {
        let (uri, ledger) = service(fails).await;
        let reqwest = ::reqwest::Client::builder()
            .retry(::reqwest::retry::never())
            .build()
            .unwrap();
        let stack = client("payments", defaults())
            .unwrap()
            .layer(reqwest.clone());
        let _ = reqwest
            .post(&uri)
            .body("ten euros")
            .send_through(&stack)
            .await;
        assert_eq!(ledger.charges.load(Ordering::SeqCst), 1, "{fails:?}");
    }
}

/// Proves that the tests above can fail.
#[tokio::test]
async fn a_service_wrongly_configured_to_honor_keys_charges_again() {
    for fails in [
        Fails::With(503),
        Fails::InProgress,
        Fails::Stalls,
        Fails::Breaks,
    ] {
        let (uri, ledger) = service(fails).await;
        pay(&uri, defaults().idempotency_keys(IdempotencyKeys::Honored)).await;
        assert!(ledger.charges.load(Ordering::SeqCst) > 1, "{fails:?}");
    }
}

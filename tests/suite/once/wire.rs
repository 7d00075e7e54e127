//! Clients and server of this crate over real connections on loopback, in real time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::routing::post;
use buttress::CallOptions;
use buttress::http::{ClientConfig, IdempotencyKeys, client, handle_rejections};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{
    IdempotencyConfig, IdempotencyKeyLayer, IdempotencyLayer, Operation, Scope,
};
use buttress::reqwest::SendThrough;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

/// The key and the status of each request, in the order of the responses.
type Log = Arc<Mutex<Vec<(String, u16)>>>;

struct Served {
    uri: String,
    came: Log,
    runs: Arc<Mutex<Vec<String>>>,
}

impl Served {
    /// A service that pays. A slow one pays after another request was rejected with 409.
    async fn new(slow: bool) -> Self {
        let came = Log::default();
        let runs = Arc::new(Mutex::new(Vec::new()));
        let reported = Arc::new(Notify::new());
        let (log, report) = (Arc::clone(&came), Arc::clone(&reported));
        let (count, wait) = (Arc::clone(&runs), Arc::clone(&reported));
        let pay = async move |operation: Operation, body: String| {
            count.lock().unwrap().push(operation.key().to_owned());
            if slow {
                wait.notified().await;
            }
            (StatusCode::CREATED, format!("paid {body}"))
        };
        let watch = from_fn(move |request: Request, next: Next| {
            let (log, report) = (Arc::clone(&log), Arc::clone(&report));
            async move {
                let key = request.headers()["idempotency-key"].to_str().unwrap();
                let key = key.trim_matches('"').to_owned();
                let response = next.run(request).await;
                let status = response.status().as_u16();
                log.lock().unwrap().push((key, status));
                if status == 409 {
                    report.notify_one();
                }
                response
            }
        });
        let layer = IdempotencyLayer::new(
            "wire",
            MemoryStore::new(),
            Scope::Global,
            IdempotencyConfig::default(),
        );
        let app = Router::new()
            .route("/payments", post(pay))
            .layer(handle_rejections(layer.unwrap()))
            .layer(watch);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/payments", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { uri, came, runs }
    }

    /// The statuses of all requests, which have the same key and one run.
    fn statuses_of_one_key(&self) -> Vec<u16> {
        let runs = self.runs.lock().unwrap();
        assert_eq!(runs.len(), 1, "{runs:?}");
        let came = self.came.lock().unwrap();
        assert!(came.iter().all(|(key, _)| *key == runs[0]), "{came:?}");
        came.iter().map(|(_, status)| *status).collect()
    }
}

/// The defaults with a shorter attempt.
fn config() -> ClientConfig {
    let config = ClientConfig::default().attempt(Duration::from_secs(1));
    config.idempotency_keys(IdempotencyKeys::Honored)
}

/// With hyper and a key from an outer layer: status, whether it is a replay, body.
async fn by_hyper(uri: &str, body: &'static str) -> (u16, bool, Bytes) {
    let hyper = Client::builder(TokioExecutor::new())
        .retry_canceled_requests(false)
        .build_http::<Full<Bytes>>();
    let stack = client("payments", config()).unwrap().layer(hyper);
    let request = http::Request::post(uri).body(Full::from(body)).unwrap();
    let keyed = IdempotencyKeyLayer::new().layer(stack);
    let response = keyed.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let replayed = response.headers().contains_key("idempotent-replayed");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, replayed, body)
}

async fn by_reqwest(uri: &str, body: &'static str) -> (u16, bool, Bytes) {
    let reqwest = ::reqwest::Client::builder()
        .retry(::reqwest::retry::never())
        .build()
        .unwrap();
    let stack = client("payments", config()).unwrap().layer(reqwest.clone());
    let sent = reqwest.post(uri).body(body).send_through(&stack).await;
    let response = sent.unwrap();
    let status = response.status().as_u16();
    let replayed = response.headers().contains_key("idempotent-replayed");
    (status, replayed, response.bytes().await.unwrap())
}

/// The first attempt times out while the handler runs. The next ones get 409 and then the response to the first.
#[tokio::test]
async fn a_client_retries_until_it_gets_the_response_of_its_first_attempt() {
    for hyper in [true, false] {
        let served = Served::new(true).await;
        let paid = if hyper {
            by_hyper(&served.uri, "10 EUR").await
        } else {
            by_reqwest(&served.uri, "10 EUR").await
        };
        assert_eq!(paid, (201, true, "paid 10 EUR".into()));
        let reported = served.statuses_of_one_key();
        assert_eq!(reported.last(), Some(&201));
        assert!(reported.contains(&409), "{reported:?}");
    }
}

#[tokio::test]
async fn a_custom_key_pays_once_over_several_calls() {
    let served = Served::new(false).await;
    let pay = |body| {
        let options = CallOptions::new().idempotency_key("order-4711-of-2026");
        options.scope(by_hyper(&served.uri, body))
    };
    assert_eq!(pay("10 EUR").await, (201, false, "paid 10 EUR".into()));
    assert_eq!(pay("10 EUR").await, (201, true, "paid 10 EUR".into()));
    // Another request with the key is rejected, and not retried.
    let (status, replayed, _) = pay("11 EUR").await;
    assert_eq!((status, replayed), (422, false));
    assert_eq!(served.statuses_of_one_key(), [201, 201, 422]);
}

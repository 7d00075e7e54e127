//! reqwest behind the standard stack: retries of idempotent requests, and an open circuit.
//!
//! `cargo run --example reqwest_client`, with `-- --quick` in a second.
#![expect(
    clippy::disallowed_methods,
    reason = "an application may read the clock"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::get;
use buttress::breaker::BreakerConfig;
use buttress::http::{ClientConfig, IdempotencyKeys};
use buttress::reqwest::Client;
use buttress::{BoxError, Error};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let quick = std::env::args().any(|flag| flag == "--quick");
    let open_for = Duration::from_millis(if quick { 300 } else { 2000 });
    let shop = Shop::default();
    let url = serve(shop.clone()).await?;

    let config = ClientConfig::default()
        .idempotency_keys(IdempotencyKeys::HonoredBy([url.parse()?].into()))
        .breaker(BreakerConfig::default().open_for(open_for));
    let client = Client::builder("shop")
        .config(config)
        .base_url(url)
        .reqwest(reqwest::ClientBuilder::no_proxy)
        .build()?;
    let get = |path| client.get(path).send();
    let post = |path| client.post(path).send();

    println!("A GET fails once and is retried:");
    shop.fail(1);
    println!("  {}, {}", get("/orders").await?.status(), shop.seen());

    println!(
        "So is a POST: this server is known to honor the idempotency key that the stack adds:"
    );
    shop.fail(1);
    println!("  {}, {}", post("/orders").await?.status(), shop.seen());

    println!("A redirect to another origin is not followed, so the key stays here:");
    println!("  {}, {}", post("/moved").await?.status(), shop.seen());

    println!("The server fails while calls continue, and the circuit opens:");
    shop.fail(u32::MAX);
    let mut calls = 0;
    let refused = loop {
        calls += 1;
        let start = Instant::now();
        match get("/orders").await {
            Err(Error::Rejected(refused)) => break (refused, start.elapsed()),
            Err(Error::Inner(error)) => return Err(error.into()),
            Ok(_) => sleep(Duration::from_millis(30)).await,
        }
    };
    println!("  call {calls}, after {:?}: {}", refused.1, refused.0);
    println!("  {}", shop.seen());

    println!("The server has recovered, and the circuit probes it:");
    shop.fail(0);
    sleep(refused.0.retry_after.unwrap_or_default()).await;
    println!("  {}, {}", get("/orders").await?.status(), shop.seen());
    Ok(())
}

/// A server that fails a given number of times, and counts its calls.
#[derive(Clone, Default)]
struct Shop(Arc<Counters>);

#[derive(Default)]
struct Counters {
    failures: AtomicU32,
    requests: AtomicU32,
}

impl Shop {
    fn fail(&self, times: u32) {
        self.0.failures.store(times, Ordering::Relaxed);
    }

    /// The number of requests since the last query.
    fn seen(&self) -> String {
        let requests = self.0.requests.swap(0, Ordering::Relaxed);
        format!("requests that reached the server: {requests}")
    }
}

async fn serve(shop: Shop) -> Result<String, BoxError> {
    let app = Router::new()
        .route("/orders", get(orders).post(orders))
        .route("/moved", axum::routing::post(moved))
        .with_state(shop);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

async fn orders(State(Shop(shop)): State<Shop>) -> StatusCode {
    shop.requests.fetch_add(1, Ordering::Relaxed);
    let failing = shop
        .failures
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
    if failing.is_ok() {
        StatusCode::BAD_GATEWAY
    } else {
        StatusCode::OK
    }
}

async fn moved(State(Shop(shop)): State<Shop>) -> Redirect {
    shop.requests.fetch_add(1, Ordering::Relaxed);
    Redirect::temporary("http://elsewhere.invalid/orders")
}

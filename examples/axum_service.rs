//! A circuit breaker inside an axum application: its handlers depend on a database, and stop asking when it is down.
//!
//! `cargo run --example axum_service`, with `-- --quick` in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::routing::get;
use buttress::BoxError;
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::http::{ByStatus, handle_rejections};
use buttress::timeout::TimeoutLayer;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let quick = std::env::args().any(|flag| flag == "--quick");
    let open_for = Duration::from_millis(if quick { 300 } else { 2000 });
    let database = Database::default();
    let breaker = Breaker::new("orders", BreakerConfig::default().open_for(open_for))?;

    let protection = ServiceBuilder::new()
        .layer(BreakerLayer::new(breaker.clone(), ByStatus::new()))
        .layer(TimeoutLayer::new("orders", Duration::from_secs(2)));
    let app = Router::new()
        .route("/orders", get(orders))
        .layer(handle_rejections(protection))
        // Outside the breaker: an orchestrator must not restart us because the database is down.
        .route("/health", get(async || "well"))
        .with_state(database.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });

    let client = reqwest::Client::builder().no_proxy().build()?;
    let fetch = async |path: &str| -> Result<(StatusCode, String), BoxError> {
        let response = client.get(format!("{url}{path}")).send().await?;
        let status = response.status();
        let wait = match response.headers().get(RETRY_AFTER) {
            Some(seconds) => format!(", retry-after {} s", seconds.to_str()?),
            None => String::new(),
        };
        let line = format!("  {path}: {status}{wait}, {}", response.text().await?);
        Ok((status, line))
    };

    println!("All is well:");
    println!("{}", fetch("/orders").await?.1);

    println!("The database goes down:");
    database.0.down.store(true, Ordering::Relaxed);
    let mut failures = 0;
    let answer = loop {
        match fetch("/orders").await? {
            (StatusCode::INTERNAL_SERVER_ERROR, _) => failures += 1,
            (_, line) => break line,
        }
        sleep(Duration::from_millis(30)).await;
    };
    println!("  /orders: 500 Internal Server Error, {failures} times, then:\n{answer}");
    let before = database.queries();
    println!("{}", fetch("/orders").await?.1);
    println!("{}", fetch("/health").await?.1);
    println!(
        "  queries for the last two: {}",
        database.queries() - before
    );

    println!("The database is up again, and the breaker's time is over:");
    database.0.down.store(false, Ordering::Relaxed);
    sleep(breaker.snapshot().remaining.unwrap_or_default()).await;
    for _ in 0..3 {
        println!("{}", fetch("/orders").await?.1);
    }
    println!("The breaker is {:?}.", breaker.state());
    Ok(())
}

async fn orders(State(database): State<Database>) -> (StatusCode, &'static str) {
    if database.query() {
        (StatusCode::OK, "three orders")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "no database")
    }
}

/// It is up or down, and counts.
#[derive(Clone, Default)]
struct Database(Arc<Inner>);

#[derive(Default)]
struct Inner {
    down: AtomicBool,
    queries: AtomicU32,
}

impl Database {
    fn query(&self) -> bool {
        self.0.queries.fetch_add(1, Ordering::Relaxed);
        !self.0.down.load(Ordering::Relaxed)
    }

    fn queries(&self) -> u32 {
        self.0.queries.load(Ordering::Relaxed)
    }
}

//! hyper-util's client behind the standard stack: every wait has an end, for the head of a response and for its body.
//!
//! `cargo run --example hyper_client`, with `-- --quick` in a second.
#![expect(
    clippy::disallowed_methods,
    reason = "an application may read the clock"
)]

use std::error::Error;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use buttress::BoxError;
use buttress::http::{ClientConfig, client};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let quick = std::env::args().any(|flag| flag == "--quick");
    let unit = Duration::from_millis(if quick { 100 } else { 500 });
    let url = serve().await?;

    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(Duration::from_secs(1)));
    let hyper = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Finds connections that died silently.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true)
        .build::<_, Empty<Bytes>>(connector);
    let config = ClientConfig::default()
        .attempt(unit)
        .body_idle(unit)
        .total(unit * 5);
    let search = client("search", config)?.layer(hyper);
    let fetch = async |path: &str| -> Result<Bytes, BoxError> {
        let request = http::Request::get(format!("{url}{path}")).body(Empty::new())?;
        let response = search.clone().oneshot(request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    };

    for (what, path) in [
        ("The first attempt hangs, the second succeeds:", "/once"),
        (
            "Every attempt hangs, and nothing has paid for a third:",
            "/hang",
        ),
        ("The headers arrive at once, the body stalls:", "/stall"),
        ("The body drips on without an end:", "/drip"),
    ] {
        let start = Instant::now();
        println!("{what}");
        match fetch(path).await {
            Ok(body) => println!("  {:.1?}: {body:?}", start.elapsed()),
            Err(error) => println!("  {:.1?}: {}", start.elapsed(), innermost(&*error)),
        }
    }
    Ok(())
}

/// Readers of a body wrap its errors.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut link = error;
    while let Some(source) = link.source() {
        link = source;
    }
    link.to_string()
}

/// Four kinds of responses.
async fn serve() -> Result<String, BoxError> {
    let app = Router::new()
        .route("/once", get(once))
        .route("/hang", get(pending::<()>))
        .route("/stall", get(async || stream(Duration::MAX)))
        .route("/drip", get(async || stream(Duration::from_millis(20))));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

async fn once() -> &'static str {
    static HUNG: AtomicBool = AtomicBool::new(false);
    if !HUNG.swap(true, Ordering::Relaxed) {
        pending::<()>().await;
    }
    "a response"
}

/// A body that never ends: a piece, a pause, and so on.
fn stream(pause: Duration) -> Body {
    let (mut pieces, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        while pieces.send_data("drip ".into()).await.is_ok() {
            sleep(pause).await;
        }
    });
    Body::new(body)
}

//! A gate of your own in front of an axum route: it limits concurrent exports, and rejected requests get a `Retry-After`.
//!
//! `cargo run --example own_gate`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use buttress::clock::Now;
use buttress::gate::{GateLayer, Permit, Policy};
use buttress::http::{ByStatus, handle_rejections};
use buttress::{BoxError, Kind, Outcome, Reason, Rejected};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Limits concurrent calls. Clones share the count, because axum applies a layer once for each route.
#[derive(Clone)]
struct AtMost {
    most: usize,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    inside: AtomicUsize,
    served: AtomicUsize,
}

/// A permit. Dropping it frees it, whether the call succeeded, failed, was cancelled or panicked.
struct Place(Arc<Counts>);

impl<Req: ?Sized> Policy<Req> for AtMost {
    type Permit = Place;

    fn admit(&self, _request: &Req, _now: &Now) -> Result<Place, Rejected> {
        let one_more = |inside: usize| (inside < self.most).then_some(inside + 1);
        self.counts
            .inside
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .map(|_| Place(self.counts.clone()))
            .map_err(|inside| {
                let why = format!("{inside} exports are under way");
                Rejected::new(Reason::Policy(why.into()), "exports")
                    .retry_after(Some(Duration::from_secs(1)))
            })
    }
}

impl Permit for Place {
    fn settle(self, outcome: Outcome, _now: &Now) {
        if outcome.kind == Kind::Success {
            self.0.served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let gate = AtMost {
        most: 2,
        counts: Arc::default(),
    };
    let export = async || {
        sleep(Duration::from_millis(300)).await;
        "the export"
    };
    let app = Router::new()
        .route("/export", get(export))
        .layer(handle_rejections(GateLayer::new(
            gate.clone(),
            ByStatus::new(),
        )));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/export", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    let client = reqwest::Client::builder().no_proxy().build()?;

    println!("Five concurrent exports, with a limit of two:");
    let mut calls = JoinSet::new();
    for _ in 0..5 {
        calls.spawn(client.get(&url).send());
    }
    while let Some(response) = calls.join_next().await {
        let response = response??;
        println!("  {}: {}", response.status(), response.text().await?);
    }

    println!("A caller leaves half-way, and its place is free again:");
    let impatient = client.get(&url).timeout(Duration::from_millis(50)).send();
    println!("  left: {}", impatient.await.is_err());
    while gate.counts.inside.load(Ordering::Acquire) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    println!("  {}", client.get(&url).send().await?.status());
    let served = gate.counts.served.load(Ordering::Relaxed);
    println!("Exports served: {served}");
    Ok(())
}

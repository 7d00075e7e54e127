//! The layer around a service that responds immediately: its overhead for unprotected requests, and the cost of protected ones.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use buttress::Error;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::{Layer, Service};

use crate::Effort;

type Body = Full<Bytes>;

/// How many requests are made before any is timed.
const BATCH: u32 = 64;

#[derive(Clone, Copy, Debug)]
struct Paid;

impl<B> Service<Request<B>> for Paid {
    type Response = Response<Body>;
    type Error = Error<Infallible>;
    type Future = Ready<Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Full::from("paid"))))
    }
}

pub(crate) fn measure(runtime: &Runtime, effort: Effort) {
    let config = IdempotencyConfig::default().ttl(Duration::from_millis(50));
    let layer = IdempotencyLayer::new("bench", MemoryStore::new(), Scope::Global, config);
    let layer = layer.expect("a good configuration");
    let elsewhere = layer.clone().guard(|request| request.uri.path() == "/pay");
    let lasting = IdempotencyConfig::default();
    let lasting = IdempotencyLayer::new("bench", MemoryStore::new(), Scope::Global, lasting);
    let lasting = lasting.expect("a good configuration");

    println!(
        "\n{:44} {:>9} {:>9} {:>7}",
        "layer, records in memory", "ns", "added", "allocs"
    );
    let get = || Request::get("/payments/1").body(Body::default());
    let get = || get().expect("a request");
    let post = |key: &str| {
        Request::post("/payments")
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(Body::from(r#"{"amount":1000,"currency":"EUR"}"#))
            .expect("a request")
    };
    let new = || post(&format!("\"{:032x}\"", rand::random::<u128>()));
    let same = || post("\"8e03978e-40d5-43e8-bc93-6894a57f9324\"");
    let row = |name: &str, bare: Option<Cost>, cost: Cost| {
        let added = bare.map_or(String::new(), |bare| {
            format!("{:.1}", cost.nanos - bare.nanos)
        });
        println!(
            "{name:44} {:9.1} {added:>9} {:7.2}",
            cost.nanos, cost.allocations
        );
        cost
    };
    let bare = row("bare service, GET", None, cost(runtime, effort, Paid, get));
    let service = layer.layer(Paid);
    row(
        "not guarded, GET",
        Some(bare),
        cost(runtime, effort, service, get),
    );
    let bare = row(
        "bare service, POST",
        None,
        cost(runtime, effort, Paid, same),
    );
    let service = elsewhere.layer(Paid);
    row(
        "not guarded, POST to another route",
        Some(bare),
        cost(runtime, effort, service, same),
    );
    let service = layer.layer(Paid);
    row(
        "guarded, new",
        Some(bare),
        cost(runtime, effort, service, new),
    );
    let service = lasting.layer(Paid);
    row(
        "guarded, replayed",
        Some(bare),
        cost(runtime, effort, service, same),
    );
}

#[derive(Clone, Copy)]
struct Cost {
    nanos: f64,
    allocations: f64,
}

/// The median of rounds of calls one after the other, without the making of the requests.
fn cost<S>(
    runtime: &Runtime,
    effort: Effort,
    mut service: S,
    make: impl Fn() -> Request<Body>,
) -> Cost
where
    S: Service<Request<Body>, Error = Error<Infallible>>,
{
    let mut round = |batches: u32| {
        let mut took = Duration::ZERO;
        for _ in 0..batches {
            let mut requests = Vec::new();
            allocation_counter::opt_out(|| requests.extend((0..BATCH).map(|_| make())));
            runtime.block_on(async {
                let started = Instant::now();
                for request in requests {
                    std::future::poll_fn(|cx| service.poll_ready(cx))
                        .await
                        .expect("it is ready");
                    drop(black_box(service.call(black_box(request)).await));
                }
                took += started.elapsed();
            });
        }
        took.as_secs_f64() * 1e9 / f64::from(batches * BATCH)
    };
    let mut batches = 1;
    let length = effort.round.as_secs_f64() * 1e9 / 1000.0;
    while round(batches) * f64::from(batches * BATCH) < length {
        batches *= 2;
    }
    let mut nanos: Vec<f64> = (0..effort.rounds * 15).map(|_| round(batches)).collect();
    nanos.sort_by(f64::total_cmp);
    let counted = allocation_counter::measure(|| {
        round(batches);
    });
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let allocations = counted.count_total as f64 / f64::from(batches * BATCH);
    Cost {
        nanos: nanos[nanos.len() / 2],
        allocations,
    }
}

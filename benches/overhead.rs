//! The cost of a call through each layer around a service that responds immediately: time, allocations, the bytes that the layer
//! adds to the future, and the scaling of two threads on one handle.
//!
//! `cargo bench --bench overhead` prints a table and writes `target/overhead.json`; `-- breaker` takes only the rows with
//! that word.

#![allow(missing_docs, reason = "a benchmark has no public items")]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerPermit};
use buttress::gate::{KeyedConfig, Policy, by};
use buttress::http::{ClientConfig, client};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{ErrorIsTransient, Outcome};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use support::{Faulty, Noop, Table, call, extra_bytes};
use tower::{Layer, Service};

fn main() {
    let mut table = Table::new();
    table.row("clock alone", || {
        || {
            black_box(buttress::clock::Now::unread().moment());
        }
    });
    table.service("bare service", || Noop);
    let timeout = TimeoutLayer::new("bench", Duration::from_secs(1));
    table.service("timeout", || timeout.layer(Noop));
    let deadline = DeadlineLayer::new("bench", Duration::from_secs(1));
    table.service("deadline", || deadline.layer(Noop));
    breakers(&mut table);
    let retry = retry();
    table.service("retry + budget", || retry.layer(Noop));
    let gate = closed(BreakerConfig::default());
    table.service("retry + breaker + timeout", || {
        retry.layer(gate.layer(timeout.layer(Noop)))
    });
    let gate = open();
    table.service("retry + breaker + timeout, rejecting", || {
        retry.layer(gate.layer(timeout.layer(Noop)))
    });
    http_client(&mut table);
    table.finish("overhead.json");
}

fn breakers(table: &mut Table) {
    let gate = closed(consecutive_only());
    table.service("breaker, consecutive", || gate.layer(Noop));
    let gate = closed(consecutive_only());
    table.service_around::<Faulty, _>("breaker, consecutive, 1 % failures", || {
        gate.layer(Faulty::default())
    });
    let gate = closed(BreakerConfig::default());
    table.service("breaker, time window", || gate.layer(Noop));
    let gate = closed(BreakerConfig::default());
    table.service_around::<Faulty, _>("breaker, time window, 1 % failures", || {
        gate.layer(Faulty::default())
    });
    let gate = open();
    table.service("breaker, rejecting", || gate.layer(Noop));
    keyed(table, "keyed breaker, 10 000 keys", || Noop);
    keyed(
        table,
        "keyed breaker, 10 000 keys, 1 % failures",
        Faulty::default,
    );
    let gate = keyed_gate();
    table.memory("keyed breaker, bytes a key, two cores", KEYS, || {
        let mut service = gate.layer(Noop);
        (0..KEYS).for_each(|key| call(&mut service, key));
    });
}

const KEYS: u64 = 10_000;

fn keyed_gate() -> BreakerLayer<ErrorIsTransient, impl Policy<u64, Permit = BreakerPermit> + Clone>
{
    let breaker = Breaker::keyed(
        "bench",
        BreakerConfig::default(),
        KeyedConfig::default().max_keys(20_000),
        by(|request: &u64| *request),
    );
    BreakerLayer::new(breaker.expect("a good configuration"), ErrorIsTransient)
}

fn keyed<S>(table: &mut Table, name: &str, inner: impl Fn() -> S + Sync)
where
    S: Service<u64, Response = u64, Error: buttress::CallError> + Clone,
{
    let gate = keyed_gate();
    let bytes = bytes_around::<S, _>(&gate.layer(inner()));
    table.sized(name, Some(bytes), || {
        let mut service = black_box(gate.layer(inner()));
        // Every key is known before anything is measured.
        (0..KEYS).for_each(|key| call(&mut service, key));
        let mut key = 0;
        move || {
            key = (key + 7919) % KEYS;
            call(&mut service, key);
        }
    });
}

fn bytes_around<Bare: Service<u64>, S: Service<u64>>(_: &S) -> usize {
    extra_bytes::<u64, S, Bare>()
}

fn consecutive_only() -> BreakerConfig {
    BreakerConfig::default().failure_rate(None)
}

fn closed(config: BreakerConfig) -> BreakerLayer<ErrorIsTransient> {
    let breaker = Breaker::new("bench", config).expect("a good configuration");
    BreakerLayer::new(breaker, ErrorIsTransient)
}

/// A circuit that has opened as a failing service makes it.
fn open() -> BreakerLayer<ErrorIsTransient> {
    let config = BreakerConfig::default().open_for(Duration::from_secs(600));
    let breaker = Breaker::new("bench", config).expect("a good configuration");
    while let Ok(permit) = breaker.try_acquire() {
        permit.settle(Outcome::TRANSIENT);
    }
    BreakerLayer::new(breaker, ErrorIsTransient)
}

fn retry() -> RetryLayer {
    RetryLayer::new("bench", RetryConfig::default(), by_clone()).expect("a good configuration")
}

type Body = Empty<Bytes>;

/// A service that responds immediately with an empty body.
#[derive(Clone, Copy, Debug)]
struct NoContent;

impl Service<Request<Body>> for NoContent {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Empty::new())))
    }
}

/// The headers of a typical client.
fn request() -> Request<Body> {
    Request::get("https://api.example.com/v1/orders/4711?expand=items")
        .header("host", "api.example.com")
        .header("user-agent", "bench/1.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("authorization", "Bearer 0123456789abcdef0123456789abcdef")
        .header("x-request-id", "3f0c6b0e-7f0f-4d7e-9b5f-0a4f1f0e9d11")
        .body(Empty::new())
        .expect("a request")
}

fn http_client(table: &mut Table) {
    let template = request();
    table.row("clone of an http request, 6 headers", || {
        || drop(black_box(black_box(&template).clone()))
    });
    let clone = || template.clone();
    table.prepared("bare http service", Some(0), clone, || {
        let mut service = black_box(NoContent);
        move |request| call(&mut service, request)
    });
    let layer = client("bench", ClientConfig::default()).expect("a good configuration");
    // The future holds the request, which is saved for a retry.
    let bytes = extra_bytes::<_, buttress::http::client::ClientService<NoContent>, NoContent>()
        - size_of::<Request<Body>>();
    table.prepared("standard client stack", Some(bytes), clone, || {
        let mut service = black_box(layer.layer(NoContent));
        move |request| call(&mut service, request)
    });
}

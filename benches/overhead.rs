//! The cost of a call through each layer: success path, no-op inner service, one thread and two, with allocations.
//!
//! `cargo bench --bench overhead` prints a table and writes `target/overhead.json`.

#![allow(missing_docs, reason = "a benchmark has no public items")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::{KeyedConfig, by};
use buttress::{DeadlineLayer, ErrorIsTransient, Outcome, TimeoutLayer};
use support::{Noop, Table, block_on};
use tower::{Layer, Service};

fn consecutive_only() -> BreakerConfig {
    BreakerConfig::default().failure_rate(None)
}

fn breaker(config: BreakerConfig) -> BreakerLayer<ErrorIsTransient> {
    BreakerLayer::new(
        Breaker::new("bench", config).expect("a valid configuration"),
        ErrorIsTransient,
    )
}

/// Opens a circuit as a failing service does.
fn fail(breaker: &Breaker) {
    while let Ok(permit) = breaker.try_acquire() {
        permit.settle(Outcome::TRANSIENT);
    }
}

fn main() {
    let mut table = Table::new();
    table.row("clock alone", || {
        || {
            black_box(buttress::clock::Now::unread().moment());
        }
    });
    table.service("bare service", || Noop);
    table.service("timeout", || {
        TimeoutLayer::new("bench", Duration::from_secs(1)).layer(Noop)
    });
    table.service("deadline", || {
        DeadlineLayer::new("bench", Duration::from_secs(1)).layer(Noop)
    });
    let shared = breaker(consecutive_only());
    table.service("breaker, consecutive", || shared.layer(Noop));
    let shared = breaker(BreakerConfig::default());
    table.service("breaker, time window", || shared.layer(Noop));
    let open = Breaker::new(
        "bench",
        BreakerConfig::default().open_for(Duration::from_secs(600)),
    )
    .expect("a valid configuration");
    fail(&open);
    let shared = BreakerLayer::new(open, ErrorIsTransient);
    table.service("breaker, rejecting", || shared.layer(Noop));
    let keyed = Breaker::keyed(
        "bench",
        BreakerConfig::default(),
        KeyedConfig::default().max_keys(20_000),
        by(|request: &u64| *request),
    )
    .expect("a valid configuration");
    let shared = BreakerLayer::new(keyed, ErrorIsTransient);
    table.row("keyed breaker, 10 000 keys", || {
        let mut service = shared.layer(Noop);
        let mut key = 0;
        move || {
            key = (key + 7919) % 10_000;
            black_box(block_on(service.call(black_box(key))).ok());
        }
    });
    table.finish();
}

//! The cost of a call through each layer: success path, no-op inner service, one thread and two, with allocations.
//!
//! `cargo bench --bench overhead` prints a table and writes `target/overhead.json`.

#![allow(missing_docs, reason = "a benchmark has no public items")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::{By, Keyed, KeyedConfig, by};
use buttress::{DeadlineLayer, ErrorIsTransient, Outcome, TimeoutLayer};
use support::{Flaky, Noop, Table, block_on, heap};
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

const KEYS: u64 = 10_000;

fn keyed(config: BreakerConfig) -> Keyed<u64, By<fn(&u64) -> u64>, Breaker> {
    Breaker::keyed(
        "bench",
        config,
        KeyedConfig::default().max_keys(20_000),
        by((|request| *request) as fn(&u64) -> u64),
    )
    .expect("a valid configuration")
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
    let shared = BreakerLayer::new(keyed(BreakerConfig::default()), ErrorIsTransient);
    table.row("keyed breaker, 10 000 keys", || {
        let mut service = shared.layer(Noop);
        let mut key = 0;
        move || {
            key = (key + 7919) % KEYS;
            black_box(block_on(service.call(black_box(key))).ok());
        }
    });
    // One key fails no more often than another, and none opens.
    let shared = breaker(BreakerConfig::default());
    table.service("breaker, time window, 1 % failures", || {
        shared.layer(Flaky::default())
    });
    let shared = BreakerLayer::new(keyed(BreakerConfig::default()), ErrorIsTransient);
    table.row("keyed breaker, 1 % failures", || {
        let mut service = shared.layer(Flaky::default());
        let mut key = 0;
        move || {
            key = (key + 7919) % KEYS;
            black_box(block_on(service.call(black_box(key))).ok());
        }
    });
    table.finish();
    sizes();
}

/// What a key costs, and by how much each layer makes a future larger.
fn sizes() {
    let before = heap();
    let keyed = keyed(BreakerConfig::default());
    let layer = BreakerLayer::new(keyed.clone(), ErrorIsTransient);
    for threads in 1..=2 {
        // Each thread has a lane of its own.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut service = layer.layer(Noop);
                for key in 0..KEYS {
                    black_box(block_on(service.call(key)).ok());
                }
            });
        });
        println!(
            "{:36} {:9}",
            format!("keyed breaker, bytes a key, {threads} lanes"),
            (heap() - before) / KEYS
        );
    }
    assert_eq!(keyed.len() as u64, KEYS);
    let second = Duration::from_secs(1);
    let bare = size_of_val(&Noop.call(7));
    let row = |name: &str, size: usize| println!("{name:36} {:9}", size - bare);
    println!("\n{:36} {:>9}", "future of", "bytes over the bare one");
    let mut service = TimeoutLayer::new("bench", second).layer(Noop);
    row("timeout", size_of_val(&service.call(7)));
    let mut service = DeadlineLayer::new("bench", second).layer(Noop);
    row("deadline", size_of_val(&service.call(7)));
    let mut service = breaker(BreakerConfig::default()).layer(Noop);
    row("breaker", size_of_val(&service.call(7)));
    row("keyed breaker", size_of_val(&layer.layer(Noop).call(7)));
}

//! A flood of new keys in a full keyed breaker: how long calls to the keys that are there already take meanwhile.
//!
//! `cargo bench --bench keyed` prints a table and writes `target/keyed.json`; `-- --quick` takes a tenth of the keys. One
//! thread calls existing keys and times each call; beside it a second thread does nothing, calls existing keys too, or makes
//! a million new keys. The target: with the flood, the p99.9 is at most twice that of a neighbor who calls existing keys.
//! On a machine that is busy with other work, the slowest calls are those that the system interrupts, so compare runs only
//! on a quiet one.

#![allow(missing_docs, reason = "a benchmark has no public items")]
#![allow(
    clippy::disallowed_methods,
    reason = "it is the time of single calls that is measured"
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use buttress::ErrorIsTransient;
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::{KeyBy, Keyed, KeyedConfig};
use support::{Noop, call, write};
use tower::Layer;

/// The longest time a row may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key is the request.
struct Own;

impl KeyBy<u64> for Own {
    type Key = u64;
    type Lookup<'a> = u64;

    fn lookup(&self, request: &u64) -> u64 {
        *request
    }

    fn to_key(&self, lookup: &u64) -> u64 {
        *lookup
    }
}

type Breakers = Keyed<u64, Own, Breaker>;

struct Size {
    max_keys: usize,
    /// The keys that are called all the time.
    existing: u64,
    new: u64,
    /// The calls that are timed without a flood; with one, as many as there is time for.
    calls: usize,
}

const FULL: Size = Size {
    max_keys: 100_000,
    existing: 50_000,
    new: 1_000_000,
    calls: 5_000_000,
};

const QUICK: Size = Size {
    max_keys: 10_000,
    existing: 5_000,
    new: 100_000,
    calls: 500_000,
};

#[derive(Clone, Copy)]
enum Neighbor {
    Idle,
    CallsExisting,
    MakesNew,
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let size = if quick { QUICK } else { FULL };
    println!(
        "{} new keys at max_keys {}, {} keys in use\n\n{:36} {:>8} {:>8} {:>8} {:>12} {:>7} {:>8}",
        size.new,
        size.max_keys,
        size.existing,
        "beside it",
        "p50 ns",
        "p99",
        "p99.9",
        "new keys/s",
        "evicted",
        "p99.9"
    );
    let mut rows = Vec::new();
    let mut reference = None;
    for (name, neighbor) in [
        ("nothing", Neighbor::Idle),
        ("calls to existing keys", Neighbor::CallsExisting),
        ("a flood of new keys", Neighbor::MakesNew),
    ] {
        let row = measure(&size, neighbor);
        if matches!(neighbor, Neighbor::CallsExisting) {
            reference = Some(row.p999);
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
        let ratio = reference.map_or(String::new(), |reference| {
            format!("{:.2}×", row.p999 as f64 / reference as f64)
        });
        println!(
            "{name:36} {:>8} {:>8} {:>8} {:>12.0} {:>7} {ratio:>8}",
            row.p50, row.p99, row.p999, row.new_per_second, row.lost
        );
        rows.push(format!(
            r#"{{"name":"{name}","p50":{},"p99":{},"p999":{},"lost":{}}}"#,
            row.p50, row.p99, row.p999, row.lost
        ));
    }
    write("keyed.json", &rows);
}

struct Row {
    p50: u64,
    p99: u64,
    p999: u64,
    new_per_second: f64,
    /// Existing keys that were evicted although they were in use.
    lost: u64,
}

fn measure(size: &Size, neighbor: Neighbor) -> Row {
    let keys = KeyedConfig::default().max_keys(size.max_keys);
    let breakers: Breakers =
        Breaker::keyed("bench", BreakerConfig::default(), keys, Own).expect("a good configuration");
    let layer = BreakerLayer::new(breakers.clone(), ErrorIsTransient);
    // Full from the start: every new key evicts one.
    let mut service = layer.layer(Noop);
    (0..size.max_keys as u64).for_each(|key| call(&mut service, key));
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let first_new = size.max_keys as u64;
    let (mut nanos, new_per_second) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut service = layer.layer(Noop);
            // Both threads know all existing keys before anything is timed.
            (0..size.existing).for_each(|key| call(&mut service, key));
            begun.store(true, Ordering::Release);
            let started = Instant::now();
            let mut made = 0;
            match neighbor {
                Neighbor::Idle => {}
                Neighbor::CallsExisting => {
                    let mut key = 0;
                    while !over.load(Ordering::Relaxed) {
                        key = (key + 7919) % size.existing;
                        call(&mut service, key);
                    }
                }
                Neighbor::MakesNew => {
                    while made < size.new && !over.load(Ordering::Relaxed) {
                        call(&mut service, first_new + made);
                        made += 1;
                    }
                    over.store(true, Ordering::Relaxed);
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "a few millions")]
            let per_second = made as f64 / started.elapsed().as_secs_f64();
            per_second
        });
        let mut service = layer.layer(Noop);
        (0..size.existing).for_each(|key| call(&mut service, key));
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let flooded = matches!(neighbor, Neighbor::MakesNew);
        let mut nanos = Vec::with_capacity(size.calls);
        let (started, mut key, mut at) = (Instant::now(), 0, 0);
        while at < size.calls || flooded {
            if at % 1024 == 0 && (over.load(Ordering::Relaxed) || started.elapsed() > PATIENCE) {
                break;
            }
            key = (key + 7919) % size.existing;
            let before = Instant::now();
            call(&mut service, key);
            let took = u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if nanos.len() < size.calls {
                nanos.push(took);
            } else {
                nanos[at % size.calls] = took;
            }
            at += 1;
        }
        over.store(true, Ordering::Relaxed);
        (nanos, beside.join().expect("a thread"))
    });
    nanos.sort_unstable();
    let at = |share: usize| nanos[(nanos.len() - 1) * share / 1000];
    let existing = breakers
        .entries()
        .into_iter()
        .filter(|(key, _)| *key < size.existing);
    Row {
        p50: at(500),
        p99: at(990),
        p999: at(999),
        new_per_second,
        lost: size.existing.saturating_sub(existing.count() as u64),
    }
}

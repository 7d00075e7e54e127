//! The cost of exactly-once execution: each available store, and the layer around a service that responds immediately.
//!
//! `cargo bench -p idempotency_bench` prints tables and writes `target/idempotency.json`; `-- --quick` only
//! shows that it runs. Redis and `PostgreSQL` are those of `REDIS_URL` and `DATABASE_URL`, else the local ones.

#![allow(missing_docs, reason = "a benchmark has no public items")]
#![allow(
    clippy::disallowed_methods,
    reason = "the benchmark measures elapsed time"
)]

mod joined;
mod layer;
mod measure;
mod stores;
#[path = "../../support/mod.rs"]
mod support;

use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Of each figure; the median counts.
    rounds: usize,
    /// How long a round takes.
    round: Duration,
    /// The most pairs of which each is timed.
    timed: usize,
    /// How long they may take.
    patience: Duration,
}

impl Effort {
    /// Rounds that fit between two time slices of a busy machine: for code that never waits.
    fn in_slices(self) -> Self {
        Self {
            rounds: self.rounds * 50,
            round: self.round / 250,
            ..self
        }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick {
        Effort {
            rounds: 3,
            round: Duration::from_millis(20),
            timed: 100,
            patience: Duration::from_secs(1),
        }
    } else {
        Effort {
            rounds: 7,
            round: Duration::from_secs(1),
            timed: 50_000,
            patience: Duration::from_secs(3),
        }
    };
    // One thread, plus those of the stores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut rows = runtime.block_on(stores::measure(effort));
    rows.extend(runtime.block_on(joined::measure(effort)));
    layer::measure(&runtime, effort);
    support::write("idempotency.json", &rows);
}

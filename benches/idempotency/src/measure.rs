//! Begin and complete, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buttress::idempotency::store::{Begun, Claim, Ended, Fingerprint, RecordKey, Store};
use bytes::Bytes;
use rand::random;
use tokio::task::JoinSet;

use crate::Effort;

/// The number of concurrent operations when measuring throughput.
const AT_ONCE: u64 = 64;

/// A typical response: status, two headers, a small object.
const RESPONSE: &[u8] = &[b'x'; 256];

const LEASE: Duration = Duration::from_secs(90);

/// The figures of a store.
pub(crate) struct Figures {
    pub(crate) ops_per_s: f64,
    pub(crate) begin_p50: Duration,
    pub(crate) begin_p99: Duration,
    pub(crate) complete_p99: Duration,
}

/// Measures a store whose records live so long.
pub(crate) async fn figures(store: Arc<dyn Store>, ttl: Duration, effort: Effort) -> Figures {
    for _ in 0..100 {
        pair(&*store, ttl).await;
    }
    let (begins, completes) = latencies(&*store, ttl, effort).await;
    let mut rates = Vec::with_capacity(effort.rounds);
    for _ in 0..effort.rounds {
        rates.push(rate(&store, ttl, effort.round).await);
    }
    rates.sort_by(f64::total_cmp);
    Figures {
        ops_per_s: rates[rates.len() / 2],
        begin_p50: percentile(&begins, 50),
        begin_p99: percentile(&begins, 99),
        complete_p99: percentile(&completes, 99),
    }
}

/// One operation: claims a new key and records its response. Returns the time of each step.
async fn pair(store: &dyn Store, ttl: Duration) -> (Duration, Duration) {
    let key = RecordKey(random());
    let claim = Claim::new(Fingerprint([7; 32]), LEASE, ttl);
    let response = Bytes::from_static(RESPONSE);
    let started = Instant::now();
    let begun = store.begin(&key, &claim).await.expect("a store that works");
    let held = Instant::now();
    let ended = store.complete(&key, claim.token, response, ttl).await;
    let done = Instant::now();
    assert_eq!(begun, Begun::Started { run: 1 });
    assert_eq!(ended.expect("a store that works"), Ended::Taken);
    (held - started, done - held)
}

/// One at a time, each timed.
async fn latencies(
    store: &dyn Store,
    ttl: Duration,
    effort: Effort,
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut begins, mut completes) = (Vec::new(), Vec::new());
    let until = Instant::now() + effort.patience;
    while begins.len() < effort.timed && (begins.len() < 100 || Instant::now() < until) {
        let (begin, complete) = pair(store, ttl).await;
        begins.push(begin);
        completes.push(complete);
    }
    begins.sort();
    completes.sort();
    (begins, completes)
}

/// Throughput of concurrent operations.
async fn rate(store: &Arc<dyn Store>, ttl: Duration, round: Duration) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (store, done) = (Arc::clone(store), Arc::clone(&done));
        tasks.spawn(async move {
            while started.elapsed() < round {
                untimed(&*store, ttl).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a store that works");
    }
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let done = done.load(Ordering::Relaxed) as f64;
    done / started.elapsed().as_secs_f64()
}

/// As [`pair`], without looking at the clock in between.
async fn untimed(store: &dyn Store, ttl: Duration) {
    let key = RecordKey(random());
    let claim = Claim::new(Fingerprint([7; 32]), LEASE, ttl);
    let response = Bytes::from_static(RESPONSE);
    let begun = store.begin(&key, &claim).await.expect("a store that works");
    let ended = store.complete(&key, claim.token, response, ttl).await;
    assert_eq!(begun, Begun::Started { run: 1 });
    assert_eq!(ended.expect("a store that works"), Ended::Taken);
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

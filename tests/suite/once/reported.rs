//! The events of operations: each step once, and never a key.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::event::{Event, OperationId, subscribe};
use buttress::idempotency::lookup::RecordOf;
use buttress::idempotency::store::{MemoryStore, Store};
use buttress::idempotency::{AfterCrash, IdempotencyConfig, IdempotencyLayer, Scope};
use tokio::time::{Instant, sleep};

use super::shop::{Fate, KEY, Scripted, Shop, payment, reply, with_header};
use crate::log::Log;

/// The operation and the run of each step.
type Runs = Vec<(OperationId, Option<u32>)>;

/// The steps, refusals and failures of the layer of this name.
struct Steps {
    reported: Arc<Mutex<Vec<String>>>,
    operations: Arc<Mutex<Runs>>,
    _subscription: buttress::event::Subscription,
}

impl Steps {
    fn new(name: &'static str) -> Self {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reported);
        let operations = Arc::new(Mutex::new(Vec::new()));
        let ids = Arc::clone(&operations);
        let subscription = subscribe(move |event: &Event<'_>| {
            if &**event.source().name() != name {
                return;
            }
            assert_eq!(event.source().layer(), "idempotency");
            assert!(!format!("{event:?}").contains("0123456789"), "{event:?}");
            sink.lock().unwrap().push(match event {
                Event::Operation {
                    step,
                    operation,
                    run,
                    ..
                } => {
                    ids.lock().unwrap().push((*operation, *run));
                    step.as_str().to_owned()
                }
                Event::Rejected { rejected, .. } => rejected.reason.as_str().to_owned(),
                Event::StoreFailed { .. } => "store_failed".to_owned(),
                // Another test refreshes all gauges.
                Event::InProgress { .. } => return,
                other => panic!("{other:?}"),
            });
        });
        Self {
            reported,
            operations,
            _subscription: subscription,
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.reported.lock().unwrap())
    }

    /// Without the failures of the store.
    fn of_the_operation(&self) -> Vec<String> {
        let mut reported = self.take();
        reported.retain(|step| step != "store_failed");
        reported
    }
}

fn shop(name: &'static str, store: impl Store, config: IdempotencyConfig) -> (Shop, Steps) {
    let layer = IdempotencyLayer::new(name, store, Scope::Global, config).unwrap();
    (Shop::of(layer), Steps::new(name))
}

#[tokio::test(start_paused = true)]
async fn each_step_is_reported_once() {
    let (mut shop, steps) = shop(
        "reported steps",
        MemoryStore::new(),
        IdempotencyConfig::default(),
    );
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["begun"]);
    shop.call_with(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["key_in_progress"]);
    called.finish(sent, reply(429, "")).await;
    assert_eq!(steps.take(), ["not_stored"]);
    let (sent, called) = shop.running(payment("10 EUR")).await;
    called.operation().did_not_happen();
    called.finish(sent, reply(503, "")).await;
    assert_eq!(steps.take(), ["taken_over", "released"]);
    shop.served(payment("10 EUR"), reply(201, "")).await;
    assert_eq!(steps.take(), ["taken_over", "completed"]);
    shop.call_with(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["replayed"]);
    shop.call_with(payment("11 EUR")).await;
    assert_eq!(steps.take(), ["key_reused"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_operation_is_not_reported_as_replayed() {
    let (mut shop, steps) = shop(
        "reported failed",
        MemoryStore::new(),
        IdempotencyConfig::default(),
    );
    let sent = shop.send(payment("10 EUR"));
    shop.called().await.panics();
    sent.await.unwrap();
    assert_eq!(steps.take(), ["begun", "completed", "key_failed"]);
    shop.call_with(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["key_failed"]);
    let garbage = Scripted::new(|_, _| Fate::Returns(b"garbage"));
    let (shop, steps) = self::shop("reported garbage", garbage, IdempotencyConfig::default());
    shop.call_with(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["store_failed", "key_store_unavailable"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_reported_once() {
    for renews in [true, false] {
        // Renewals are lost for as long as it takes to lose the lease, or for good.
        let store = Scripted::new(move |asked, before| match asked {
            "renew" if !renews || before < 12 => Fate::Down,
            _ => Fate::Done,
        });
        let name = if renews {
            "reported lease"
        } else {
            "reported late"
        };
        let (mut shop, steps) = shop(name, store, IdempotencyConfig::default());
        let (first, stale) = shop.running(payment("10 EUR")).await;
        sleep(Duration::from_secs(91)).await;
        let (second, fresh) = shop.running(payment("10 EUR")).await;
        sleep(Duration::from_secs(60)).await;
        stale.finish(first, reply(200, "")).await;
        fresh.finish(second, reply(201, "")).await;
        let reported = steps.of_the_operation().join(" ");
        let expected = "begun taken_over lease_lost key_in_progress completed";
        assert_eq!(reported, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_written_is_reported_after_max_run() {
    let store = Scripted::first("complete", usize::MAX, Fate::Down);
    let config = IdempotencyConfig::default().max_run(Duration::from_secs(60));
    let (mut shop, steps) = shop("reported never", store, config);
    shop.served(payment("10 EUR"), reply(201, "")).await;
    let start = Instant::now();
    shop.layer.idle().await;
    let took = start.elapsed().as_secs();
    assert!((59..=63).contains(&took), "{took}");
    assert_eq!(steps.of_the_operation(), ["begun", "not_recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_run_is_not_reported_as_a_run() {
    let store = Scripted::first("renew", usize::MAX, Fate::Down);
    let config = IdempotencyConfig::default().after_crash(AfterCrash::Refuse);
    let (mut shop, steps) = shop("reported refused", store, config);
    let (first, stale) = shop.running(payment("10 EUR")).await;
    sleep(Duration::from_secs(91)).await;
    shop.rejects(payment("10 EUR"), 409, "Unknown").await;
    assert_eq!(
        steps.of_the_operation(),
        ["begun", "completed", "key_outcome_unknown"]
    );
    let late = stale.finish(first, reply(201, "late")).await;
    late.assert_problem(409, "Unknown");
    shop.rejects(payment("10 EUR"), 409, "Unknown").await;
    shop.assert_not_called().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_has_failures_and_no_key() {
    let log = Log::install();
    let store = Scripted::first("complete", 1, Fate::Down);
    let (mut shop, _steps) = shop("reported log", store, IdempotencyConfig::default());
    log.take();
    shop.served(payment("10 EUR"), reply(201, "paid")).await;
    shop.layer.idle().await;
    shop.call_with(payment("10 EUR")).await;
    let short = with_header(payment("10 EUR"), "idempotency-key", "\"0123456789\"");
    shop.call_with(short).await;
    let lines = log.take();
    let levels: Vec<_> = lines.iter().map(|(level, _)| level.as_str()).collect();
    let expected = "DEBUG WARN DEBUG DEBUG DEBUG";
    assert_eq!(levels.join(" "), expected, "{lines:?}");
    assert!(lines[1].1.contains("scripted"), "{lines:?}");
    for (_, line) in lines {
        assert!(line.contains("reported log"), "{line}");
        assert!(
            !line.contains("0123456789") && !line.contains("10 EUR"),
            "{line}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_has_the_id_of_its_operation() {
    let (mut shop, steps) = shop(
        "reported with ids",
        MemoryStore::new(),
        IdempotencyConfig::default(),
    );
    let (sent, called) = shop.running(payment("10 EUR")).await;
    let id = called.operation().id();
    called.pays(sent).await;
    shop.call_with(payment("10 EUR")).await;
    let expected = [(id, Some(1)), (id, Some(1)), (id, None)];
    assert_eq!(*steps.operations.lock().unwrap(), expected);
    assert_eq!(steps.take(), ["begun", "completed", "replayed"]);
    let record = RecordOf::post("/payments", KEY.trim_matches('"'));
    assert_eq!(shop.layer.record(&record).operation_id(), id);
}

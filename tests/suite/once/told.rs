//! What is told of operations: each step once, and never a key.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::event::{Event, subscribe};
use buttress::idempotency::lookup::RecordOf;
use buttress::idempotency::store::Store;
use buttress::idempotency::{AfterCrash, IdempotencyConfig, IdempotencyLayer, Scope};
use tokio::time::sleep;
use tracing::Level;

use super::shop::{Fate, KEY, Scripted, Shop, payment, says};
use crate::log::Log;

/// The steps, refusals and failures of the layer of this name.
struct Steps {
    told: Arc<Mutex<Vec<String>>>,
    _subscription: buttress::event::Subscription,
}

impl Steps {
    fn new(name: &'static str) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let subscription = subscribe(move |event: &Event<'_>| {
            if &**event.source().name() != name {
                return;
            }
            assert_eq!(event.source().layer(), "idempotency");
            assert!(!format!("{event:?}").contains("0123456789"), "{event:?}");
            sink.lock().unwrap().push(match event {
                Event::Operation { step, .. } => step.as_str().to_owned(),
                Event::Rejected { rejected, .. } => rejected.reason.as_str().to_owned(),
                Event::StoreFailed { .. } => "store_failed".to_owned(),
                // Another test refreshes all gauges.
                Event::InProgress { .. } => return,
                other => panic!("{other:?}"),
            });
        });
        Self {
            told,
            _subscription: subscription,
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn shop(name: &'static str, store: impl Store, config: IdempotencyConfig) -> (Shop, Steps) {
    let layer = IdempotencyLayer::new(name, store, Scope::Global, config).unwrap();
    (Shop::of(layer), Steps::new(name))
}

#[tokio::test(start_paused = true)]
async fn each_step_is_told_once() {
    let store = Scripted::new(|_, _| Fate::Done);
    let (mut shop, steps) = shop("told steps", store, IdempotencyConfig::default());
    let sent = shop.send(payment("10 EUR"));
    let called = shop.called().await;
    assert_eq!(steps.take(), ["begun"]);
    shop.ask(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["key_in_progress"]);
    called.answers(says(429, ""));
    sent.await.unwrap();
    assert_eq!(steps.take(), ["not_stored"]);
    let sent = shop.send(payment("10 EUR"));
    let called = shop.called().await;
    called.operation.as_ref().unwrap().did_not_happen();
    called.answers(says(503, ""));
    sent.await.unwrap();
    assert_eq!(steps.take(), ["taken_over", "forgotten"]);
    shop.served(payment("10 EUR"), says(201, "")).await;
    assert_eq!(steps.take(), ["taken_over", "completed"]);
    shop.ask(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["replayed"]);
    shop.ask(payment("11 EUR")).await;
    assert_eq!(steps.take(), ["key_reused"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_given_again_is_no_replay() {
    let store = Scripted::new(|_, _| Fate::Done);
    let (mut shop, steps) = shop("told failed", store, IdempotencyConfig::default());
    let sent = shop.send(payment("10 EUR"));
    shop.called().await.panics();
    sent.await.unwrap();
    assert_eq!(steps.take(), ["begun", "completed", "key_failed"]);
    shop.ask(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["key_failed"]);
    let garbage = Scripted::new(|_, _| Fate::Says(b"garbage"));
    let (shop, steps) = self::shop("told garbage", garbage, IdempotencyConfig::default());
    shop.ask(payment("10 EUR")).await;
    assert_eq!(steps.take(), ["store_failed", "key_store_unavailable"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_told_once_by_whoever_notices_first() {
    for renews in [true, false] {
        // Renewals are lost for as long as it takes to lose the lease, or for good.
        let store = Scripted::new(move |asked, before| match asked {
            "renew" if !renews || before < 12 => Fate::Down,
            _ => Fate::Done,
        });
        let name = if renews { "told lease" } else { "told late" };
        let (mut shop, steps) = shop(name, store, IdempotencyConfig::default());
        let first = shop.send(payment("10 EUR"));
        let stale = shop.called().await;
        sleep(Duration::from_secs(91)).await;
        let second = shop.send(payment("10 EUR"));
        let fresh = shop.called().await;
        sleep(Duration::from_secs(60)).await;
        stale.answers(says(200, ""));
        first.await.unwrap();
        fresh.answers(says(201, ""));
        second.await.unwrap();
        let steps: Vec<_> = steps
            .take()
            .into_iter()
            .filter(|step| step != "store_failed")
            .collect();
        assert_eq!(
            steps,
            [
                "begun",
                "taken_over",
                "lease_lost",
                "key_in_progress",
                "completed"
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_never_taken_is_told_as_such() {
    let store = Scripted::new(|asked, _| match asked {
        "complete" => Fate::Down,
        _ => Fate::Done,
    });
    let config = IdempotencyConfig::default().max_run(Duration::from_secs(2));
    let (mut shop, steps) = shop("told never", store, config);
    shop.served(payment("10 EUR"), says(201, "")).await;
    shop.layer.idle().await;
    let told = steps.take();
    assert_eq!(told.first().unwrap(), "begun");
    assert_eq!(told.last().unwrap(), "not_recorded");
    assert!(
        told[1..told.len() - 1]
            .iter()
            .all(|step| step == "store_failed")
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_not_made_again_is_no_run() {
    let store = Scripted::new(|asked, _| match asked {
        "renew" => Fate::Down,
        _ => Fate::Done,
    });
    let config = IdempotencyConfig::default().after_crash(AfterCrash::Refuse);
    let (mut shop, steps) = shop("told refused", store, config);
    let _first = shop.send(payment("10 EUR"));
    let _called = shop.called().await;
    sleep(Duration::from_secs(91)).await;
    shop.ask(payment("10 EUR")).await;
    let mut told = steps.take();
    told.retain(|step| step != "store_failed");
    assert_eq!(told, ["begun", "completed", "key_outcome_unknown"]);
}

#[tokio::test(start_paused = true)]
async fn the_log_names_what_needs_a_look_and_no_key() {
    let log = Log::install();
    let store = Scripted::new(|asked, before| match asked {
        "complete" if before == 0 => Fate::Down,
        _ => Fate::Done,
    });
    let (mut shop, _steps) = shop("told log", store, IdempotencyConfig::default());
    log.take();
    shop.served(payment("10 EUR"), says(201, "paid")).await;
    shop.layer.idle().await;
    shop.ask(payment("10 EUR")).await;
    let mut short = payment("10 EUR");
    let key = "\"0123456789\"".parse().unwrap();
    short.headers_mut().insert("idempotency-key", key);
    shop.ask(short).await;
    let lines = log.take();
    let levels: Vec<_> = lines.iter().map(|(level, _)| *level).collect();
    assert_eq!(
        levels,
        [
            Level::DEBUG,
            Level::WARN,
            Level::DEBUG,
            Level::DEBUG,
            Level::DEBUG
        ],
        "{lines:?}"
    );
    assert!(lines[1].1.contains("scripted"), "{lines:?}");
    for (_, line) in lines {
        assert!(line.contains("told log"), "{line}");
        assert!(
            !line.contains("0123456789") && !line.contains("10 EUR"),
            "{line}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_does_not_end_an_operation() {
    let panics = |event: &Event<'_>| {
        let name = event.source().name().as_ref();
        assert_ne!(name, "told to one that panics", "scripted panic");
    };
    let _subscription = buttress::event::subscribe(panics);
    let store = Scripted::new(|_, _| Fate::Done);
    let (mut shop, _) = shop(
        "told to one that panics",
        store,
        IdempotencyConfig::default(),
    );
    let first = shop.served(payment("10 EUR"), says(201, "paid")).await;
    assert_eq!(first.of(), (201, false, "paid"));
    assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "paid"));
    assert_eq!(shop.ask(payment("11 EUR")).await.problem(), "Reused");
}

#[tokio::test(start_paused = true)]
async fn a_step_carries_the_operation_that_its_handler_and_a_look_up_name() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let steps = Arc::clone(&seen);
    let _subscription = buttress::event::subscribe(move |event: &Event<'_>| {
        if let Event::Operation {
            source,
            step,
            operation,
            run,
            ..
        } = event
        {
            if source.name().as_ref() == "told with ids" {
                steps
                    .lock()
                    .unwrap()
                    .push((step.as_str(), *operation, *run));
            }
        }
    });
    let store = Scripted::new(|_, _| Fate::Done);
    let (mut shop, _) = shop("told with ids", store, IdempotencyConfig::default());
    let sent = shop.send(payment("10 EUR"));
    let called = shop.called().await;
    let id = called.operation.as_ref().unwrap().id();
    called.answers(says(201, "paid"));
    sent.await.unwrap();
    shop.ask(payment("10 EUR")).await;
    let expected = [
        ("begun", id, Some(1)),
        ("completed", id, Some(1)),
        ("replayed", id, None),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    let record = shop
        .layer
        .record(&RecordOf::post("/payments", KEY.trim_matches('"')));
    assert_eq!(record.operation_id(), id);
}

//! The seam for stores that commit a record together with the effect, with a store in memory in place of a transaction.

use std::time::Duration;

use buttress::idempotency::IdempotencyConfig;
use buttress::idempotency::store::joined::Finished;
use buttress::idempotency::store::{Ended, Store as _};

use super::shop::{Fate, Flow, Scripted, Shop, payment, reply, settle};

fn scripted() -> Scripted {
    Scripted::new(|_, _| Fate::Done)
}

/// Writes the record, as a store does in the transaction of the handler.
async fn write(store: &Scripted, finished: &Finished<Flow>) {
    let (key, token) = (finished.key(), finished.token());
    let record = finished.record().clone();
    let written = store.inner.complete(key, token, record, finished.ttl());
    assert_eq!(written.await.unwrap(), Ended::Taken);
}

#[tokio::test(start_paused = true)]
async fn the_caller_gets_what_was_committed_and_the_layer_writes_nothing() {
    let store = scripted();
    let ttl = Duration::from_secs(4_711);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default().ttl(ttl));
    let (sent, called) = shop.running(payment("10 EUR")).await;
    let finished = Finished::new(called.operation(), reply(201, "paid")).await;
    let finished = finished.unwrap();
    assert_eq!(finished.ttl(), ttl);
    write(&store, &finished).await;
    assert_eq!(finished.committed().status(), 201);
    // Whatever the handler returns afterwards.
    let seen = called.finish(sent, reply(500, "failed")).await;
    assert_eq!(seen.of(), (201, false, "paid"));
    settle().await;
    assert_eq!((store.count("complete"), store.count("abandon")), (0, 0));
    let again = shop.call_with(payment("10 EUR")).await;
    assert_eq!(again.of(), (201, true, "paid"));
}

#[tokio::test(start_paused = true)]
async fn without_a_commit_the_record_decides() {
    for is_written in [false, true] {
        let store = scripted();
        let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
        let (sent, called) = shop.running(payment("10 EUR")).await;
        let finished = Finished::new(called.operation(), reply(201, "paid")).await;
        let finished = finished.unwrap();
        if is_written {
            write(&store, &finished).await;
        }
        // The acknowledgment was lost, or the transaction rolled back.
        drop(finished);
        let seen = called.finish(sent, reply(503, "failed")).await;
        settle().await;
        if is_written {
            assert_eq!(seen.text(), "paid");
            assert_eq!(shop.call_with(payment("10 EUR")).await.text(), "paid");
        } else {
            assert_eq!(seen.of(), (503, false, "failed"));
            shop.pays(payment("10 EUR")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_recorded_releases_the_key() {
    let config = IdempotencyConfig::default().max_response_body(4);
    let mut shop = Shop::with(scripted(), config);
    let (sent, called) = shop.running(payment("10 EUR")).await;
    let error = Finished::new(called.operation(), reply(201, "too long")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("larger than `max_response_body`"), "{error}");
    let seen = called.finish(sent, reply(503, "no")).await;
    assert_eq!(seen.of(), (503, false, "no"));
    settle().await;
    assert_eq!(
        shop.served(payment("10 EUR"), reply(201, "ok")).await.of(),
        (201, false, "ok")
    );
}

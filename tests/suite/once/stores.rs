//! A store that is down, slow or full, or has unreadable records.

use std::time::Duration;

use buttress::idempotency::IdempotencyConfig;
use tokio::time::{Instant, advance, sleep};

use super::shop::{Fate, Scripted, Shop, payment, reply, settle};

const LONG: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_request_without_a_store_is_rejected_and_leaves_no_record() {
    for fate in [
        Fate::Down,
        Fate::Lost,
        Fate::Hangs,
        Fate::Slow(LONG),
        Fate::Full,
    ] {
        let store = Scripted::first("begin", 1, fate);
        let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
        let seen = shop.call_with(payment("10 EUR")).await;
        seen.assert_problem(503, "StoreUnavailable");
        assert_eq!(seen.headers["retry-after"], "1");
        shop.assert_not_called().await;
        // Until a late claim is given up, or its lease is over.
        sleep(Duration::from_secs(200)).await;
        assert_eq!(store.inner.len(), 0, "{fate:?}");
        shop.pays(payment("10 EUR")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_claim_is_given_up_unless_another_request_holds_the_key() {
    let store = Scripted::first("begin", 1, Fate::Slow(LONG));
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let start = Instant::now();
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "StoreUnavailable"
    );
    assert_eq!(
        start.elapsed(),
        Duration::from_secs(1),
        "the bound of the store"
    );
    // Another request claims the key first.
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(2 * LONG).await;
    assert_eq!(store.count("abandon"), 0, "another request holds the key");
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_tasks_that_give_up_claims_is_limited() {
    let store = Scripted::new(|_, _| Fate::Down);
    let shop = Shop::with(store.clone(), IdempotencyConfig::default());
    for _ in 0..1500 {
        assert_eq!(shop.call_with(payment("10 EUR")).await.status, 503);
    }
    sleep(Duration::from_secs(3600)).await;
    let asked = store.count("abandon");
    assert!((1024..=1500 * 13).contains(&asked), "{asked}");
    // All of them have ended.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.count("abandon"), asked);
}

#[tokio::test(start_paused = true)]
async fn a_response_without_room_in_the_store_is_sent_and_recorded_as_not_stored() {
    let store = Scripted::first("complete", 1, Fate::Full);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    shop.pays(payment("10 EUR")).await;
    shop.rejects(payment("10 EUR"), 409, "NotStored").await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_an_error_even_if_the_layer_fails_open() {
    for record in [
        &b""[..],
        b"garbage",
        b"1A",
        b"1AHTTP/1.1 2",
        b"2Asomething new",
    ] {
        for fail_open in [false, true] {
            let store = Scripted::new(move |_, _| Fate::Returns(record));
            let config = IdempotencyConfig::default().fail_open(fail_open);
            let mut shop = Shop::with(store.clone(), config);
            shop.rejects(payment("10 EUR"), 503, "StoreUnavailable")
                .await;
            shop.assert_not_called().await;
            assert_eq!(store.calls(), ["begin"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_open_serves_without_protection() {
    for fate in [Fate::Down, Fate::Hangs, Fate::Full] {
        let store = Scripted::first("begin", 1, fate);
        let config = IdempotencyConfig::default().fail_open(true);
        let mut shop = Shop::with(store, config);
        let (sent, called) = shop.running(payment("10 EUR")).await;
        assert!(called.operation.is_none(), "there is no record of it");
        assert_eq!(called.left, Some(Duration::from_secs(600)));
        assert_eq!(
            called.finish(sent, reply(201, "unprotected")).await.of(),
            (201, false, "unprotected")
        );
        sleep(Duration::from_secs(200)).await;
        let again = shop
            .served(payment("10 EUR"), reply(201, "protected"))
            .await;
        assert_eq!(again.of(), (201, false, "protected"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_protection_is_bounded_by_max_run() {
    let store = Scripted::new(|_, _| Fate::Down);
    let config = IdempotencyConfig::default().fail_open(true);
    let mut shop = Shop::with(store, config);
    let sent = shop.send(payment("10 EUR"));
    shop.called().await.panics();
    assert_eq!(sent.await.unwrap().problem(), "Failed");
    let (sent, mut called) = shop.running(payment("10 EUR")).await;
    called.dropped().await;
    assert_eq!(sent.await.unwrap().problem(), "Unknown");
    assert_eq!(shop.layer.running(), 0);
    let sent = shop.send(payment("10 EUR"));
    shop.called().await.fails("its own");
    assert_eq!(sent.await.unwrap().of(), (599, false, "its own"));
}

#[tokio::test(start_paused = true)]
async fn a_response_is_sent_before_a_failed_record_is_written() {
    for fate in [Fate::Down, Fate::Lost, Fate::Hangs, Fate::Slow(LONG)] {
        let store = Scripted::first("complete", 1, fate);
        let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
        shop.pays(payment("10 EUR")).await;
        assert_eq!(shop.layer.running(), 1, "its record is still to be written");
        shop.layer.idle().await;
        assert_eq!(shop.layer.running(), 0);
        assert_eq!(
            shop.call_with(payment("10 EUR")).await.of(),
            (201, true, "paid")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_renews_leases_prevents_a_second_run() {
    let store = Scripted::first("complete", 200, Fate::Full);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), reply(201, "paid")).await;
    assert_eq!(first.status, 201);
    // More than a lease later.
    sleep(Duration::from_secs(150)).await;
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "InProgress"
    );
    shop.layer.idle().await;
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "NotStored"
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_deleted_too_early_is_claimed_again() {
    // The lease is renewed, but the record is not there.
    let store = Scripted::first("renew", 1, Fate::Returns(b""));
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(store.calls(), ["begin", "renew", "begin"]);
    // And held on.
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(store.calls(), ["begin", "renew", "begin", "renew"]);
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_store_is_like_a_crash() {
    let store = Scripted::first("complete", 1, Fate::Panics);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), reply(201, "paid")).await;
    first.assert_problem(409, "InProgress");
    assert_eq!(shop.layer.running(), 0);
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "InProgress"
    );
    sleep(Duration::from_secs(90)).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 2);
    called.finish(sent, reply(201, "again")).await;
}

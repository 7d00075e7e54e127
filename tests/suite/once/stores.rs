//! A store that is down, slow or full, or answers what nobody can read.

use std::time::Duration;

use buttress::idempotency::IdempotencyConfig;
use buttress::idempotency::store::MemoryStore;
use tokio::time::{Instant, advance, sleep};

use super::shop::{Fate, KEY, Scripted, Shop, payment, says, settle, with_header};

const LONG: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn without_its_store_a_request_is_refused_and_leaves_nothing_behind() {
    for fate in [
        Fate::Down,
        Fate::Lost,
        Fate::Hangs,
        Fate::Slow(LONG),
        Fate::Full,
    ] {
        let store = Scripted::first("begin", 1, fate);
        let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
        let seen = shop.ask(payment("10 EUR")).await;
        seen.assert_problem(503, "StoreUnavailable");
        assert_eq!(seen.headers["retry-after"], "1");
        shop.calls_nobody().await;
        // Until a late claim is made and given up, or its lease is over.
        sleep(Duration::from_secs(200)).await;
        assert_eq!(store.kept.len(), 0, "{fate:?}");
        shop.pays(payment("10 EUR")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_claim_is_given_up_as_soon_as_it_is_known_and_not_what_another_has() {
    let store = Scripted::first("begin", 1, Fate::Slow(LONG));
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let start = Instant::now();
    assert_eq!(
        shop.ask(payment("10 EUR")).await.problem(),
        "StoreUnavailable"
    );
    assert_eq!(
        start.elapsed(),
        Duration::from_secs(1),
        "the bound of the store"
    );
    // Another comes first, and runs.
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(2 * LONG).await;
    assert_eq!(store.count("abandon"), 0, "it was told that another runs");
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_is_not_asked_by_everybody_at_once() {
    let store = Scripted::new(|_, _| Fate::Down);
    let shop = Shop::with(store.clone(), IdempotencyConfig::default());
    for _ in 0..1500 {
        assert_eq!(shop.ask(payment("10 EUR")).await.status, 503);
    }
    sleep(Duration::from_secs(3600)).await;
    let asked = store.count("abandon");
    assert!((1024..=1500 * 13).contains(&asked), "{asked}");
    // All of them have ended.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.count("abandon"), asked);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_new_keys_and_gives_old_answers() {
    let store = MemoryStore::with_max_bytes(512).unwrap();
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    shop.served(payment("10 EUR"), says(201, "paid")).await;
    let key = KEY.replace('0', "x");
    let other = with_header(payment("10 EUR"), "idempotency-key", key);
    shop.refuses(other, 503, "StoreUnavailable").await;
    shop.calls_nobody().await;
    assert!(shop.ask(payment("10 EUR")).await.replayed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_which_there_is_no_room_is_given_and_that_it_is_done_is_kept() {
    let store = Scripted::first("complete", 1, Fate::Full);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    shop.pays(payment("10 EUR")).await;
    shop.refuses(payment("10 EUR"), 409, "NotStored").await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_read_is_an_error_whatever_may_be_served_without_a_store() {
    for record in [
        &b""[..],
        b"garbage",
        b"1A",
        b"1AHTTP/1.1 2",
        b"2Asomething new",
    ] {
        for fail_open in [false, true] {
            let store = Scripted::new(move |_, _| Fate::Says(record));
            let config = IdempotencyConfig::default().fail_open(fail_open);
            let mut shop = Shop::with(store.clone(), config);
            shop.refuses(payment("10 EUR"), 503, "StoreUnavailable")
                .await;
            shop.calls_nobody().await;
            assert_eq!(store.asked(), ["begin"]);
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
            called.finish(sent, says(201, "unprotected")).await.of(),
            (201, false, "unprotected")
        );
        sleep(Duration::from_secs(200)).await;
        let again = shop.served(payment("10 EUR"), says(201, "protected")).await;
        assert_eq!(again.of(), (201, false, "protected"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_served_without_protection_is_bounded_and_answered_all_the_same() {
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
async fn an_answer_does_not_wait_for_a_store_that_fails_and_is_recorded_later() {
    for fate in [Fate::Down, Fate::Lost, Fate::Hangs, Fate::Slow(LONG)] {
        let store = Scripted::first("complete", 1, fate);
        let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
        shop.pays(payment("10 EUR")).await;
        assert_eq!(shop.layer.running(), 1, "its record is still to be written");
        shop.layer.idle().await;
        assert_eq!(shop.layer.running(), 0);
        assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "paid"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_answers_but_holds_leases_lets_nothing_run_twice() {
    let store = Scripted::first("complete", 200, Fate::Full);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), says(201, "paid")).await;
    assert_eq!(first.status, 201);
    // More than a lease later.
    sleep(Duration::from_secs(150)).await;
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
    shop.layer.idle().await;
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "NotStored");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_never_taken_is_given_up_after_the_longest_run() {
    let store = Scripted::first("complete", usize::MAX, Fate::Down);
    let config = IdempotencyConfig::default().max_run(Duration::from_secs(60));
    let mut shop = Shop::with(store.clone(), config);
    shop.served(payment("10 EUR"), says(201, "paid")).await;
    let start = Instant::now();
    shop.layer.idle().await;
    let took = start.elapsed().as_secs();
    assert!((59..=63).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_gone_before_its_time_is_claimed_again() {
    // The lease is renewed, but the record is not there.
    let store = Scripted::first("renew", 1, Fate::Says(b""));
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(store.asked(), ["begin", "renew", "begin"]);
    // And held on.
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(store.asked(), ["begin", "renew", "begin", "renew"]);
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_as_a_process_that_dies() {
    let store = Scripted::first("complete", 1, Fate::Panics);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), says(201, "paid")).await;
    first.assert_problem(409, "InProgress");
    assert_eq!(shop.layer.running(), 0);
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
    sleep(Duration::from_secs(90)).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 2);
    called.finish(sent, says(201, "again")).await;
}

//! Handlers that end well, badly, late or never; callers that leave; leases.

use std::time::Duration;

use buttress::idempotency::{AfterCrash, IdempotencyConfig, StoragePolicy};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio::time::{Instant, advance, sleep};

use super::shop::{Fate, Scripted, Shop, payment, says, settle};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_told_so_with_a_time_to_come_again() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    let other = shop.ask(payment("10 EUR")).await;
    other.assert_problem(409, "InProgress");
    assert_eq!(other.headers["retry-after"], "1");
    called.pays(sent).await;
    assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "paid"));
}

/// How a handler ends.
#[derive(Clone, Copy, Debug)]
enum End {
    With(u16),
    Panics,
    Fails,
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_follows_from_the_policy() {
    use End::{Fails, Panics, With};
    let ends = [
        200, 302, 400, 401, 404, 407, 408, 409, 422, 425, 429, 500, 503, 504,
    ]
    .map(With);
    for (policy, not_stored) in [
        (StoragePolicy::Definitive, &[401, 407, 425, 429][..]),
        (
            StoragePolicy::SuccessOnly,
            &[400, 401, 404, 407, 409, 422, 425, 429, 500, 503, 504, 599],
        ),
        (
            StoragePolicy::DeleteOnError,
            &[401, 407, 425, 429, 500, 503, 504, 599],
        ),
    ] {
        for end in ends.into_iter().chain([Panics, Fails]) {
            let mut shop = Shop::new(IdempotencyConfig::default().storage(policy));
            let (sent, called) = shop.running(payment("10 EUR")).await;
            let (code, first, again) = match end {
                // A time limit inside has cut the handler off.
                With(408) => {
                    called.answers(says(408, "first"));
                    (408, 408, 409)
                }
                With(status) => {
                    called.answers(says(status, "first"));
                    (status, status, status)
                }
                Panics => {
                    called.panics();
                    (599, 500, 500)
                }
                Fails => {
                    called.fails("down");
                    (599, 599, 500)
                }
            };
            assert_eq!(sent.await.unwrap().status, first, "{policy:?} {end:?}");
            if not_stored.contains(&code) {
                let (sent, called) = shop.running(payment("10 EUR")).await;
                assert_eq!(called.operation().run(), 2);
                let seen = called.finish(sent, says(201, "anew")).await;
                assert_eq!(seen.of(), (201, false, "anew"), "{policy:?} {end:?}");
            } else {
                assert_eq!(
                    shop.ask(payment("10 EUR")).await.status,
                    again,
                    "{policy:?} {end:?}"
                );
                shop.calls_nobody().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_happen_is_answered_and_forgotten() {
    for end in [End::With(200), End::With(500), End::Panics, End::Fails] {
        let mut shop = Shop::new(IdempotencyConfig::default());
        let (sent, called) = shop.running(payment("10 EUR")).await;
        called.operation().did_not_happen();
        match end {
            End::With(status) => called.answers(says(status, "")),
            End::Panics => called.panics(),
            End::Fails => called.fails("down"),
        }
        let first = sent.await.unwrap();
        if matches!(end, End::Panics) {
            first.assert_problem(503, "NotExecuted");
        }
        let (sent, called) = shop.running(payment("10 EUR")).await;
        assert_eq!(called.operation().run(), 1, "{end:?}");
        assert_eq!(called.finish(sent, says(201, "")).await.status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_forgotten_at_once_is_forgotten_later() {
    let store = Scripted::first("abandon", 3, Fate::Down);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    called.operation().did_not_happen();
    assert_eq!(called.finish(sent, says(503, "")).await.status, 503);
    shop.layer.idle().await;
    assert_eq!(store.kept.len(), 0);
    assert_eq!(
        shop.served(payment("10 EUR"), says(201, "")).await.status,
        201
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_is_dropped_and_never_run_again() {
    for policy in [StoragePolicy::Definitive, StoragePolicy::DeleteOnError] {
        let mut shop = Shop::new(IdempotencyConfig::default().storage(policy));
        let start = Instant::now();
        let (sent, mut called) = shop.running(payment("10 EUR")).await;
        assert_eq!(called.left, Some(600 * SECOND), "its deadline");
        called.dropped().await;
        assert_eq!(start.elapsed(), 600 * SECOND);
        let first = sent.await.unwrap();
        first.assert_problem(409, "Unknown");
        assert!(!first.headers.contains_key("retry-after"));
        assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Unknown");
        sleep(600 * SECOND).await;
        assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Unknown");
        shop.calls_nobody().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_body_never_ends_is_a_handler_that_never_ends() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (_more, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let answer = http::Response::new(body.boxed_unsync());
    let first = shop.served(payment("10 EUR"), answer).await;
    assert_eq!(first.problem(), "Unknown");
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Unknown");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_its_time_from_when_it_was_given() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(100 * SECOND).await;
    called.finish(sent, says(201, "paid")).await;
    sleep(Duration::from_secs(24 * 3600 - 1)).await;
    assert!(shop.ask(payment("10 EUR")).await.replayed());
    sleep(SECOND).await;
    let seen = shop.served(payment("10 EUR"), says(201, "anew")).await;
    assert_eq!(seen.of(), (201, false, "anew"));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_handler_that_takes_long_is_renewed() {
    let store = Scripted::new(|_, _| Fate::Done);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    for _ in 0..10 {
        sleep(45 * SECOND).await;
        assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
    }
    assert!(store.count("renew") >= 14);
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_made_again_in_time() {
    let store = Scripted::first("renew", 3, Fate::Hangs);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(100 * SECOND).await;
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
    called.finish(sent, says(201, "paid")).await;
}

fn holds_no_lease() -> Scripted {
    Scripted::first("renew", usize::MAX, Fate::Down)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_outlives_its_lease_cannot_overwrite_the_next() {
    let mut shop = Shop::with(holds_no_lease(), IdempotencyConfig::default());
    let (first, stale) = shop.running(payment("10 EUR")).await;
    sleep(91 * SECOND).await;
    let (second, fresh) = shop.running(payment("10 EUR")).await;
    assert_eq!(fresh.operation().run(), 2);
    assert_eq!(
        fresh.operation().derived_key("x"),
        stale.operation().derived_key("x"),
        "for the provider it is the same operation"
    );
    // While the other runs, and after it has ended.
    assert_eq!(
        stale.finish(first, says(500, "stale")).await.problem(),
        "InProgress"
    );
    assert_eq!(
        fresh.finish(second, says(201, "fresh")).await.of(),
        (201, false, "fresh")
    );
    assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "fresh"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_run_is_answered_with_what_the_next_has_recorded() {
    let mut shop = Shop::with(holds_no_lease(), IdempotencyConfig::default());
    let (first, stale) = shop.running(payment("10 EUR")).await;
    sleep(91 * SECOND).await;
    let fresh = shop.served(payment("10 EUR"), says(201, "fresh")).await;
    assert_eq!(fresh.of(), (201, false, "fresh"));
    assert_eq!(
        stale.finish(first, says(500, "stale")).await.of(),
        (201, false, "fresh")
    );
    assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "fresh"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_over_loses_nothing_as_long_as_nobody_asks() {
    // With the second time to live, the record is forgotten while the handler runs, and made anew.
    for ttl in [IdempotencyConfig::default().ttl, SECOND] {
        let config = IdempotencyConfig::default().ttl(ttl);
        let mut shop = Shop::with(holds_no_lease(), config);
        let (first, called) = shop.running(payment("10 EUR")).await;
        sleep(300 * SECOND).await;
        called.pays(first).await;
        assert!(shop.ask(payment("10 EUR")).await.replayed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_may_not_be_run_twice_is_unknown_once_its_run_was_cut_off() {
    let config = IdempotencyConfig::default().after_crash(AfterCrash::Refuse);
    let mut shop = Shop::with(holds_no_lease(), config);
    let (first, stale) = shop.running(payment("10 EUR")).await;
    sleep(91 * SECOND).await;
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Unknown");
    assert_eq!(
        stale.finish(first, says(201, "late")).await.problem(),
        "Unknown"
    );
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Unknown");
    shop.calls_nobody().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_his_request_is_read_has_done_nothing() {
    let store = Scripted::new(|_, _| Fate::Done);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (mut more, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let sent = shop.send(payment("").map(|_| body.boxed_unsync()));
    more.send_data("half".into()).await.unwrap();
    settle().await;
    sent.abort();
    assert!(sent.await.unwrap_err().is_cancelled());
    assert!(
        more.send_data("more".into()).await.is_err(),
        "nobody reads on"
    );
    shop.calls_nobody().await;
    assert_eq!(store.asked(), [""; 0]);
    assert_eq!(shop.layer.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_later_leaves_his_answer_to_the_next() {
    for slow in ["complete", "nothing"] {
        let store = Scripted::first(slow, 1, Fate::Slow(SECOND / 2));
        let mut shop = Shop::with(store, IdempotencyConfig::default());
        let sent = shop.send(payment("10 EUR"));
        settle().await;
        assert_eq!(shop.layer.running(), 1);
        if slow == "complete" {
            shop.called().await.answers(says(201, "paid"));
            settle().await;
            sent.abort();
        } else {
            let called = shop.called().await;
            sent.abort();
            assert!(sent.await.unwrap_err().is_cancelled());
            assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
            sleep(200 * SECOND).await;
            assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
            called.answers(says(201, "paid"));
        }
        shop.layer.idle().await;
        let next = shop.ask(payment("10 EUR")).await;
        assert_eq!(next.of(), (201, true, "paid"), "{slow}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_under_way_from_the_moment_it_is_handed_over() {
    let shop = Shop::new(IdempotencyConfig::default());
    let service = buttress::http::handle_rejections(shop.layer.clone());
    let service = tower::Layer::layer(&service, shop.handler.clone());
    let mut call = Box::pin(tower::ServiceExt::oneshot(service, payment("10 EUR")));
    assert!(crate::common::poll(call.as_mut()).is_pending());
    drop(call);
    // Its task was not polled yet.
    assert_eq!(shop.layer.running(), 1);
    let mut idle = Box::pin(shop.layer.idle());
    assert!(crate::common::poll(idle.as_mut()).is_pending());
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_answer_as_soon_as_it_is_there() {
    let config = IdempotencyConfig::default().wait(10 * SECOND);
    let mut shop = Shop::new(config);
    let (first, called) = shop.running(payment("10 EUR")).await;
    let others: Vec<_> = (0..5).map(|_| shop.send(payment("10 EUR"))).collect();
    sleep(5 * SECOND).await;
    assert!(others.iter().all(|other| !other.is_finished()));
    called.pays(first).await;
    let start = Instant::now();
    for other in others {
        assert_eq!(other.await.unwrap().of(), (201, true, "paid"));
    }
    assert!(
        start.elapsed() < Duration::from_millis(1300),
        "it is asked for once a second"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_time_and_when_its_caller_leaves() {
    let store = Scripted::new(|_, _| Fate::Done);
    let config = IdempotencyConfig::default().wait(10 * SECOND);
    let mut shop = Shop::with(store.clone(), config);
    let (first, called) = shop.running(payment("10 EUR")).await;
    let start = Instant::now();
    shop.refuses(payment("10 EUR"), 409, "InProgress").await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    let leaves = shop.send(payment("10 EUR"));
    sleep(SECOND).await;
    leaves.abort();
    settle().await;
    assert_eq!(shop.layer.running(), 1, "only the first");
    let asked = store.count("begin");
    sleep(5 * SECOND).await;
    assert_eq!(store.count("begin"), asked);
    called.finish(first, says(201, "paid")).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_did_not_happen_runs_it_himself() {
    let config = IdempotencyConfig::default().wait(10 * SECOND);
    let mut shop = Shop::new(config);
    let (first, called) = shop.running(payment("10 EUR")).await;
    let other = shop.send(payment("10 EUR"));
    settle().await;
    called.operation().did_not_happen();
    assert_eq!(called.finish(first, says(503, "not now")).await.status, 503);
    let called = shop.called().await;
    assert_eq!(called.operation().run(), 1);
    called.pays(other).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_held_to_the_end_however_time_jumps() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    // As after a machine has slept: the lease is over when the task is polled again, and it takes it back.
    advance(500 * SECOND).await;
    settle().await;
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "InProgress");
    called.pays(sent).await;
}

/// A shop whose first run was cut off, as if its process had died, and whose lease is over. Its second claim has this fate.
async fn cut_off(second: Fate) -> Shop {
    let store = Scripted::new(move |asked, before| match (asked, before) {
        // The record is not completed, although the store says so.
        ("complete", 0) => Fate::Says(b"1N"),
        ("begin", 1) => second,
        _ => Fate::Done,
    });
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), says(201, "paid")).await;
    first.assert_problem(409, "NotStored");
    sleep(91 * SECOND).await;
    shop
}

#[tokio::test(start_paused = true)]
async fn what_a_later_run_does_not_record_does_not_hide_the_run_before() {
    for did_not_happen in [false, true] {
        let mut shop = cut_off(Fate::Done).await;
        let (sent, called) = shop.running(payment("10 EUR")).await;
        assert_eq!(called.operation().run(), 2);
        if did_not_happen {
            called.operation().did_not_happen();
        }
        assert_eq!(called.finish(sent, says(429, "")).await.status, 429);
        let (sent, called) = shop.running(payment("10 EUR")).await;
        assert_eq!(called.operation().run(), 3);
        called.pays(sent).await;
        assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "paid"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_lost_on_the_way_does_not_hide_the_run_before() {
    let mut shop = cut_off(Fate::Lost).await;
    assert_eq!(shop.ask(payment("10 EUR")).await.status, 503);
    // Time enough to give it up, and not for its lease to end.
    sleep(SECOND).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 3);
    called.pays(sent).await;
    // A first claim leaves nothing behind.
    let store = Scripted::first("begin", 1, Fate::Lost);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    assert_eq!(shop.ask(payment("10 EUR")).await.status, 503);
    sleep(SECOND).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 1);
    called.pays(sent).await;
}

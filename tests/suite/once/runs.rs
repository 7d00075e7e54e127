//! How handlers end, callers that leave, and leases.

use std::time::Duration;

use buttress::idempotency::{IdempotencyConfig, StoragePolicy};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio::time::{Instant, advance, sleep};

use super::shop::{Fate, Scripted, Shop, payment, reply, settle};

const SECOND: Duration = Duration::from_secs(1);

/// How a handler ends.
#[derive(Clone, Copy, Debug)]
enum End {
    With(u16),
    Panics,
    Fails,
}

#[tokio::test(start_paused = true)]
async fn stored_statuses_follow_the_policy() {
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
                    called.responds(reply(408, "first"));
                    (408, 408, 409)
                }
                With(status) => {
                    called.responds(reply(status, "first"));
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
                let seen = called.finish(sent, reply(201, "anew")).await;
                assert_eq!(seen.of(), (201, false, "anew"), "{policy:?} {end:?}");
            } else {
                assert_eq!(
                    shop.call_with(payment("10 EUR")).await.status,
                    again,
                    "{policy:?} {end:?}"
                );
                shop.assert_not_called().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn did_not_happen_releases_the_key() {
    for end in [End::With(200), End::With(500), End::Panics, End::Fails] {
        let mut shop = Shop::new(IdempotencyConfig::default());
        let (sent, called) = shop.running(payment("10 EUR")).await;
        called.operation().did_not_happen();
        match end {
            End::With(status) => called.responds(reply(status, "")),
            End::Panics => called.panics(),
            End::Fails => called.fails("down"),
        }
        let first = sent.await.unwrap();
        if matches!(end, End::Panics) {
            first.assert_problem(503, "NotExecuted");
        }
        let (sent, called) = shop.running(payment("10 EUR")).await;
        assert_eq!(called.operation().run(), 1, "{end:?}");
        assert_eq!(called.finish(sent, reply(201, "")).await.status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_is_retried() {
    let store = Scripted::first("abandon", 3, Fate::Down);
    let mut shop = Shop::with(store.clone(), IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    called.operation().did_not_happen();
    assert_eq!(called.finish(sent, reply(503, "")).await.status, 503);
    shop.layer.idle().await;
    assert_eq!(store.inner.len(), 0);
    assert_eq!(
        shop.served(payment("10 EUR"), reply(201, "")).await.status,
        201
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_never_ends_is_cut_off_at_max_run() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (_more, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let answer = http::Response::new(body.boxed_unsync());
    let first = shop.served(payment("10 EUR"), answer).await;
    assert_eq!(first.problem(), "Unknown");
    assert_eq!(shop.call_with(payment("10 EUR")).await.problem(), "Unknown");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_retried_before_the_lease_ends() {
    let store = Scripted::first("renew", 3, Fate::Hangs);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(100 * SECOND).await;
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "InProgress"
    );
    called.finish(sent, reply(201, "paid")).await;
}

fn holds_no_lease() -> Scripted {
    Scripted::first("renew", usize::MAX, Fate::Down)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_outlives_its_lease_cannot_overwrite_the_next() {
    for stale_ends_first in [true, false] {
        let mut shop = Shop::with(holds_no_lease(), IdempotencyConfig::default());
        let (first, stale) = shop.running(payment("10 EUR")).await;
        sleep(91 * SECOND).await;
        let (second, fresh) = shop.running(payment("10 EUR")).await;
        assert_eq!(fresh.operation().run(), 2);
        let keys = [&fresh, &stale].map(|run| run.operation().derived_key("x"));
        assert_eq!(
            keys[0], keys[1],
            "for the provider it is the same operation"
        );
        let paid = (201, false, "fresh");
        if stale_ends_first {
            let seen = stale.finish(first, reply(500, "stale")).await;
            assert_eq!(seen.problem(), "InProgress");
            assert_eq!(fresh.finish(second, reply(201, "fresh")).await.of(), paid);
        } else {
            assert_eq!(fresh.finish(second, reply(201, "fresh")).await.of(), paid);
            assert_eq!(stale.finish(first, reply(500, "stale")).await.of(), paid);
        }
        assert_eq!(
            shop.call_with(payment("10 EUR")).await.of(),
            (201, true, "fresh")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_without_its_lease_is_recorded_if_the_key_was_not_claimed() {
    // With the second time to live, the record expires while the handler runs, and is claimed again.
    for ttl in [IdempotencyConfig::default().ttl, SECOND] {
        let config = IdempotencyConfig::default().ttl(ttl);
        let mut shop = Shop::with(holds_no_lease(), config);
        let (first, called) = shop.running(payment("10 EUR")).await;
        sleep(300 * SECOND).await;
        called.pays(first).await;
        assert!(shop.call_with(payment("10 EUR")).await.replayed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_body_is_read_leaves_no_record() {
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
    shop.assert_not_called().await;
    assert_eq!(store.calls(), [""; 0]);
    assert_eq!(shop.layer.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_leave_while_its_response_is_stored() {
    let store = Scripted::first("complete", 1, Fate::Slow(SECOND / 2));
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    called.responds(reply(201, "paid"));
    settle().await;
    sent.abort();
    shop.layer.idle().await;
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.of(),
        (201, true, "paid")
    );
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_in_progress_before_its_task_is_polled() {
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
async fn requests_that_wait_get_the_response() {
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
    let late = shop.call_with(payment("10 EUR")).await;
    late.assert_problem(409, "InProgress");
    assert_eq!(late.headers["retry-after"], "1");
    assert_eq!(start.elapsed(), 10 * SECOND);
    let leaves = shop.send(payment("10 EUR"));
    sleep(SECOND).await;
    leaves.abort();
    settle().await;
    assert_eq!(shop.layer.running(), 1, "only the first");
    let asked = store.count("begin");
    sleep(5 * SECOND).await;
    assert_eq!(store.count("begin"), asked);
    called.finish(first, reply(201, "paid")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_runs_a_released_operation() {
    let config = IdempotencyConfig::default().wait(10 * SECOND);
    let mut shop = Shop::new(config);
    let (first, called) = shop.running(payment("10 EUR")).await;
    let other = shop.send(payment("10 EUR"));
    settle().await;
    called.operation().did_not_happen();
    assert_eq!(
        called.finish(first, reply(503, "not now")).await.status,
        503
    );
    let called = shop.called().await;
    assert_eq!(called.operation().run(), 1);
    called.pays(other).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_claimed_again_after_a_time_jump() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    // As after a machine has slept: the lease is over when the task is polled again, and it takes it back.
    advance(500 * SECOND).await;
    settle().await;
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.problem(),
        "InProgress"
    );
    called.pays(sent).await;
}

/// A shop whose first run was cut off, as if its process had died, and whose lease is over. Its second claim has this fate.
async fn cut_off(second: Fate) -> Shop {
    let store = Scripted::new(move |asked, before| match (asked, before) {
        // The store reports a completion that did not happen.
        ("complete", 0) => Fate::Returns(b"1N"),
        ("begin", 1) => second,
        _ => Fate::Done,
    });
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), reply(201, "paid")).await;
    first.assert_problem(409, "NotStored");
    sleep(91 * SECOND).await;
    shop
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_does_not_hide_the_earlier_run() {
    let mut shop = cut_off(Fate::Lost).await;
    assert_eq!(shop.call_with(payment("10 EUR")).await.status, 503);
    // Time enough to give it up, and not for its lease to end.
    sleep(SECOND).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 3);
    called.pays(sent).await;
    // A first claim leaves nothing behind.
    let store = Scripted::first("begin", 1, Fate::Lost);
    let mut shop = Shop::with(store, IdempotencyConfig::default());
    assert_eq!(shop.call_with(payment("10 EUR")).await.status, 503);
    sleep(SECOND).await;
    let (sent, called) = shop.running(payment("10 EUR")).await;
    assert_eq!(called.operation().run(), 1);
    called.pays(sent).await;
}

//! Limits of an attempt and of a call, on paused time.

use std::time::Duration;

use buttress::testing::Step;
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{CallOptions, Deadline, Error, Executed, Reason, Rejected};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Inner, SECOND};

fn responds_after(time: Duration) -> Inner {
    Inner::new(move |_| Step::After(time, Ok("late")))
}

fn reason<T: std::fmt::Debug, E: std::fmt::Debug>(
    result: Result<T, Error<E>>,
) -> (Reason, Executed) {
    match result {
        Err(Error::Rejected(rejected)) => (rejected.reason, rejected.executed),
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_its_limit_and_reports_it() {
    let inner = responds_after(2 * SECOND);
    let started = Instant::now();
    let result = TimeoutLayer::new("t", SECOND)
        .layer(inner.clone())
        .oneshot(())
        .await;
    assert_eq!(
        reason(result),
        (Reason::AttemptTimeout { limit: SECOND }, Executed::Maybe)
    );
    assert_eq!(started.elapsed(), SECOND);
    assert_eq!(inner.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_result_in_time_or_together_with_the_timer_wins() {
    for after in [SECOND / 2, SECOND] {
        let service = TimeoutLayer::new("t", SECOND).layer(responds_after(after));
        assert_eq!(service.oneshot(()).await, Ok("late"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_at_the_limit_counts_as_a_timeout() {
    let fails =
        |after| -> Inner { Inner::new(move |_| Step::After(after, Err(Error::Inner("gave up")))) };
    let limit = TimeoutLayer::new("t", SECOND);
    let with_it = limit.layer(fails(SECOND)).oneshot(()).await;
    assert_eq!(reason(with_it).0, Reason::AttemptTimeout { limit: SECOND });
    let call = DeadlineLayer::new("d", SECOND).layer(limit.layer(fails(SECOND)));
    assert_eq!(reason(call.oneshot(()).await).0, Reason::Deadline);
    let before = fails(SECOND.saturating_sub(Duration::from_millis(2)));
    assert_eq!(
        limit.layer(before).oneshot(()).await,
        Err(Error::Inner("gave up"))
    );
    // The rejection of an inner layer is not replaced.
    let inner = TimeoutLayer::new("inner", SECOND).layer(responds_after(9 * SECOND));
    let Err(Error::Rejected(rejected)) = limit.layer(inner).oneshot(()).await else {
        panic!("not rejected")
    };
    assert_eq!(&*rejected.name, "inner");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_allows_one_poll() {
    let started = Instant::now();
    let none = TimeoutLayer::new("t", Duration::ZERO);
    let late = none.layer(responds_after(SECOND)).oneshot(()).await;
    let limit = Duration::ZERO;
    assert_eq!(reason(late).0, Reason::AttemptTimeout { limit });
    assert_eq!(started.elapsed(), Duration::ZERO);
    let inner: Inner = Inner::new(|_| Step::Answer(Ok("at once")));
    assert_eq!(none.layer(inner).oneshot(()).await, Ok("at once"));
}

#[test]
fn no_limit_needs_no_timer() {
    let service = DeadlineLayer::new("d", Duration::MAX).layer(
        TimeoutLayer::new("t", Duration::MAX).layer(service_fn(async |()| {
            tokio::task::yield_now().await;
            Ok::<_, Error<()>>("late")
        })),
    );
    let no_timers = tokio::runtime::Builder::new_current_thread().build();
    assert_eq!(no_timers.unwrap().block_on(service.oneshot(())), Ok("late"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_limited_by_the_deadline_and_reports_it() {
    let service = DeadlineLayer::new("d", 3 * SECOND)
        .layer(TimeoutLayer::new("t", 5 * SECOND).layer(responds_after(9 * SECOND)));
    let started = Instant::now();
    assert_eq!(
        reason(service.oneshot(()).await),
        (Reason::Deadline, Executed::Maybe)
    );
    assert_eq!(started.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_after_the_deadline_is_rejected_and_not_executed() {
    let inner = responds_after(Duration::ZERO);
    let mut service = DeadlineLayer::new("d", SECOND).layer(inner.clone());
    let result = Deadline::after(Duration::ZERO)
        .scope(async move { service.ready().await?.call(()).await })
        .await;
    assert_eq!(reason(result), (Reason::Deadline, Executed::No));
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_first_polled_after_the_deadline_of_its_scope_does_not_begin() {
    let begins = service_fn(async |()| -> Result<(), Rejected> { panic!("it began") });
    let mut service = DeadlineLayer::new("d", SECOND).layer(begins);
    let call = service.ready().await.unwrap().call(());
    let late = Deadline::after(Duration::ZERO)
        .scope(call)
        .await
        .unwrap_err();
    assert_eq!(
        (late.reason, late.executed),
        (Reason::Deadline, Executed::Maybe)
    );
}

#[tokio::test(start_paused = true)]
async fn the_options_of_a_call_replace_the_limit() {
    let layer = TimeoutLayer::new("t", SECOND);
    let options = |limit| CallOptions::new().attempt_timeout(limit);
    let longer = options(5 * SECOND)
        .scope(layer.layer(responds_after(2 * SECOND)).oneshot(()))
        .await;
    assert_eq!(longer, Ok("late"));
    let shorter = options(SECOND / 4)
        .scope(layer.layer(responds_after(SECOND / 2)).oneshot(()))
        .await;
    assert_eq!(
        reason(shorter).0,
        Reason::AttemptTimeout { limit: SECOND / 4 }
    );
}

#[tokio::test(start_paused = true)]
async fn the_timer_fires_even_if_the_inner_future_has_used_up_the_cooperative_budget() {
    // Each `recv` of a full channel uses one unit. The loop is pending only after the budget is used up.
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel::<()>();
    let result = TimeoutLayer::new("t", Duration::from_millis(5))
        .run(async || {
            loop {
                send.send(()).map_err(|_| Error::Inner("closed"))?;
                receive.recv().await;
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            #[expect(unreachable_code, reason = "the loop's type")]
            Ok::<(), Error<&str>>(())
        })
        .await;
    assert!(matches!(result, Err(Error::Rejected(_))));
}

#[tokio::test(start_paused = true)]
async fn without_tower_the_same_limits_hold() {
    let slow = async || {
        tokio::time::sleep(2 * SECOND).await;
        Ok::<_, Error<&str>>(())
    };
    assert_eq!(
        reason(TimeoutLayer::new("t", SECOND).run(slow).await).0,
        Reason::AttemptTimeout { limit: SECOND }
    );
    assert_eq!(
        reason(DeadlineLayer::new("d", SECOND).run(slow).await),
        (Reason::Deadline, Executed::Maybe)
    );
    assert_eq!(
        TimeoutLayer::new("t", SECOND)
            .run(async || Err::<(), _>(Error::Inner("own")))
            .await,
        Err(Error::Inner("own"))
    );
}

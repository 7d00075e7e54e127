//! Known faults of other libraries: each test shows that one of them does not occur here.

#![expect(clippy::disallowed_methods, reason = "tests may read the paused clock")]

use std::time::Duration;

use buttress::breaker::{BreakerConfig, BreakerLayer, BreakerState, Window};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::http::Replay;
use buttress::retry::{RetryLayer, by_clone};
use buttress::testing::{Step, seed};
use buttress::timeout::TimeoutLayer;
use buttress::{CallOptions, ErrorIsTransient, Outcome};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, ServiceExt};

use crate::common::{
    Inner, Listener, MS, SECOND, at_once, bad, breaker, good, settle, three_in_a_row,
};
use BreakerState::{Closed, Open};

// ── breaker ──

#[tokio::test(start_paused = true)]
async fn after_ten_thousand_healthy_calls_it_opens_within_one_window() {
    let breaker = breaker("grown", BreakerConfig::default().consecutive_failures(None));
    for _ in 0..10_000 {
        advance(MS).await;
        settle(&breaker, 1, Outcome::SUCCESS);
    }
    let began = Instant::now();
    while breaker.state() == Closed {
        advance(MS).await;
        settle(&breaker, 1, Outcome::TRANSIENT);
    }
    assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_failures_counts_like_the_same_failures_spread_out() {
    let config = BreakerConfig::default().consecutive_failures(None);
    for spread in [Duration::ZERO, 400 * MS] {
        let breaker = breaker("burst", config);
        for failure in 1..=20 {
            assert_eq!(breaker.state(), Closed, "{spread:?}: failure {failure}");
            settle(&breaker, 1, Outcome::TRANSIENT);
            advance(spread).await;
        }
        assert_ne!(breaker.state(), Closed, "{spread:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fully_slow_backend_does_not_flap_open_and_closed() {
    let listener = Listener::new("flapping");
    let config = BreakerConfig::default()
        .slow_rate(Some(0.5))
        .slow_call(SECOND)
        .window(Window::Calls(20));
    let breaker = breaker("flapping", config);
    let service = BreakerLayer::new(breaker.clone(), ErrorIsTransient)
        .layer(Inner::new(|_| Step::After(3 * SECOND, Ok("slow"))));
    for _ in 0..200 {
        let _ = service.clone().oneshot(()).await;
        sleep(100 * MS).await;
    }
    let transitions = listener.take_transitions();
    assert!(transitions.len() > 2, "it probes");
    assert!(
        transitions.iter().all(|(_, (_, to, _))| *to != Closed),
        "{transitions:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_recovered_backend_gets_all_calls_within_three_seconds() {
    for healthy_after in (5_000..8_000).step_by(137) {
        seed(healthy_after);
        let breaker = breaker("recovered", BreakerConfig::default());
        let mut last_refusal = Duration::ZERO;
        for tick in 0..1_500_u32 {
            let now = tick * 10 * MS;
            let healthy = now >= Duration::from_millis(healthy_after);
            match breaker.try_acquire() {
                Ok(permit) if healthy => permit.settle(Outcome::SUCCESS),
                Ok(permit) => permit.settle(Outcome::TRANSIENT),
                Err(_) => last_refusal = now,
            }
            advance(10 * MS).await;
        }
        let rejecting = last_refusal.saturating_sub(Duration::from_millis(healthy_after));
        assert!(rejecting <= 3 * SECOND, "{rejecting:?}");
        assert_eq!(breaker.state(), Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_rate_of_one_opens_when_all_calls_have_failed() {
    let rule = three_in_a_row()
        .consecutive_failures(None)
        .failure_rate(Some(1.0));
    let all = breaker("ends", rule.min_calls(4));
    settle(&all, 3, Outcome::TRANSIENT);
    assert_eq!(all.state(), Closed);
    settle(&all, 1, Outcome::TRANSIENT);
    assert_eq!(all.state(), Open);
}

// ── retry and budget ──

#[test]
fn a_budget_grants_its_ratio_and_not_the_next_round_number() {
    for (ratio, granted) in [(0.4, 4_000), (0.51, 5_100), (0.6, 6_000), (0.9, 9_000)] {
        let config = BudgetConfig::new().ratio(ratio).initial(0).reserve(0);
        let budget = RetryBudget::new("ratio", config).unwrap();
        let paid = (0..10_000_u32).filter(|_| {
            budget.deposit();
            let paid = budget.try_withdraw();
            paid.map(|mut paid| paid.started()).is_some()
        });
        assert_eq!(paid.count().abs_diff(granted), 0, "{ratio}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_half_errors_the_load_does_not_double() {
    let inner: Inner = Inner::new(|call| if call % 2 == 0 { bad() } else { good() });
    let service = RetryLayer::new("half", at_once(), by_clone())
        .unwrap()
        .layer(inner.clone());
    for _ in 0..1_000 {
        advance(MS).await;
        let _ = service.clone().oneshot(()).await;
    }
    assert!(inner.calls() <= 1_212, "{}", inner.calls());
}

#[tokio::test(start_paused = true)]
async fn the_largest_budget_does_not_wrap_and_idle_days_cost_nothing() {
    let config = BudgetConfig::new()
        .cap(u32::MAX)
        .initial(u32::MAX)
        .reserve(u32::MAX);
    let budget = RetryBudget::new("largest", config).unwrap();
    for _ in 0..10 {
        budget.deposit();
        assert!(budget.try_withdraw().is_some());
    }
    advance(7 * 86_400 * SECOND).await;
    assert!(budget.try_withdraw().is_some());
    assert!(budget.balance() > 4e9);
}

#[tokio::test(start_paused = true)]
async fn a_post_without_a_key_is_not_replayed_on_a_server_error_or_a_timeout() {
    for step in [0, 1] {
        let inner: Inner<http::Request<String>> = Inner::new(move |_| match step {
            0 => bad(),
            _ => Step::Hang,
        });
        let layer = RetryLayer::new("post", at_once(), Replay::new()).unwrap();
        let service = layer.layer(TimeoutLayer::new("post", SECOND).layer(inner.clone()));
        let post = http::Request::post("/").body(String::new()).unwrap();
        assert!(service.clone().oneshot(post).await.is_err());
        assert_eq!(inner.calls(), 1);
        let get = || http::Request::get("/").body(String::new()).unwrap();
        assert!(service.clone().oneshot(get()).await.is_err());
        assert_eq!(inner.calls(), 1 + 3);
        // The option of the caller applies after any failure.
        let call = service.clone().oneshot(get());
        assert!(CallOptions::new().retry(false).scope(call).await.is_err());
        assert_eq!(inner.calls(), 1 + 3 + 1);
    }
}

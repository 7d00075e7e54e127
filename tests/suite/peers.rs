//! What goes wrong elsewhere: each test is named after something seen in a released library, and shows that it does not
//! happen here.

#![expect(clippy::disallowed_methods, reason = "tests may read the paused clock")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState, Window};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::http::{ByStatus, Replay, answer};
use buttress::repeat::Cloned;
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::testing::{Step, Strict, seed};
use buttress::{
    CallOptions, DeadlineLayer, Draw, Error, ErrorIsTransient, Outcome, Reason, Repeat,
    TimeoutLayer, classify_fn, repeat,
};
use tokio::time::{Instant, advance, sleep};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{
    Failure, Inner, Listener, MS, SECOND, Told, bad, breaker, good, panics, poll, rejection,
    settle, three_in_a_row,
};
use BreakerState::{Closed, HalfOpen, Open};

fn at_once() -> RetryConfig {
    let no_wait = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    RetryConfig::new().backoff(no_wait)
}

fn retry(name: &str, config: RetryConfig) -> RetryLayer<Cloned> {
    RetryLayer::new(name, config, repeat::cloned()).unwrap()
}

fn gate(breaker: &Breaker) -> BreakerLayer<ErrorIsTransient> {
    BreakerLayer::new(breaker.clone(), ErrorIsTransient)
}

async fn half_open(name: &'static str, config: BreakerConfig) -> Breaker {
    let breaker = breaker(name, config);
    settle(&breaker, 3, Outcome::TRANSIENT);
    advance(config.open_for).await;
    assert_eq!(breaker.state(), HalfOpen);
    breaker
}

// ── readiness and layering ──

#[tokio::test(start_paused = true)]
async fn a_retry_over_a_concurrency_limit_does_not_call_an_unready_clone() {
    let inner: Inner = Inner::new(|call| if call < 2 { bad() } else { good() });
    let service = retry("unready", at_once()).layer(ConcurrencyLimit::new(inner.clone(), 1));
    assert_eq!(service.oneshot(()).await, Ok("good"));
    assert_eq!(inner.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_over_a_buffer_does_not_call_an_unready_clone() {
    let inner: Strict<(), &str, std::io::Error> = Strict::new(|call| match call {
        0 | 1 => Step::Answer(Err(std::io::Error::other("bad"))),
        _ => Step::Answer(Ok("good")),
    });
    let service = retry("unready", at_once()).layer(Buffer::new(inner.clone(), 1));
    assert_eq!(service.oneshot(()).await.unwrap(), "good");
    assert_eq!(inner.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn state_is_not_inert_under_axums_router_layer() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(http::StatusCode::INTERNAL_SERVER_ERROR)
    };
    let breaker = breaker("inert", three_in_a_row());
    let router = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(answer(BreakerLayer::new(breaker, ByStatus::new())));
    for _ in 0..40 {
        let request = http::Request::get("/").body(axum::body::Body::empty());
        router.clone().oneshot(request.unwrap()).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "of forty");
}

#[tokio::test(start_paused = true)]
async fn layers_are_clone_and_their_clones_share_state() {
    let breaker = breaker("shared", three_in_a_row());
    let (first, second) = (gate(&breaker), gate(&breaker).clone());
    for layer in [&first, &second, &first] {
        assert!(
            layer
                .layer(Inner::new(|_| bad()))
                .oneshot(())
                .await
                .is_err()
        );
    }
    rejection(second.layer(Inner::new(|_| good())).oneshot(()).await);

    let layer = retry("shared", at_once());
    let inner: Inner = Inner::new(|_| bad());
    for layer in [layer.clone(), layer.clone(), layer] {
        assert!(layer.layer(inner.clone()).oneshot(()).await.is_err());
    }
    assert_eq!(inner.calls(), 3 + 2, "two tokens for all three");
}

#[tokio::test(start_paused = true)]
async fn a_ready_service_that_nobody_calls_holds_no_permit() {
    let breaker = half_open("nobody", three_in_a_row()).await;
    let mut idle: Vec<_> = (0..10)
        .map(|_| gate(&breaker).layer(Inner::<()>::new(|_| good())))
        .collect();
    for service in &mut idle {
        service.ready().await.unwrap();
    }
    breaker.try_acquire().unwrap().settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_does_not_wait_for_a_service_that_is_pending() {
    let breaker = breaker("pending", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    let inner = Inner::new(|_| good());
    inner.pend_once();
    let mut call = pin!(gate(&breaker).layer(inner.clone()).oneshot(()));
    assert!(poll(call.as_mut()).is_ready());
    assert_eq!(inner.ready_polls(), 0);
}

// ── breaker ──

#[tokio::test(start_paused = true)]
async fn after_ten_thousand_healthy_calls_it_opens_within_one_window() {
    let breaker = breaker("grown", BreakerConfig::default().consecutive(None));
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
async fn a_burst_of_failures_weighs_as_much_as_the_same_failures_spread_out() {
    let config = BreakerConfig::default().consecutive(None);
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
async fn results_of_calls_begun_before_a_move_neither_close_nor_reopen() {
    let breaker = breaker("before", three_in_a_row());
    let mut early: Vec<_> = (0..20).map(|_| breaker.try_acquire().unwrap()).collect();
    settle(&breaker, 3, Outcome::TRANSIENT);
    early
        .drain(..5)
        .for_each(|permit| permit.settle(Outcome::SUCCESS));
    assert_eq!(breaker.state(), Open);
    advance(2 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    early
        .drain(..5)
        .for_each(|permit| permit.settle(Outcome::SUCCESS));
    early
        .drain(..5)
        .for_each(|permit| permit.settle(Outcome::TRANSIENT));
    assert_eq!(breaker.state(), HalfOpen);
    probe.settle(Outcome::SUCCESS);
    early
        .drain(..)
        .for_each(|permit| permit.settle(Outcome::TRANSIENT));
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_lost_or_slow_probe_does_not_keep_it_half_open_for_ever() {
    let breaker = half_open("for-ever", three_in_a_row()).await;
    let inner: Inner = Inner::new(|call| if call == 0 { Step::Hang } else { good() });
    let mut service = gate(&breaker).layer(inner);
    let mut lost = Box::pin(service.ready().await.unwrap().call(()));
    assert!(poll(lost.as_mut()).is_pending());
    rejection(service.ready().await.unwrap().call(()).await);
    advance(10 * SECOND).await;
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    assert_eq!(breaker.state(), Closed);
    drop(lost);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_callers_half_open_admits_its_probes() {
    let breaker = half_open("thousand", three_in_a_row().probes(3)).await;
    let permits: Vec<_> = (0..1000)
        .filter_map(|_| breaker.try_acquire().ok())
        .collect();
    assert_eq!(permits.len(), 3);
    // And it decides with the last of them, no call later.
    for (permit, state) in permits.into_iter().zip([HalfOpen, HalfOpen, Closed]) {
        permit.settle(Outcome::SUCCESS);
        assert_eq!(breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_callers_cancellation_neither_closes_nor_opens_a_shared_circuit() {
    let breaker = half_open("cancelled-probe", three_in_a_row()).await;
    drop(breaker.try_acquire().unwrap());
    assert_eq!(breaker.state(), HalfOpen, "not closed");
    let breaker = crate::common::breaker("five-callers", BreakerConfig::default());
    let slow = gate(&breaker).layer(Inner::new(|_| Step::After(2 * SECOND, Ok("late"))));
    let impatient = DeadlineLayer::new("impatient", SECOND).layer(slow.clone());
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(impatient.clone().oneshot(())))
        .collect();
    for call in calls {
        rejection(call.await.unwrap());
    }
    let others = (0..370).map(|_| tokio::spawn(slow.clone().oneshot(())));
    for other in others.collect::<Vec<_>>() {
        assert_eq!(other.await.unwrap(), Ok("late"), "nor opened");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_the_breaker_does_not_blind_it() {
    let breaker = breaker("blind", BreakerConfig::default());
    let inner: Inner = Inner::new(|_| Step::Hang);
    let blinded = TimeoutLayer::new("outside", 100 * MS).layer(gate(&breaker).layer(inner.clone()));
    for _ in 0..1000 {
        let _ = blinded.clone().oneshot(()).await;
    }
    // Opened again and again, with three probes each time.
    assert!(inner.calls() < 250, "{} of 1000", inner.calls());
}

#[tokio::test(start_paused = true)]
async fn panics_count_as_failures() {
    let breaker = breaker("panicking", three_in_a_row());
    let mut service = gate(&breaker).layer(Inner::new(|_| Step::Panic));
    for _ in 0..3 {
        let mut call = Box::pin(service.ready().await.unwrap().call(()));
        assert!(panics(|| poll(call.as_mut())));
    }
    assert_eq!(breaker.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn a_fully_slow_backend_does_not_flap_open_and_closed() {
    let listener = Listener::new("flapping");
    let config = BreakerConfig::default()
        .slow_rate(Some(0.5))
        .slow_call(SECOND)
        .window(Window::Calls(20));
    let breaker = breaker("flapping", config);
    let service = gate(&breaker).layer(Inner::new(|_| Step::After(3 * SECOND, Ok("slow"))));
    for _ in 0..200 {
        let _ = service.clone().oneshot(()).await;
        sleep(100 * MS).await;
    }
    let moves = listener.take_moves();
    assert!(moves.len() > 2, "it probes");
    assert!(
        moves.iter().all(|(_, (_, to, _))| *to != Closed),
        "{moves:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_healthy_again_has_all_its_calls_within_three_seconds() {
    for healthy_after in (5_000..8_000).step_by(137) {
        seed(healthy_after);
        let breaker = breaker("healthy-again", BreakerConfig::default());
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
async fn thresholds_at_the_ends_of_their_range_work_or_are_refused_when_built() {
    let rate = |rate| {
        three_in_a_row()
            .consecutive(None)
            .failure_rate(Some(rate))
            .min_calls(4)
    };
    let all = breaker("ends", rate(1.0));
    settle(&all, 3, Outcome::TRANSIENT);
    assert_eq!(all.state(), Closed);
    settle(&all, 1, Outcome::TRANSIENT);
    assert_eq!(all.state(), Open);
    let refused = |config| Breaker::new("ends", config).map(drop).unwrap_err().field;
    assert_eq!(
        refused(rate(0.0)),
        "failure_rate",
        "not opened by pure success"
    );
    assert_eq!(refused(rate(f64::NAN)), "failure_rate");
    assert_eq!(refused(three_in_a_row().probes(0)), "probes");
    assert_eq!(refused(three_in_a_row().probes(u32::MAX)), "probes");
    assert_eq!(
        refused(three_in_a_row().open_for(Duration::MAX)),
        "open_for"
    );
}

#[tokio::test(start_paused = true)]
async fn the_open_error_carries_name_and_wait() {
    let breaker = breaker("named", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    let error = gate(&breaker)
        .layer(Inner::new(|_| good()))
        .oneshot(())
        .await;
    let rejected = rejection(error);
    assert_eq!(
        (&*rejected.name, rejected.retry_after),
        ("named", Some(2 * SECOND))
    );
    assert!(
        rejected
            .to_string()
            .contains("`named` is open, next probe in 2s")
    );
}

#[tokio::test(start_paused = true)]
async fn the_state_gauge_goes_back_to_zero() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let breaker = half_open("back-to-zero", three_in_a_row()).await;
    settle(&breaker, 1, Outcome::SUCCESS);
    let all = snapshotter.snapshot().into_vec();
    let gauge = all.iter().find_map(|(_, _, _, value)| match value {
        metrics_util::debugging::DebugValue::Gauge(level) => Some(level.0.to_string()),
        _ => None,
    });
    assert_eq!(gauge.as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn under_paused_time_it_reopens_and_does_not_spin() {
    let breaker = breaker("paused", three_in_a_row());
    let inner: Inner = Inner::new(|call| if call < 5 { bad() } else { good() });
    let mut service = gate(&breaker).layer(inner.clone());
    let began = Instant::now();
    let mut asked = 0;
    loop {
        asked += 1;
        match service.ready().await.unwrap().call(()).await {
            Ok(_) => break,
            Err(Error::Inner(_)) => {}
            Err(Error::Rejected(rejected)) => sleep(rejected.retry_after.unwrap()).await,
        }
    }
    // Three failures, two failed probes, a good one, and a refusal before each probe.
    assert_eq!((asked, inner.calls()), (9, 6));
    assert!(began.elapsed() < 7 * SECOND);
}

// ── retry and budget ──

#[tokio::test(start_paused = true)]
async fn sessions_do_not_draw_the_same_jitter() {
    let listener = Listener::new("sessions");
    let layer = retry("sessions", RetryConfig::new().max_attempts(2)).without_budget();
    let service = layer.layer(Inner::new(|_| bad()));
    for _ in 0..50 {
        let _ = service.clone().oneshot(()).await;
    }
    let waits = listener.take().into_iter().filter_map(|told| match told {
        Told::Retry(_, wait) => Some(wait),
        _ => None,
    });
    let waits: BTreeSet<_> = waits.collect();
    assert!(waits.len() > 45, "{waits:?}");
}

#[test]
fn jitter_neither_passes_the_cap_nor_is_taken_away_by_it() {
    let backoff = Backoff::exponential(SECOND, 2.0).cap(4 * SECOND);
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        let parts = (0..=100).map(|part| Draw::part(f64::from(part) / 100.0));
        let waits: BTreeSet<_> = parts
            .map(|draw| backoff.jitter(jitter).delay(20, Some(4 * SECOND), draw))
            .collect();
        assert!(*waits.last().unwrap() <= 4 * SECOND, "{jitter:?}");
        assert!(
            waits.len() > 25,
            "{jitter:?}: clients that are capped do not retry in step"
        );
    }
}

#[test]
fn the_twentieth_wait_is_capped() {
    let longest = Backoff::default().delay(20, None, Draw::new(u64::MAX));
    assert!(longest <= 2 * SECOND, "{longest:?}");
    let longest = Backoff::exponential(100 * MS, 2.0).delay(u32::MAX, None, Draw::new(u64::MAX));
    assert!(longest <= 2 * SECOND, "{longest:?}");
}

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
    let service = retry("half", at_once()).layer(inner.clone());
    for _ in 0..1_000 {
        advance(MS).await;
        let _ = service.clone().oneshot(()).await;
    }
    assert!(inner.calls() <= 1_212, "{}", inner.calls());
}

#[tokio::test(start_paused = true)]
async fn thirty_failing_requests_do_not_become_ninety() {
    let inner: Inner = Inner::new(|_| bad());
    let service = retry("thirty", at_once()).layer(inner.clone());
    for _ in 0..30 {
        assert!(service.clone().oneshot(()).await.is_err());
    }
    assert_eq!(inner.calls(), 32);
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
async fn callers_that_gave_up_while_waiting_have_burned_no_tokens() {
    let budget = RetryBudget::new("gave-up", BudgetConfig::new()).unwrap();
    let layer = retry("gave-up", RetryConfig::new()).budget(budget.clone());
    let service = layer.layer(Inner::new(|_| bad()));
    seed(1);
    for _ in 0..100 {
        let mut call = Box::pin(service.clone().oneshot(()));
        assert!(poll(call.as_mut()).is_pending());
    }
    assert_eq!(budget.balance().to_string(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_a_day_is_not_slept_and_a_wait_past_the_deadline_not_begun() {
    let asks = |wait: Duration| {
        classify_fn(move |result: Result<&&str, &Failure>| match result {
            Ok(_) => Outcome::SUCCESS,
            Err(_) => Outcome::OVERLOADED.wait(Some(wait)),
        })
    };
    for (wait, total) in [(86_400 * SECOND, Duration::MAX), (4 * SECOND, 3 * SECOND)] {
        let inner: Inner = Inner::new(|_| bad());
        let layer = retry("retry-after", RetryConfig::new()).classify(asks(wait));
        let service = DeadlineLayer::new("retry-after", total).layer(layer.layer(inner.clone()));
        let began = Instant::now();
        assert_eq!(
            service.oneshot(()).await,
            Err(Error::Inner("bad")),
            "the real answer"
        );
        assert_eq!((began.elapsed(), inner.calls()), (Duration::ZERO, 1));
    }
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
        // The caller's own wish holds too, whatever the failure.
        let call = service.clone().oneshot(get());
        assert!(CallOptions::new().retry(false).scope(call).await.is_err());
        assert_eq!(inner.calls(), 1 + 3 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_does_not_fail_the_first_attempt() {
    struct Streams;
    impl futures_core::Stream for Streams {
        type Item = Result<bytes::Bytes, std::io::Error>;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(None)
        }
    }
    let request = || {
        let mut request =
            reqwest::Request::new(reqwest::Method::PUT, "http://localhost/".parse().unwrap());
        *request.body_mut() = Some(reqwest::Body::wrap_stream(Streams));
        request
    };
    let sent: Inner<reqwest::Request> = Inner::new(|_| good());
    let layer = RetryLayer::new("streams", at_once(), buttress::reqwest::Replay::new()).unwrap();
    assert_eq!(layer.layer(sent).oneshot(request()).await, Ok("good"));
    let failed: Inner<reqwest::Request> = Inner::new(|_| bad());
    let result = layer.layer(failed.clone()).oneshot(request()).await;
    assert_eq!(result, Err(Error::Inner("bad")), "the service's own error");
    assert_eq!(failed.calls(), 3, "a body that was not read is still there");
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_scope_is_not_repeated_even_once() {
    let only_ours = repeat::cloned_if(|host: &&str| *host == "ours");
    let layer = RetryLayer::new("scope", at_once(), only_ours).unwrap();
    for (host, attempts) in [("theirs", 1), ("ours", 3)] {
        let inner: Inner<&str> = Inner::new(|_| bad());
        assert!(layer.layer(inner.clone()).oneshot(host).await.is_err());
        assert_eq!(inner.calls(), attempts, "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_retried_with_backoff() {
    let breaker = breaker("fast", three_in_a_row());
    breaker.isolate();
    let budget = RetryBudget::new("fast", BudgetConfig::new()).unwrap();
    let layer = retry("fast", RetryConfig::new()).budget(budget.clone());
    let service = layer.layer(gate(&breaker).layer(Inner::new(|_| good())));
    let began = Instant::now();
    assert_eq!(
        rejection(service.oneshot(()).await).reason,
        Reason::CircuitIsolated
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(budget.balance().to_string(), "2");
}

#[tokio::test(start_paused = true)]
async fn the_errors_type_is_kept() {
    let refuses = || {
        service_fn(async |(): ()| {
            Err::<(), _>(Error::Inner(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))
        })
    };
    for attempts in [1, 3] {
        let layer = retry("typed", at_once().max_attempts(attempts));
        let breaker = breaker("typed", three_in_a_row());
        let stack = layer.layer(gate(&breaker).layer(refuses()));
        let stack = DeadlineLayer::new("typed", SECOND).layer(stack);
        match stack.oneshot(()).await {
            Err(Error::Inner(error)) => assert_eq!(error.kind(), std::io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_there_without_being_asked_for() {
    let listener = Listener::new("wired-by-default");
    let layer = retry("wired-by-default", at_once().max_attempts(9));
    let inner: Inner = Inner::new(|_| bad());
    assert!(layer.layer(inner.clone()).oneshot(()).await.is_err());
    assert_eq!(inner.calls(), 3);
    let told = listener.take();
    assert!(
        told.contains(&Told::Budget) && told.contains(&Told::BudgetExhausted),
        "{told:?}"
    );
}

/// A request that can be sent only once is sent once, not refused.
#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_cloned_needs_no_retry_of_its_own() {
    struct Once;
    #[derive(Clone)]
    struct Never;
    impl Repeat<Once> for Never {
        type Attempt = Once;
        type Saved = ();

        fn first(&self, request: Once) -> (Once, Option<()>) {
            (request, None)
        }

        fn again(&self, (): &mut ()) -> Option<Once> {
            None
        }
    }
    let inner: Inner<Once> = Inner::new(|_| bad());
    let layer = RetryLayer::new("once", at_once(), Never).unwrap();
    let result = layer.layer(inner.clone()).oneshot(Once).await;
    assert_eq!((result, inner.calls()), (Err(Error::Inner("bad")), 1));
}

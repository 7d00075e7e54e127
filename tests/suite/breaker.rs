//! The breaker from the outside: its handle, and its layer over services in memory, on paused time.

use std::pin::pin;
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState, Cause, Window};
use buttress::event::{Event, subscribe};
use buttress::testing::{Step, seed};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{Error, ErrorIsTransient, Executed, Outcome, Reason, classify_fn};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};

use crate::common::{
    Failure, Inner, Listener, MS, Reported, SECOND, bad, breaker, good, panics, poll, rejection,
    settle, three_in_a_row,
};
use BreakerState::{Closed, Disabled, ForcedOpen, HalfOpen, Isolated, Open};

fn layer(breaker: &Breaker) -> BreakerLayer<ErrorIsTransient> {
    BreakerLayer::new(breaker.clone(), ErrorIsTransient)
}

fn opened(name: &'static str) -> Breaker {
    let breaker = breaker(name, three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    assert_eq!(breaker.state(), Open);
    breaker
}

async fn half_open(name: &'static str, config: BreakerConfig) -> Breaker {
    let breaker = breaker(name, config);
    settle(&breaker, 3, Outcome::TRANSIENT);
    advance(config.open_for).await;
    assert_eq!(breaker.state(), HalfOpen);
    breaker
}

// ── opening and refusing ──

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_without_touching_the_service() {
    let inner = Inner::new(|_| bad());
    let breaker = breaker("untouched", three_in_a_row());
    let mut service = layer(&breaker).layer(inner.clone());
    for _ in 0..3 {
        let result = service.ready().await.unwrap().call(()).await;
        assert_eq!(result, Err(Error::Inner("bad")));
    }
    let polled = inner.ready_polls();
    for _ in 0..10 {
        let rejected = rejection(service.ready().await.unwrap().call(()).await);
        assert_eq!(rejected.reason, Reason::CircuitOpen);
        assert_eq!(rejected.executed, Executed::No);
    }
    assert_eq!((inner.calls(), inner.ready_polls()), (3, polled));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_names_the_breaker_and_the_wait() {
    let breaker = opened("payments");
    advance(801 * MS).await;
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after, Some(1199 * MS));
    assert_eq!(
        rejected.to_string(),
        "circuit breaker `payments` is open, next probe in 1.199s"
    );
    breaker.force_open(60 * SECOND);
    assert_eq!(
        breaker.try_acquire().unwrap_err().to_string(),
        "circuit breaker `payments` is forced open, next probe in 60s"
    );
    breaker.isolate();
    assert_eq!(
        breaker.try_acquire().unwrap_err().to_string(),
        "circuit breaker `payments` is isolated until it is released manually"
    );
    let breaker = half_open("probing", three_in_a_row()).await;
    let probe = breaker.try_acquire().unwrap();
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.reason, Reason::CircuitProbing);
    assert_eq!(
        rejected.to_string(),
        "circuit breaker `probing` is half-open and all its probes are in flight, retry after 2s"
    );
    probe.settle(Outcome::SUCCESS);
}

#[tokio::test(start_paused = true)]
async fn each_rejection_is_reported_once_and_none_for_unused_readiness() {
    let breaker = opened("reported-once");
    let listener = Listener::new("reported-once");
    let mut service = layer(&breaker).layer(Inner::new(|_| good()));
    for _ in 0..5 {
        service.ready().await.unwrap();
    }
    assert_eq!(listener.take(), []);
    let rejected = rejection(service.call(()).await);
    assert_eq!(listener.take(), [Reported::Rejected(rejected)]);
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(listener.take(), [Reported::Rejected(rejected)]);
}

// ── readiness ──

#[tokio::test(start_paused = true)]
async fn a_rejection_found_by_poll_ready_is_returned_by_the_next_call() {
    let inner = Inner::new(|_| good());
    let breaker = opened("found-before");
    let mut service = layer(&breaker).layer(inner.clone());
    service.ready().await.unwrap();
    breaker.reset();
    let mut clone = service.clone();
    // The inner service was not polled ready: it must not be called.
    rejection(service.call(()).await);
    assert_eq!(inner.calls(), 0);
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    assert_eq!(
        clone.ready().await.unwrap().call(()).await,
        Ok("good"),
        "a clone has no rejection"
    );
    // A further `poll_ready` decides again.
    breaker.isolate();
    service.ready().await.unwrap();
    breaker.reset();
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
}

#[tokio::test(start_paused = true)]
async fn an_unused_ready_service_holds_no_probe() {
    let breaker = half_open("unused", three_in_a_row()).await;
    let mut idle = layer(&breaker).layer(Inner::new(|_| good()));
    idle.ready().await.unwrap();
    let mut busy = idle.clone();
    assert_eq!(busy.ready().await.unwrap().call(()).await, Ok("good"));
    assert_eq!(breaker.state(), Closed);
    assert_eq!(idle.call(()).await, Ok("good"));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes_through_uncounted() {
    let inner: Inner = Inner::new(|_| good());
    let breaker = breaker("readiness", three_in_a_row());
    let mut service = layer(&breaker).layer(inner.clone());
    for _ in 0..10 {
        inner.fail_ready_once(Error::Inner("gone"));
        let error = service.ready().await.map(|_| ()).unwrap_err();
        assert_eq!(error, Error::Inner("gone"));
    }
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opened_after_readiness_refuses_in_call() {
    let inner = Inner::new(|_| good());
    let breaker = breaker("between", three_in_a_row());
    let mut service = layer(&breaker).layer(inner.clone());
    service.ready().await.unwrap();
    settle(&breaker, 3, Outcome::TRANSIENT);
    rejection(service.call(()).await);
    assert_eq!(inner.calls(), 0);
}

// ── half-open ──

#[tokio::test(start_paused = true)]
async fn it_probes_after_its_time_and_closes_when_the_probes_succeed() {
    let breaker = half_open("probes", three_in_a_row().probes(3)).await;
    let inner = Inner::new(|_| Step::After(SECOND, Ok("late")));
    let mut service = layer(&breaker).layer(inner.clone());
    let mut probes = Vec::new();
    for _ in 0..3 {
        probes.push(tokio::spawn(service.ready().await.unwrap().call(())));
    }
    for _ in 0..1000 {
        let rejected = rejection(service.ready().await.unwrap().call(()).await);
        assert_eq!(rejected.reason, Reason::CircuitProbing);
    }
    for probe in probes {
        assert_eq!(probe.await.unwrap(), Ok("late"));
    }
    assert_eq!((breaker.state(), inner.calls()), (Closed, 3));
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_a_response_fails_after_its_idle_timeout() {
    let config = three_in_a_row().open_for(30 * SECOND);
    let breaker = half_open("idle-probe", config).await;
    let inner = Inner::new(|call| if call == 0 { Step::Hang } else { good() });
    let mut service = layer(&breaker).layer(inner.clone());
    let mut lost = Box::pin(service.ready().await.unwrap().call(()));
    assert!(poll(lost.as_mut()).is_pending());
    advance(10 * SECOND).await;
    // Dated from the probe's admission: 30 s from then, 10 of which are over.
    assert_eq!(breaker.state(), Open);
    let rejected = rejection(service.ready().await.unwrap().call(()).await);
    assert_eq!(rejected.retry_after, Some(20 * SECOND));
    advance(20 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    drop(lost);
    assert_eq!(breaker.state(), HalfOpen, "the lost one changes nothing");
    breaker.try_acquire().unwrap_err();
    probe.settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_gives_its_place_back() {
    let breaker = half_open("place", three_in_a_row().probes(2)).await;
    let mut service = layer(&breaker).layer(Inner::new(|_| Step::Hang));
    for _ in 0..20 {
        let mut both = Vec::new();
        for _ in 0..2 {
            both.push(Box::pin(service.ready().await.unwrap().call(())));
            assert!(poll(both.last_mut().unwrap().as_mut()).is_pending());
        }
        rejection(service.ready().await.unwrap().call(()).await);
    }
    assert_eq!(breaker.state(), HalfOpen);
    settle(&breaker, 2, Outcome::SUCCESS);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn after_a_close_calls_come_back_step_by_step_if_it_ramps_up() {
    seed(7);
    let config = three_in_a_row().ramp_up(10 * SECOND);
    let breaker = half_open("ramp", config).await;
    settle(&breaker, 1, Outcome::SUCCESS);
    let admitted = |breaker: &Breaker| {
        let calls = (0..1000).filter(|_| match breaker.try_acquire() {
            Ok(permit) => {
                permit.settle(Outcome::SUCCESS);
                true
            }
            Err(rejected) => {
                assert_eq!(rejected.reason, Reason::CircuitRampingUp);
                false
            }
        });
        calls.count()
    };
    assert!((60..140).contains(&admitted(&breaker)), "a tenth");
    advance(5 * SECOND).await;
    assert!((440..560).contains(&admitted(&breaker)), "a half");
    advance(5 * SECOND).await;
    assert_eq!(admitted(&breaker), 1000);
}

// ── what counts ──

#[tokio::test(start_paused = true)]
async fn panics_in_call_and_in_poll_count_as_failures_and_propagate() {
    let inner = Inner::new(|call| match call {
        0 => Step::PanicInCall,
        1 => Step::Panic,
        _ => bad(),
    });
    let breaker = breaker("panics", three_in_a_row());
    let mut service = layer(&breaker).layer(inner.clone());
    service.ready().await.unwrap();
    assert!(panics(|| service.call(())));
    service.ready().await.unwrap();
    let mut future = Box::pin(service.call(()));
    assert!(panics(|| poll(future.as_mut())));
    drop(future);
    assert_eq!(breaker.state(), Closed);
    let _ = service.ready().await.unwrap().call(()).await;
    assert_eq!(breaker.state(), Open, "the third failure in a row");
    assert_eq!(inner.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_by_an_unrelated_unwinding_is_abandoned_not_failed() {
    let breaker = breaker("unwinding", three_in_a_row());
    let mut service = layer(&breaker).layer(Inner::new(|_| Step::Hang));
    for _ in 0..10 {
        service.ready().await.unwrap();
        let mut future = Box::pin(service.call(()));
        assert!(poll(future.as_mut()).is_pending());
        assert!(panics(move || {
            let _dropped_by_the_unwinding = future;
            panic!("scripted panic of a neighbour");
        }));
    }
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_only_ever_abandoned_open_it() {
    let listener = Listener::new("abandoned");
    let breaker = breaker("abandoned", BreakerConfig::default());
    let mut service = layer(&breaker).layer(Inner::new(|_| Step::Hang));
    for call in 0..20 {
        assert_eq!(breaker.state(), Closed, "call {call}");
        let mut call = Box::pin(service.ready().await.unwrap().call(()));
        assert!(poll(call.as_mut()).is_pending());
        advance(SECOND).await;
    }
    assert_eq!(breaker.state(), Open);
    let opened = Reported::Transition(1, (Closed, Open, Cause::Abandoned), false);
    assert_eq!(listener.take(), [opened]);
}

#[tokio::test(start_paused = true)]
async fn callers_with_short_deadlines_do_not_open_a_shared_circuit() {
    let breaker = breaker("impatient", three_in_a_row());
    let attempt = TimeoutLayer::new("attempt", 10 * SECOND);
    let service = layer(&breaker).layer(attempt.layer(Inner::new(|_| Step::Hang)));
    for _ in 0..5 {
        let impatient = DeadlineLayer::new("total", SECOND).layer(service.clone());
        let rejected = rejection(impatient.oneshot(()).await);
        assert_eq!(rejected.reason, Reason::Deadline);
    }
    assert_eq!(breaker.state(), Closed);
    for _ in 0..3 {
        let rejected = rejection(service.clone().oneshot(()).await);
        let limit = 10 * SECOND;
        assert_eq!(rejected.reason, Reason::AttemptTimeout { limit });
    }
    assert_eq!(breaker.state(), Open, "its own limit does count");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_further_in_is_neutral_for_an_outer_breaker() {
    let outer = breaker("outer", three_in_a_row());
    let inner = breaker("inner", three_in_a_row());
    inner.isolate();
    let service = layer(&outer).layer(layer(&inner).layer(Inner::new(|_| bad())));
    for _ in 0..10 {
        let rejected = rejection(service.clone().oneshot(()).await);
        assert_eq!(&*rejected.name, "inner");
    }
    assert_eq!(outer.state(), Closed);
    let outer = half_open("outer", three_in_a_row()).await;
    let service = layer(&outer).layer(layer(&inner).layer(Inner::new(|_| good())));
    rejection(service.clone().oneshot(()).await);
    assert_eq!(outer.state(), HalfOpen, "its place was given back");
    inner.release();
    assert_eq!(service.oneshot(()).await, Ok("good"));
    assert_eq!(outer.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn the_classifier_decides_what_a_result_means() {
    let breaker = breaker("classified", three_in_a_row());
    let by_text = classify_fn(|result: Result<&&str, &Failure>| match result {
        Ok(&"teapot") => Outcome::TRANSIENT,
        Ok(_) => Outcome::SUCCESS,
        Err(_) => Outcome::PERMANENT,
    });
    let layer = BreakerLayer::new(breaker.clone(), by_text);
    let errors = layer.layer(Inner::new(|_| bad()));
    for _ in 0..10 {
        assert!(errors.clone().oneshot(()).await.is_err());
    }
    assert_eq!(breaker.state(), Closed);
    let teapot = layer.layer(Inner::new(|_| Step::Answer(Ok("teapot"))));
    for _ in 0..3 {
        assert_eq!(teapot.clone().oneshot(()).await, Ok("teapot"));
    }
    assert_eq!(breaker.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn slow_responses_are_measured_by_the_clock_and_open_it_although_they_succeed() {
    let listener = Listener::new("slow");
    let config = three_in_a_row()
        .consecutive_failures(None)
        .slow_rate(Some(1.0))
        .slow_call(2 * SECOND)
        .min_calls(2);
    let breaker = breaker("slow", config);
    for (seconds, state) in [(1, Closed), (2, Closed), (2, Closed), (2, Closed)] {
        let service = layer(&breaker).layer(Inner::new(move |_| {
            Step::After(seconds * SECOND, Ok("slow"))
        }));
        assert_eq!(service.oneshot(()).await, Ok("slow"));
        assert_eq!(breaker.state(), state, "exactly the limit is not slow");
    }
    advance(10 * SECOND).await;
    let service = layer(&breaker).layer(Inner::new(|_| Step::After(3 * SECOND, Ok("slow"))));
    for state in [Closed, Open] {
        assert_eq!(service.clone().oneshot(()).await, Ok("slow"));
        assert_eq!(breaker.state(), state);
    }
    assert_eq!(
        listener.take_transitions(),
        [(1, (Closed, Open, Cause::SlowRate))]
    );
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_includes_successes_counted_without_the_lock() {
    let config = three_in_a_row()
        .consecutive_failures(None)
        .failure_rate(Some(0.9))
        .min_calls(10);
    let breaker = breaker("snapshot", config);
    settle(&breaker, 7, Outcome::SUCCESS);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.total, snapshot.failure_rate), (7, None));
    settle(&breaker, 3, Outcome::TRANSIENT);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.total, snapshot.failed), (10, 3));
    assert_eq!(
        (snapshot.failure_rate, snapshot.slow_rate),
        (Some(0.3), None)
    );
    assert_eq!((snapshot.state, snapshot.remaining), (Closed, None));
}

// ── epochs ──

#[tokio::test(start_paused = true)]
async fn a_result_of_a_call_from_before_a_transition_changes_nothing() {
    let breaker = breaker("epochs", three_in_a_row());
    let mut early: Vec<_> = (0..4).map(|_| breaker.try_acquire().unwrap()).collect();
    settle(&breaker, 3, Outcome::TRANSIENT);
    early.pop().unwrap().settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), Open, "no late success closes it");
    advance(2 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    early.pop().unwrap().settle(Outcome::TRANSIENT);
    assert_eq!(breaker.state(), HalfOpen, "no late failure opens it");
    early.pop().unwrap().settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), HalfOpen, "only the probe decides");
    probe.settle(Outcome::SUCCESS);
    settle(&breaker, 2, Outcome::TRANSIENT);
    early.pop().unwrap().settle(Outcome::TRANSIENT);
    assert_eq!(breaker.state(), Closed, "the run is that of this epoch");
    settle(&breaker, 1, Outcome::TRANSIENT);
    assert_eq!(breaker.state(), Open);
}

// ── state, transitions, events ──

#[tokio::test(start_paused = true)]
async fn reading_the_state_causes_no_transition() {
    let listener = Listener::new("looking");
    let breaker = breaker("looking", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    listener.take();
    advance(SECOND).await;
    assert_eq!(breaker.snapshot().remaining, Some(SECOND));
    advance(SECOND).await;
    for _ in 0..3 {
        assert_eq!(breaker.state(), HalfOpen, "what a call would find");
        assert_eq!(breaker.snapshot().state, HalfOpen);
    }
    assert_eq!(listener.take(), []);
    let _probe = breaker.try_acquire().unwrap();
    assert_eq!(
        listener.take_transitions(),
        [(2, (Open, HalfOpen, Cause::OpenForOver))]
    );
    advance(10 * SECOND).await;
    assert_eq!(breaker.state(), HalfOpen, "lost, and its time open over");
    assert_eq!(listener.take(), []);
}

#[tokio::test(start_paused = true)]
async fn every_transition_is_reported_with_its_number_and_its_cause() {
    let listener = Listener::new("numbered");
    let breaker = breaker("numbered", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    advance(2 * SECOND).await;
    settle(&breaker, 1, Outcome::TRANSIENT);
    advance(2 * SECOND).await;
    settle(&breaker, 1, Outcome::SUCCESS);
    breaker.isolate();
    breaker.release();
    breaker.disable();
    let expected = [
        (Closed, Open, Cause::ConsecutiveFailures),
        (Open, HalfOpen, Cause::OpenForOver),
        (HalfOpen, Open, Cause::ProbeFailed),
        (Open, HalfOpen, Cause::OpenForOver),
        (HalfOpen, Closed, Cause::ProbesSucceeded),
        (Closed, Isolated, Cause::Manual),
        (Isolated, Closed, Cause::Manual),
        (Closed, Disabled, Cause::Manual),
    ];
    assert_eq!(
        listener.take_transitions(),
        (1..).zip(expected).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn watch_waits_for_the_next_transition() {
    let breaker = breaker("awaited", three_in_a_row());
    let mut states = breaker.watch();
    assert!(poll(pin!(states.changed())).is_pending());
    let mut elsewhere = breaker.watch();
    let waiting = tokio::spawn(async move { elsewhere.changed().await });
    tokio::task::yield_now().await;
    settle(&breaker, 3, Outcome::TRANSIENT);
    assert_eq!(waiting.await.unwrap(), Some(Open));
    assert_eq!(
        states.changed().await,
        Some(Open),
        "though a wait was dropped"
    );
    advance(2 * SECOND).await;
    assert!(
        poll(pin!(states.changed())).is_pending(),
        "there was no call"
    );
    settle(&breaker, 1, Outcome::SUCCESS);
    assert_eq!(states.changed().await, Some(Closed), "the newest of two");
    assert!(poll(pin!(states.changed())).is_pending());
}

#[test]
fn a_task_waiting_for_a_transition_is_woken_although_an_observer_panics() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Wake};

    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let breaker = breaker("panicking-observer", three_in_a_row());
    let mut states = breaker.watch();
    let mut changed = pin!(states.changed());
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    assert!(changed.as_mut().poll(&mut cx).is_pending());
    let subscription = subscribe(|event: &Event<'_>| {
        let name = &**event.source().name();
        assert!(name != "panicking-observer", "scripted panic");
    });
    breaker.isolate();
    drop(subscription);
    assert!(woken.0.load(Ordering::SeqCst));
    assert_eq!(changed.poll(&mut cx), Poll::Ready(Some(Isolated)));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_transition_ends_when_all_handles_are_dropped() {
    let breaker = breaker("dropped", three_in_a_row());
    let mut states = breaker.watch();
    let mut unseen = breaker.watch();
    let (clone, permit) = (breaker.clone(), breaker.try_acquire().unwrap());
    let waiting = tokio::spawn(async move {
        assert_eq!(states.changed().await, Some(Isolated));
        states.changed().await
    });
    tokio::task::yield_now().await;
    breaker.isolate();
    drop(breaker);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "a handle is left");
    drop(clone);
    permit.settle(Outcome::TRANSIENT);
    assert_eq!(waiting.await.unwrap(), None);
    assert_eq!(unseen.changed().await, Some(Isolated));
    assert_eq!(unseen.changed().await, None);
}

// ── manual ──

#[tokio::test(start_paused = true)]
async fn forced_open_it_refuses_for_its_time_and_then_probes() {
    let breaker = breaker("forced", three_in_a_row());
    let under_way = breaker.try_acquire().unwrap();
    breaker.force_open(7200 * SECOND);
    advance(3600 * SECOND).await;
    under_way.settle(Outcome::SUCCESS);
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.reason, Reason::CircuitForcedOpen);
    assert_eq!(rejected.retry_after, Some(3600 * SECOND));
    assert_eq!(breaker.state(), ForcedOpen);
    advance(3600 * SECOND).await;
    settle(&breaker, 1, Outcome::SUCCESS);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn disabled_it_admits_everything_and_counts_nothing_until_it_is_released() {
    let breaker = opened("disabled");
    breaker.disable();
    settle(&breaker, 1000, Outcome::TRANSIENT);
    assert_eq!((breaker.state(), breaker.snapshot().total), (Disabled, 0));
    breaker.release();
    assert_eq!(breaker.state(), Closed);
    settle(&breaker, 2, Outcome::TRANSIENT);
    assert_eq!(breaker.state(), Closed, "nothing of before is counted");
    settle(&breaker, 1, Outcome::TRANSIENT);
    assert_eq!(breaker.state(), Open);
}

// ── dry run and new settings ──

#[tokio::test(start_paused = true)]
async fn a_dry_run_rejects_nothing_and_reports_its_decisions() {
    let listener = Listener::new("dry");
    let inner = Inner::new(|_| bad());
    let breaker = breaker("dry", three_in_a_row().dry_run(true));
    let service = layer(&breaker).layer(inner.clone());
    for _ in 0..5 {
        let result = service.clone().oneshot(()).await;
        assert_eq!(result, Err(Error::Inner("bad")));
    }
    assert_eq!((inner.calls(), breaker.state()), (5, Open));
    let reported = listener.take();
    assert!(
        matches!(
            &reported[..],
            [Reported::Transition(1, opened, true), Reported::WouldReject(first), Reported::WouldReject(_)]
                if opened.1 == Open && first.retry_after == Some(2 * SECOND)
        ),
        "{reported:?}"
    );
    // Its shadow probes: of two calls at once the second would have been refused, so its result is ignored.
    advance(2 * SECOND).await;
    let (probe, other) = (
        breaker.try_acquire().unwrap(),
        breaker.try_acquire().unwrap(),
    );
    other.settle(Outcome::TRANSIENT);
    assert_eq!(breaker.state(), HalfOpen);
    probe.settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_can_be_ended_while_it_is_open() {
    let breaker = breaker("earnest", three_in_a_row().dry_run(true));
    settle(&breaker, 3, Outcome::TRANSIENT);
    drop(breaker.try_acquire().unwrap());
    breaker.reconfigure(three_in_a_row()).unwrap();
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.reason, Reason::CircuitOpen);
    breaker.reconfigure(three_in_a_row().dry_run(true)).unwrap();
    drop(breaker.try_acquire().unwrap());
}

#[tokio::test(start_paused = true)]
async fn invalid_settings_change_nothing() {
    let breaker = opened("bad-settings");
    let error = breaker.reconfigure(three_in_a_row().probes(0).dry_run(true));
    assert_eq!(error.unwrap_err().field, "probes");
    breaker.try_acquire().unwrap_err();
    let error = Breaker::new("never", three_in_a_row().probes(0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "circuit breaker `never`: `probes` is 0, but it must be from 1 to 1000"
    );
}

// ── without tower ──

#[tokio::test(start_paused = true)]
async fn an_async_function_is_protected_without_tower() {
    let breaker = breaker("function", three_in_a_row());
    assert_eq!(breaker.run(async || Ok::<_, Failure>(42)).await, Ok(42));
    for _ in 0..3 {
        let result = breaker
            .run(async || Err::<(), _>(Error::Inner("bad")))
            .await;
        assert_eq!(result, Err(Error::Inner("bad")));
    }
    let mut called = false;
    let result = breaker
        .run(async || {
            called = true;
            Ok::<_, Failure>(())
        })
        .await;
    assert_eq!(rejection(result).reason, Reason::CircuitOpen);
    assert!(!called);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_panics_has_failed_and_one_that_is_dropped_was_abandoned() {
    let breaker = breaker(
        "function-ends",
        three_in_a_row().consecutive_failures(Some(1)),
    );
    {
        let mut dropped = pin!(breaker.run(async || {
            std::future::pending::<()>().await;
            Err::<(), _>(Error::Inner("never"))
        }));
        assert!(poll(dropped.as_mut()).is_pending());
    }
    assert_eq!(breaker.state(), Closed);
    let mut panicking = Box::pin(breaker.run(async || {
        assert!(breaker.state() != Closed, "scripted panic");
        Err::<(), _>(Error::Inner("never"))
    }));
    assert!(panics(|| poll(panicking.as_mut())));
    assert_eq!(breaker.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn run_classified_uses_the_classifier_of_its_caller() {
    let breaker = breaker("function-classified", three_in_a_row());
    let always_fine = |_: Result<&(), &Failure>| Outcome::PERMANENT;
    for _ in 0..10 {
        let result = breaker
            .run_classified(always_fine, async || {
                Err::<(), _>(Error::Inner("its own fault"))
            })
            .await;
        assert_eq!(result, Err(Error::Inner("its own fault")));
    }
    assert_eq!(breaker.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_function_may_borrow_and_need_not_be_send() {
    let breaker = breaker("borrowing", three_in_a_row());
    let local = std::rc::Rc::new(std::cell::Cell::new(0));
    let result = breaker
        .run(async || {
            tokio::time::sleep(MS).await;
            local.set(local.get() + 1);
            Ok::<_, Failure>(&local)
        })
        .await;
    assert_eq!(result.map(|local| local.get()), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn functions_within_functions_can_be_spawned() {
    let breaker = breaker("spawned", three_in_a_row());
    let timeout = buttress::timeout::TimeoutLayer::new("spawned", SECOND);
    let deadline = buttress::timeout::DeadlineLayer::new("spawned", SECOND);
    let task = tokio::spawn(async move {
        let text = String::from("borrowed");
        let once = async || timeout.run(async || Ok::<_, Failure>(text.len())).await;
        deadline.run(async || breaker.run(&once).await).await
    });
    assert_eq!(task.await.unwrap(), Ok(8));
}

// ── many threads ──

#[test]
fn however_many_threads_there_are_exactly_the_allowed_probes_pass() {
    let config = three_in_a_row().probes(2).open_for(Duration::from_nanos(1));
    let breaker = breaker("race", config);
    settle(&breaker, 3, Outcome::TRANSIENT);
    let barrier = std::sync::Barrier::new(10);
    let admitted = std::thread::scope(|scope| {
        let acquire = || {
            barrier.wait();
            breaker.try_acquire().ok()
        };
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(acquire)).collect();
        let permits = threads.into_iter().map(|thread| thread.join().unwrap());
        // Held until all threads have tried: a dropped permit gives its place back.
        permits.collect::<Vec<_>>()
    });
    assert_eq!(admitted.iter().flatten().count(), 2);
}

#[test]
fn results_of_many_threads_are_all_counted() {
    let config = three_in_a_row()
        .consecutive_failures(None)
        .failure_rate(Some(1.0))
        .min_calls(1_000_000)
        .window(Window::Time(3600 * SECOND));
    let breaker = breaker("hammered", config);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let breaker = &breaker;
            scope.spawn(move || {
                for call in 0..10_000 {
                    let failed = (call + thread) % 10 == 0;
                    let outcome = if failed {
                        Outcome::TRANSIENT
                    } else {
                        Outcome::SUCCESS
                    };
                    breaker.try_acquire().unwrap().settle(outcome);
                }
            });
        }
    });
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.total, snapshot.failed), (80_000, 8_000));
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_when_the_slow_rule_comes_on_are_not_slow() {
    let breaker = breaker("slow-comes-on", three_in_a_row());
    let under_way = [(); 5].map(|()| breaker.try_acquire().unwrap());
    let config = three_in_a_row().slow_rate(Some(0.5)).min_calls(1);
    breaker.reconfigure(config).unwrap();
    advance(60 * SECOND).await;
    for permit in under_way {
        permit.settle(Outcome::SUCCESS);
    }
    assert_eq!((breaker.state(), breaker.snapshot().slow), (Closed, 0));
}

#[test]
fn handles_permits_and_futures_go_to_other_threads() {
    fn anywhere<T: Send + Sync + Unpin + 'static>(_: T) {}
    let breaker = breaker("anywhere", three_in_a_row());
    anywhere(breaker.try_acquire().unwrap());
    let ready = |()| std::future::ready(Ok::<_, Failure>(()));
    anywhere(layer(&breaker).layer(tower::service_fn(ready)).call(()));
    anywhere(layer(&breaker));
    anywhere(breaker);
    let key = buttress::gate::by(String::len);
    let keys = buttress::gate::KeyedConfig::default();
    anywhere(Breaker::keyed::<usize, _>("anywhere", three_in_a_row(), keys, key).unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_use_the_breaker_whose_event_it_receives() {
    let breaker = breaker("reentrant", three_in_a_row());
    let seen = breaker.clone();
    let subscription = subscribe(move |event: &Event<'_>| {
        let is_transition = matches!(event, Event::BreakerTransition { .. });
        if is_transition && &**event.source().name() == "reentrant" {
            let _ = (seen.state(), seen.snapshot(), seen.try_acquire().is_ok());
        }
    });
    settle(&breaker, 3, Outcome::TRANSIENT);
    drop(subscription);
    assert_eq!(breaker.state(), Open);
}

//! Helpers that several modules use.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::backoff::Backoff;
use buttress::breaker::{Breaker, BreakerConfig, BreakerState, Cause};
use buttress::event::{Event, subscribe};
use buttress::event::{RetryStop, Subscription};
use buttress::retry::RetryConfig;
use buttress::testing::{Step, Strict};
use buttress::{Error, Kind, Outcome, Rejected};
use tower::Service;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// An error of a service in these tests.
pub(crate) type Failure = Error<&'static str>;
pub(crate) type Inner<Req = ()> = Strict<Req, &'static str, Failure>;

pub(crate) fn good() -> Step<&'static str, Failure> {
    Step::Answer(Ok("good"))
}

pub(crate) fn bad() -> Step<&'static str, Failure> {
    Step::Answer(Err(Error::Inner("bad")))
}

/// Three failures in a row open it for two seconds, one good probe closes it.
pub(crate) fn three_in_a_row() -> BreakerConfig {
    BreakerConfig::default()
        .consecutive_failures(Some(3))
        .consecutive_min_span(Duration::ZERO)
        .failure_rate(None)
        .open_jitter(0.0)
        .probes(1)
}

pub(crate) fn breaker(name: &'static str, config: BreakerConfig) -> Breaker {
    Breaker::new(name, config).expect("a configuration that works")
}

/// Settles this many calls with this outcome.
pub(crate) fn settle(breaker: &Breaker, times: usize, outcome: Outcome) {
    for _ in 0..times {
        let permit = breaker.try_acquire().expect("an admitted call");
        permit.settle(outcome);
    }
}

/// The rejection of this call.
pub(crate) fn rejection<T: std::fmt::Debug>(result: Result<T, Failure>) -> Rejected {
    match result {
        Err(Error::Rejected(rejected)) => rejected,
        other => panic!("not rejected: {other:?}"),
    }
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// `poll_ready`, once.
pub(crate) fn poll_ready<Req, S: Service<Req>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Whether this panics, which it may only do as the test has scripted it.
pub(crate) fn panics<T>(act: impl FnOnce() -> T) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(_) => false,
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            assert!(
                text.is_some_and(|text| text.starts_with("scripted panic")),
                "another panic: {text:?}"
            );
            true
        }
    }
}

/// From, to, because of.
pub(crate) type Transition = (BreakerState, BreakerState, Cause);

/// An event of one handle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reported {
    Rejected(Rejected),
    WouldReject(Rejected),
    Transition(u64, Transition, bool),
    Retry(u32, Duration),
    RetryStopped(RetryStop),
    Budget,
    BudgetExhausted,
    Finished(Option<Kind>, Duration),
    Evicted(String),
    Overflow(String),
}

/// Listens to all events of the handle of this name, and of the keys below it. Tests run side by side in one process, so
/// each must use names of its own.
pub(crate) struct Listener {
    reported: Arc<Mutex<Vec<Reported>>>,
    _subscription: Subscription,
}

impl Listener {
    pub(crate) fn new(name: &'static str) -> Self {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reported);
        let subscription = subscribe(move |event: &Event<'_>| {
            let source = &**event.source().name();
            if source.split('/').next() == Some(name) {
                sink.lock().unwrap().extend(report(event));
            }
        });
        Self {
            reported,
            _subscription: subscription,
        }
    }

    /// All events since the last call.
    pub(crate) fn take(&self) -> Vec<Reported> {
        std::mem::take(&mut *self.reported.lock().unwrap())
    }

    /// The state transitions among them.
    pub(crate) fn take_transitions(&self) -> Vec<(u64, Transition)> {
        let transition = |reported| match reported {
            Reported::Transition(sequence, transition, _) => Some((sequence, transition)),
            _ => None,
        };
        self.take().into_iter().filter_map(transition).collect()
    }
}

/// `None` for events that carry what other events have reported.
fn report(event: &Event<'_>) -> Option<Reported> {
    Some(match *event {
        Event::Rejected { rejected, .. } => Reported::Rejected(rejected.clone()),
        Event::WouldReject { rejected, .. } => Reported::WouldReject(rejected.clone()),
        Event::BreakerTransition {
            sequence,
            transition,
            dry_run,
            ..
        } => Reported::Transition(
            sequence,
            (transition.from, transition.to, transition.cause),
            dry_run,
        ),
        Event::Retry { attempt, wait, .. } => Reported::Retry(attempt, wait),
        Event::RetryStopped { why, .. } => Reported::RetryStopped(why),
        Event::Budget { .. } => Reported::Budget,
        Event::BudgetExhausted { .. } => Reported::BudgetExhausted,
        Event::Finished { outcome, took, .. } => {
            Reported::Finished(outcome.map(|outcome| outcome.kind), took)
        }
        Event::KeyEvicted { source } => Reported::Evicted(source.name().to_string()),
        Event::KeyOverflow { source, .. } => Reported::Overflow(source.name().to_string()),
        Event::BreakerState { .. } | Event::Circuits { .. } | Event::NameInUse { .. } => {
            return None;
        }
        ref new => panic!("an event that `Reported` lacks: {new:?}"),
    })
}

/// Retries without a wait.
pub(crate) fn at_once() -> RetryConfig {
    RetryConfig::new().backoff(Backoff::constant(Duration::ZERO))
}

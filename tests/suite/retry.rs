//! The retry layer.
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at the paused clock themselves"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::event::RetryStop;
use buttress::event::{Event, subscribe};
use buttress::retry::{ReplayPolicy, Retry, RetryConfig, RetryLayer, by_clone, by_clone_if};
use buttress::{
    AttemptReason, BoxError, Call, CallError, CallOptions, Deadline, Error, ErrorIsTransient,
    Executed, Outcome, Reason, Rejected, RetryAdvice, classify_fn,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;

/// The response of a scripted service: a result, after some time.
#[derive(Clone, Debug, PartialEq)]
struct Response {
    result: Result<Outcome, Error<Fault>>,
    took: Duration,
}

fn ok(outcome: Outcome) -> Response {
    Response {
        result: Ok(outcome),
        took: Duration::ZERO,
    }
}

fn err(outcome: Outcome) -> Response {
    Response {
        result: Err(Error::Inner(Fault(outcome))),
        took: Duration::ZERO,
    }
}

fn reject(rejected: Rejected) -> Response {
    Response {
        result: Err(rejected.into()),
        took: Duration::ZERO,
    }
}

impl Response {
    fn after(mut self, took: Duration) -> Self {
        self.took = took;
        self
    }
}

/// A failure of the scripted service itself.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0:?}")]
struct Fault(Outcome);

const GOOD: Outcome = Outcome::SUCCESS;
const BAD: Outcome = Outcome::TRANSIENT;

/// A call that a scripted service received.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    request: u32,
    at: Duration,
    call: (u32, bool),
}

/// A service that returns the responses of a script, and its last response from then on. It panics if it is called before it is
/// ready.
#[derive(Debug)]
struct Scripted {
    ready: bool,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug)]
struct Script {
    lines: VecDeque<Response>,
    seen: Vec<Seen>,
    started: Instant,
    /// Not ready before this moment.
    busy_until: Option<Instant>,
    /// Fails instead of becoming ready, once a call was made.
    breaks: bool,
}

impl Scripted {
    fn new(lines: impl IntoIterator<Item = Response>) -> Self {
        Self {
            ready: false,
            script: Arc::new(Mutex::new(Script {
                lines: lines.into_iter().collect(),
                seen: Vec::new(),
                started: Instant::now(),
                busy_until: None,
                breaks: false,
            })),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.script.lock().unwrap().seen.clone()
    }

    fn count(&self) -> usize {
        self.seen().len()
    }

    /// The times between the calls, in milliseconds.
    fn waits(&self) -> Vec<u128> {
        let seen = self.seen();
        seen.windows(2)
            .map(|pair| pair[1].at.saturating_sub(pair[0].at).as_millis())
            .collect()
    }
}

impl Clone for Scripted {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            script: self.script.clone(),
        }
    }
}

type Reply = Pin<Box<dyn Future<Output = Result<Outcome, Error<Fault>>> + Send>>;

impl Service<u32> for Scripted {
    type Response = Outcome;
    type Error = Error<Fault>;
    type Future = Reply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let script = self.script.lock().unwrap();
        if script.breaks && !script.seen.is_empty() {
            return Poll::Ready(Err(Error::Inner(Fault(Outcome::PERMANENT))));
        }
        if let Some(until) = script.busy_until.filter(|until| *until > Instant::now()) {
            let waker = cx.waker().clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(until).await;
                waker.wake();
            });
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        let mut script = self.script.lock().unwrap();
        let call = Call::current();
        let seen = Seen {
            request,
            at: script.started.elapsed(),
            call: (call.attempt, call.last),
        };
        script.seen.push(seen);
        let response = if script.lines.len() > 1 {
            script.lines.pop_front().unwrap()
        } else {
            script.lines[0].clone()
        };
        Box::pin(async move {
            if !response.took.is_zero() {
                sleep(response.took).await;
            }
            // A buffer calls its service in another task.
            let outside = call.attempt == 1 && call.last;
            assert!(outside || Call::current() == call, "the same in every poll");
            response.result
        })
    }
}

/// The outcome is in the response. A classifier never receives a rejection.
fn by_script(result: Result<&Outcome, &Error<Fault>>) -> Outcome {
    match result {
        Ok(outcome) | Err(Error::Inner(Fault(outcome))) => *outcome,
        Err(Error::Rejected(rejected)) => panic!("shown to a classifier: {rejected}"),
    }
}

type ByScript = fn(Result<&Outcome, &Error<Fault>>) -> Outcome;

/// Waits of 100, 200, 400 … ms, without jitter.
fn plain() -> RetryConfig {
    let backoff = Backoff::exponential(MS(100), 2.0).jitter(Jitter::None);
    RetryConfig::new().backoff(backoff)
}

trait Clones: ReplayPolicy<u32, Attempt = u32, Saved = u32> + Clone + Send + Sync + 'static {}

impl<R: ReplayPolicy<u32, Attempt = u32, Saved = u32> + Clone + Send + Sync + 'static> Clones
    for R
{
}

fn layer(name: &str, config: RetryConfig) -> RetryLayer<impl Clones + use<>, ByScript> {
    RetryLayer::new(name, config, by_clone())
        .unwrap()
        .classify(by_script as ByScript)
}

fn over(inner: &Scripted, config: RetryConfig) -> Retry<Scripted, impl Clones + use<>, ByScript> {
    layer("test", config).without_budget().layer(inner.clone())
}

/// A layer with a budget of its own, and that budget.
fn paid(config: RetryConfig, tokens: u32) -> (RetryLayer<impl Clones, ByScript>, RetryBudget) {
    let budget = BudgetConfig::new().cap(100).initial(tokens).reserve(100);
    let budget = RetryBudget::new("test", budget).unwrap();
    (layer("test", config).budget(budget.clone()), budget)
}

async fn send<T>(service: &T, request: u32) -> Result<T::Response, T::Error>
where
    T: Service<u32> + Clone,
{
    service.clone().oneshot(request).await
}

fn events_of(name: &'static str) -> (buttress::event::Subscription, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let subscription = subscribe(move |event: &Event<'_>| {
        if &**event.source().name() == name {
            seen.lock().unwrap().push(match event {
                Event::Retry { attempt, wait, .. } => format!("retry {attempt} after {wait:?}"),
                Event::RetryStopped { attempts, why, .. } => format!("{why:?} after {attempts}"),
                other => format!("{other:?}"),
            });
        }
    });
    (subscription, log)
}

/// The balance in tenths, which is exact enough to compare.
fn tenths(budget: &RetryBudget) -> u32 {
    format!("{:.0}", budget.balance() * 10.0).parse().unwrap()
}

// ── attempts and waits ──────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn a_call_makes_three_attempts_by_default_and_ends_with_the_last_result() {
    let last = Outcome::TRANSIENT.wait(Some(MS(1)));
    let inner = Scripted::new([err(BAD), err(BAD), err(last)]);
    let result = send(&over(&inner, plain()), 7).await;
    assert_eq!(result, Err(Error::Inner(Fault(last))), "untouched");
    assert_eq!(inner.waits(), [100, 200]);
    assert!(inner.seen().iter().all(|seen| seen.request == 7));
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_the_backoffs_or_the_servers_if_that_is_longer_but_not_too_long() {
    let wait = |wait| err(BAD.wait(Some(MS(wait))));
    let limiting = ok(Outcome::OVERLOADED.wait(Some(S(3))));
    let late = BAD.wait(Some(S(86_400)));
    let rows: [(Vec<Response>, Outcome, &[u128]); 4] = [
        (vec![err(BAD), ok(GOOD)], GOOD, &[100]),
        (vec![wait(30), wait(700), ok(GOOD)], GOOD, &[100, 700]),
        (
            vec![ok(Outcome::OVERLOADED), limiting, ok(GOOD)],
            GOOD,
            &[1000, 3000],
        ),
        (vec![ok(late)], late, &[]),
    ];
    for (script, result, waits) in rows {
        let inner = Scripted::new(script);
        assert_eq!(send(&over(&inner, plain()), 1).await, Ok(result));
        assert_eq!(inner.waits(), waits);
        let waited = Duration::from_millis(waits.iter().sum::<u128>().try_into().unwrap());
        assert_eq!(inner.script.lock().unwrap().started.elapsed(), waited);
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_is_drawn_afresh_for_every_wait_and_inside_the_cap() {
    let backoff = Backoff::exponential(MS(500), 2.0).cap(S(1));
    let config = RetryConfig::new().max_attempts(40).backoff(backoff);
    let inner = Scripted::new([err(BAD)]);
    let _ = send(&over(&inner, config), 1).await;
    let mut waits = inner.waits();
    // A timer of tokio's may fire a millisecond late.
    assert!(waits.iter().all(|wait| *wait <= 1001), "{waits:?}");
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 20, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_that_failed_together_do_not_come_back_together() {
    let retry = layer("together", RetryConfig::new().max_attempts(2)).without_budget();
    let mut waits = Vec::new();
    for _ in 0..20 {
        let inner = Scripted::new([err(BAD)]);
        let _ = send(&retry.layer(inner.clone()), 1).await;
        waits.extend(inner.waits());
    }
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 5, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn permanent_and_neutral_results_are_retried_only_if_the_outcome_allows_it() {
    for (outcome, attempts) in [
        (Outcome::PERMANENT, 1),
        (Outcome::NEUTRAL, 1),
        (Outcome::PERMANENT.retry(RetryAdvice::Allowed), 3),
        (Outcome::NEUTRAL.retry(RetryAdvice::Allowed), 3),
        (BAD.retry(RetryAdvice::Never), 1),
        (Outcome::OVERLOADED.retry(RetryAdvice::Never), 1),
    ] {
        for response in [ok(outcome), err(outcome)] {
            let inner = Scripted::new([response.clone()]);
            assert_eq!(send(&over(&inner, plain()), 1).await, response.result);
            assert_eq!(inner.count(), attempts, "{outcome:?}");
        }
    }
}

// ── which calls are retried ────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn an_unsafe_request_is_retried_only_if_it_was_not_executed() {
    for (outcome, attempts) in [(BAD, 1), (BAD.not_executed(), 4)] {
        let inner = Scripted::new([err(outcome)]);
        let reads = by_clone_if(|request: &u32| *request == 0);
        let layer = RetryLayer::new("some", plain(), reads).unwrap();
        let service = layer.classify(by_script as ByScript).without_budget();
        let _ = send(&service.layer(inner.clone()), 9).await;
        assert_eq!(inner.count(), attempts, "a write, {outcome:?}");
        let inner = Scripted::new([err(outcome)]);
        let _ = send(&service.layer(inner.clone()), 0).await;
        assert!(inner.count() >= 3, "a read");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_retry_of_a_call_that_was_not_executed_is_free() {
    let refused = BAD.not_executed();
    let inner = Scripted::new([err(refused)]);
    let (layer, budget) = paid(plain(), 10);
    let _ = send(&layer.layer(inner.clone()), 1).await;
    assert_eq!(inner.waits(), [0, 100, 200]);
    assert_eq!(tenths(&budget), 80, "the later ones cost a token each");
    let numbers: Vec<u32> = inner.seen().iter().map(|seen| seen.call.0).collect();
    assert_eq!(numbers, [1, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_replayed_is_sent_once() {
    #[derive(Clone)]
    struct Once;
    impl ReplayPolicy<u32> for Once {
        type Attempt = u32;
        type Saved = Infallible;
        fn first(&self, request: u32) -> (u32, Option<Infallible>) {
            (request, None)
        }
        fn again(&self, saved: &mut Infallible) -> Option<u32> {
            match *saved {}
        }
    }
    let inner = Scripted::new([err(BAD.not_executed())]);
    let (_subscription, events) = events_of("once");
    let layer = RetryLayer::new("once", plain(), Once).unwrap();
    let mut service = layer.classify(by_script as ByScript).layer(inner.clone());
    for _ in 0..2 {
        let service = service.ready().await.unwrap();
        let result = service.call(1).await;
        assert_eq!(result, Err(Error::Inner(Fault(BAD.not_executed()))));
    }
    assert_eq!(inner.seen()[0].call, (1, true), "certainly the last");
    let events = events.lock().unwrap().clone();
    assert_eq!(events, ["NotRetryable after 1"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_another_attempt_ends_the_call_and_returns_the_token() {
    #[derive(Clone)]
    struct UsedUp;
    impl ReplayPolicy<u32> for UsedUp {
        type Attempt = u32;
        type Saved = ();
        fn first(&self, request: u32) -> (u32, Option<()>) {
            (request, Some(()))
        }
        fn again(&self, (): &mut ()) -> Option<u32> {
            None
        }
    }
    let inner = Scripted::new([err(BAD)]);
    let (_, budget) = paid(plain(), 5);
    let layer = RetryLayer::new("used up", plain(), UsedUp).unwrap();
    let layer = layer.classify(by_script as ByScript).budget(budget.clone());
    let result = send(&layer.layer(inner.clone()), 1).await;
    assert_eq!(result, Err(Error::Inner(Fault(BAD))));
    assert_eq!((inner.count(), tenths(&budget)), (1, 50));
}

// ── rejections by inner layers ────────────────────────────────────────────────────────

fn rejection(reason: Reason, wait: Option<Duration>) -> Rejected {
    Rejected::new(reason, "inner").retry_after(wait)
}

#[tokio::test(start_paused = true)]
async fn not_executed_covers_the_whole_call() {
    let refused = rejection(Reason::CircuitOpen, None);
    for (first, claim) in [
        (err(BAD), Executed::Maybe),
        (err(BAD.not_executed()), Executed::No),
    ] {
        let inner = Scripted::new([first, reject(refused.clone())]);
        let result = send(&over(&inner, plain()), 1).await;
        let expected = refused.clone().executed(claim);
        assert_eq!(result, Err(Error::Rejected(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_an_inner_layer_costs_no_token_and_ends_the_call_by_default() {
    let waits = plain().retry_rejections(Some(MS(500)));
    let full = || Reason::Policy("full".into());
    for (config, reason, wait, attempts) in [
        (plain(), Reason::CircuitOpen, Some(MS(1)), 1),
        (plain(), full(), Some(MS(1)), 1),
        (plain(), Reason::Deadline, Some(MS(1)), 1),
        (waits, full(), Some(MS(300)), 3),
        (waits, full(), Some(MS(501)), 1),
        (waits, Reason::CircuitOpen, Some(MS(1)), 1),
        (waits, Reason::CircuitForcedOpen, None, 1),
        (waits, Reason::CircuitIsolated, None, 1),
    ] {
        let refused = rejection(reason, wait);
        let inner = Scripted::new([reject(refused.clone())]);
        let (layer, budget) = paid(config, 5);
        let started = Instant::now();
        let result = send(&layer.layer(inner.clone()), 1).await;
        assert_eq!(result, Err(Error::Rejected(refused)));
        assert_eq!(inner.count(), attempts, "{result:?}");
        assert!(attempts > 1 || started.elapsed().is_zero());
        assert_eq!(tenths(&budget), 50, "nothing reached the service");
    }
    // A retry that an inner layer rejects did not reach the service either.
    let refused = reject(rejection(Reason::CircuitOpen, None));
    let inner = Scripted::new([err(BAD), refused]);
    let (layer, budget) = paid(plain(), 5);
    assert!(send(&layer.layer(inner.clone()), 1).await.is_err());
    assert_eq!((inner.count(), tenths(&budget)), (2, 50));
    // An attempt timeout is a failure of the service.
    let limit = S(1);
    let late = rejection(Reason::AttemptTimeout { limit }, None).executed(Executed::Maybe);
    let inner = Scripted::new([reject(late), ok(GOOD)]);
    assert_eq!(send(&over(&inner, plain()), 1).await, Ok(GOOD));
}

// ── deadline ────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn no_wait_extends_past_the_deadline_and_the_deadline_is_not_retried() {
    let cut = rejection(Reason::Deadline, None).executed(Executed::Maybe);
    let waits = ok(Outcome::OVERLOADED.wait(Some(S(60)))).after(S(1));
    for (response, deadline, attempts, elapsed) in [
        (err(BAD), MS(250), 2, MS(100)),
        (waits, S(30), 1, S(1)),
        (reject(cut), S(30), 1, Duration::ZERO),
    ] {
        let inner = Scripted::new([response.clone()]);
        let (layer, budget) = paid(plain().max_retry_after(S(600)), 5);
        let service = layer.layer(inner.clone());
        let started = Instant::now();
        let result = Deadline::after(deadline).scope(send(&service, 1)).await;
        assert_eq!(result, response.result);
        assert_eq!((inner.count(), started.elapsed()), (attempts, elapsed));
        assert_eq!(tenths(&budget), if attempts == 1 { 50 } else { 40 });
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_and_options_are_those_of_the_first_poll() {
    let inner = Scripted::new([err(BAD)]);
    let mut service = over(&inner, plain());
    // `call` runs here, as in the worker of a buffer; the caller polls within its deadline.
    let future = service.ready().await.unwrap().call(1);
    let _ = Deadline::after(MS(50)).scope(future).await;
    assert_eq!(inner.count(), 1);
    let future = service.ready().await.unwrap().call(1);
    let _ = CallOptions::new().retry(false).scope(future).await;
    assert_eq!(inner.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_the_service_is_busy_returns_the_last_result() {
    let inner = Scripted::new([err(BAD)]);
    let (layer, budget) = paid(plain(), 5);
    let (_subscription, events) = events_of("test busy");
    let layer = RetryLayer::new("test busy", layer.config(), by_clone())
        .unwrap()
        .classify(by_script as ByScript)
        .budget(budget.clone());
    let mut service = layer.layer(inner.clone());
    let future = service.ready().await.unwrap().call(1);
    inner.script.lock().unwrap().busy_until = Some(Instant::now() + S(60));
    let started = Instant::now();
    let result = Deadline::after(MS(500)).scope(future).await;
    assert_eq!(result, Err(Error::Inner(Fault(BAD))));
    assert_eq!((inner.count(), started.elapsed()), (1, MS(500)));
    assert_eq!(tenths(&budget), 50, "the retry never started");
    let events = events.lock().unwrap().clone();
    assert_eq!(events, ["retry 2 after 100ms", "Deadline after 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_a_busy_service() {
    let inner = Scripted::new([err(BAD), ok(GOOD)]);
    let mut service = over(&inner, plain());
    let future = service.ready().await.unwrap().call(1);
    inner.script.lock().unwrap().busy_until = Some(Instant::now() + S(5));
    assert_eq!(future.await, Ok(GOOD));
    assert_eq!(inner.waits(), [5000]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_before_it_is_ready_returns_the_last_result() {
    let inner = Scripted::new([err(BAD)]);
    inner.script.lock().unwrap().breaks = true;
    let (layer, budget) = paid(plain(), 5);
    let result = send(&layer.layer(inner.clone()), 1).await;
    assert_eq!(result, Err(Error::Inner(Fault(BAD))));
    assert_eq!((inner.count(), tenths(&budget)), (1, 50));
}

// ── retries do not multiply ─────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn only_the_innermost_of_nested_layers_retries() {
    let (_subscription, events) = events_of("outermost");
    let inner = Scripted::new([err(BAD)]);
    let stack = layer("outermost", plain()).layer(over(&inner, plain()));
    assert!(send(&stack, 1).await.is_err());
    assert_eq!(inner.count(), 3);
    assert_eq!(*events.lock().unwrap(), ["SpentBelow after 1"]);
    // Three deep: the mark is passed on.
    let inner = Scripted::new([err(BAD)]);
    let stack = layer("top", plain()).layer(layer("middle", plain()).layer(over(&inner, plain())));
    assert!(send(&stack, 1).await.is_err());
    assert_eq!(inner.count(), 3);
    // An outer layer retries if it is configured to, or if the inner layer made no retry.
    for (outside, below, attempts) in [
        (plain().retry_spent_below(true), plain(), 9),
        (plain(), plain().max_attempts(1), 3),
    ] {
        let inner = Scripted::new([err(BAD)]);
        let outside = layer("outside", outside).without_budget();
        assert!(send(&outside.layer(over(&inner, below)), 1).await.is_err());
        assert_eq!(inner.count(), attempts);
    }
    // An empty budget is spent too.
    let inner = Scripted::new([err(BAD)]);
    let (below, _) = paid(plain(), 0);
    let outside = layer("outside", plain()).without_budget();
    let stack = outside.layer(below.layer(inner.clone()));
    assert!(send(&stack, 1).await.is_err());
    assert_eq!(inner.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_inner_retry_succeeded_is_not_marked() {
    let inner = Scripted::new([err(BAD), ok(GOOD)]);
    let below = over(&inner, plain());
    // The service between the layers fails after its own retry has succeeded.
    let between = tower::service_fn(move |request: u32| {
        let below = below.clone();
        async move {
            below.oneshot(request).await?;
            Err::<Outcome, _>(Error::Inner(Fault(BAD)))
        }
    });
    let stack = layer("outer", plain()).layer(between);
    assert!(send(&stack, 1).await.is_err());
    assert_eq!(inner.count(), 2 + 1 + 1);
}

#[tokio::test(start_paused = true)]
async fn an_inner_attempt_that_may_have_been_executed_is_reported_outwards() {
    let unexecuted = err(Outcome::NEUTRAL.not_executed());
    let always =
        |result: Result<&Outcome, &Error<Fault>>| by_script(result).retry(RetryAdvice::Allowed);
    for (first, runs) in [(err(BAD), 2), (err(BAD.not_executed()), 3)] {
        let inner = Scripted::new([first, unexecuted.clone(), ok(GOOD)]);
        let nothing = by_clone_if(|_: &u32| false);
        let outer = RetryLayer::new("acted", plain(), nothing).unwrap();
        let outer = outer.classify(classify_fn(always)).without_budget();
        let stack = outer.layer(over(&inner, plain()));
        assert_eq!(send(&stack, 1).await.is_ok(), runs == 3);
        assert_eq!(inner.count(), runs);
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_its_reason_its_number_and_the_number_of_resends() {
    let allowed = Outcome::NEUTRAL.retry(RetryAdvice::Allowed);
    let full = Error::from(Rejected::new(Reason::Policy("full".into()), "inside"));
    let mut results = vec![
        Err(Error::Inner(Fault(BAD.not_executed()))),
        Err(Error::Inner(Fault(BAD))),
        Err(full),
        Err(Error::Inner(Fault(Outcome::OVERLOADED))),
        Err(Error::Inner(Fault(allowed))),
        Ok(GOOD),
    ]
    .into_iter();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let results = Arc::new(Mutex::new(std::iter::from_fn(move || results.next())));
    let inner = tower::service_fn(move |_: u32| {
        let call = Call::current();
        seen.lock()
            .unwrap()
            .push((call.reason, call.attempt, call.resends(), call.last));
        std::future::ready(results.lock().unwrap().next().unwrap())
    });
    let config = plain().max_attempts(5).retry_rejections(Some(S(9)));
    let retry = layer("why", config).without_budget();
    retry.layer(inner).oneshot(1).await.unwrap();
    assert_eq!(
        *calls.lock().unwrap(),
        [
            (AttemptReason::First, 1, 0, false),
            (AttemptReason::NotExecuted, 1, 1, false),
            (AttemptReason::Transient, 2, 2, false),
            (AttemptReason::Rejected, 3, 3, false),
            (AttemptReason::Overloaded, 4, 4, false),
            (AttemptReason::Allowed, 5, 5, true),
        ]
    );
    assert_eq!(Call::current().reason, AttemptReason::First);
}

// ── the caller ──────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn an_attempt_is_dropped_inside_its_call() {
    struct Hangs(Arc<Mutex<Option<u32>>>);
    impl Drop for Hangs {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(Call::current().attempt);
        }
    }
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    let inner = tower::service_fn(move |_: u32| {
        let slot = slot.clone();
        async move {
            if Call::current().attempt == 2 {
                let _hangs = Hangs(slot);
                std::future::pending::<()>().await;
            }
            Err::<Outcome, _>(Error::Inner(Fault(BAD)))
        }
    });
    let service = layer("drops", plain()).without_budget().layer(inner);
    assert!(
        tokio::time::timeout(S(1), service.oneshot(1))
            .await
            .is_err()
    );
    assert_eq!(*seen.lock().unwrap(), Some(2));
}

#[test]
fn a_call_that_succeeds_needs_no_runtime_and_no_timer() {
    let service = layer("no runtime", plain()).layer(tower::service_fn(async |_: u32| {
        Ok::<_, Error<Fault>>(GOOD)
    }));
    let mut call = pin!(service.oneshot(1));
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(GOOD)));
}

// ── tower's services ─────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn over_a_concurrency_limit_of_one_attempts_follow_one_another() {
    let inner = Scripted::new([err(BAD).after(S(1)), err(BAD).after(MS(10)), ok(GOOD)]);
    let limited = tower::limit::ConcurrencyLimit::new(inner.clone(), 1);
    let service = layer("limit", plain()).without_budget().layer(limited);
    let calls = tokio::join!(send(&service, 1), send(&service, 2));
    assert_eq!(calls, (Ok(GOOD), Ok(GOOD)));
    // A call that waits holds no permit: the other one runs.
    let requests: Vec<u32> = inner.seen().iter().map(|seen| seen.request).collect();
    assert_eq!(requests, [1, 2, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn over_a_buffer_of_one_attempts_follow_one_another() {
    let inner = Scripted::new([err(BAD).after(MS(10)), err(BAD), ok(GOOD)]);
    let shared = tower::buffer::Buffer::new(inner.clone().map_err(BoxError::from), 1);
    let by_error = classify_fn(|result: Result<&Outcome, &BoxError>| match result {
        Ok(outcome) => *outcome,
        Err(_) => Outcome::TRANSIENT,
    });
    let layer = RetryLayer::new("buffer", plain(), by_clone()).unwrap();
    let service = layer.classify(by_error).without_budget().layer(shared);
    let calls = tokio::join!(send(&service, 1), send(&service, 2));
    assert!(calls.0.is_ok() && calls.1.is_ok(), "{calls:?}");
    assert_eq!(inner.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_result_is_held_until_the_next_attempt_has_begun() {
    struct Body(Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Body {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("dropped");
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let bodies = log.clone();
    let inner = tower::service_fn(move |_: u32| {
        bodies.lock().unwrap().push("called");
        let body = Body(bodies.clone());
        async move { Ok::<_, Error<Fault>>(body) }
    });
    let layer = RetryLayer::new("held", plain(), by_clone()).unwrap();
    let layer = layer.classify(classify_fn(|_: Result<&Body, &Error<Fault>>| BAD));
    let body = layer.without_budget().layer(inner).oneshot(1).await;
    let order = ["called", "called", "dropped", "called", "dropped"];
    assert_eq!(*log.lock().unwrap(), order);
    drop(body);
}

// ── budget ──────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn a_layer_has_a_budget_by_default_and_its_services_share_it() {
    let layer = layer("default", plain());
    let budget = layer.shared_budget().cloned().expect("on by default");
    assert_eq!((&**budget.name(), tenths(&budget)), ("default", 20));
    let inner = Scripted::new([err(BAD)]);
    let one = layer.layer(inner.clone());
    let other = layer.clone().layer(inner.clone());
    for _ in 0..500 {
        for service in [&one, &other] {
            assert!(send(service, 1).await.is_err());
        }
    }
    assert_eq!(inner.count(), 1000 + 2, "two retries in all");
}

#[tokio::test(start_paused = true)]
async fn with_an_empty_budget_the_caller_gets_the_failed_result() {
    let (_subscription, events) = events_of("poor");
    let inner = Scripted::new([err(BAD)]);
    let budget = BudgetConfig::new().initial(1);
    let budget = RetryBudget::new("somebody's", budget).unwrap();
    let service = layer("poor", plain()).budget(budget).layer(inner.clone());
    assert_eq!(send(&service, 1).await, Err(Error::Inner(Fault(BAD))));
    assert_eq!(inner.count(), 2);
    let events = events.lock().unwrap().clone();
    assert_eq!(events, ["retry 2 after 100ms", "BudgetExhausted after 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_deposits_once_after_any_number_of_attempts() {
    for (script, after) in [
        (vec![ok(GOOD)], 52),
        (vec![err(BAD), err(BAD), ok(GOOD)], 32),
        (vec![err(Outcome::PERMANENT)], 52),
        (vec![err(BAD), ok(Outcome::PERMANENT)], 42),
        (vec![err(Outcome::NEUTRAL)], 50),
        (vec![err(BAD.retry(RetryAdvice::Never))], 50),
        (vec![err(BAD)], 30),
    ] {
        let inner = Scripted::new(script.clone());
        let (layer, budget) = paid(plain(), 5);
        let _ = send(&layer.layer(inner), 1).await;
        assert_eq!(tenths(&budget), after, "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_counts_against_the_concurrency_cap_from_schedule_to_end() {
    let budget = RetryBudget::new("one", BudgetConfig::concurrent(0.2, 1)).unwrap();
    let inner = Scripted::new([err(BAD), err(BAD).after(S(1)), ok(GOOD).after(S(1))]);
    let service = layer("one", plain()).budget(budget.clone());
    let service = service.layer(inner.clone());
    let first = tokio::spawn(service.clone().oneshot(1));
    // The first call waits for its retry and then makes it. Meanwhile, no other retry is granted.
    for _ in 0..3 {
        sleep(MS(60)).await;
        assert_eq!(tenths(&budget), 0);
        assert!(budget.try_withdraw().is_none());
    }
    first.abort();
    assert!(first.await.is_err());
    assert_eq!(tenths(&budget), 10);
    assert_eq!(send(&service, 2).await, Ok(GOOD));
    assert_eq!(tenths(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn grpcs_throttle_runs_its_own_test_through_the_layer() {
    let good = |server: u32| matches!(server, 0 | 3 | 6 | 10..=14 | 16 | 18);
    let script: Vec<Response> = (0..20)
        .map(|server| if good(server) { ok(GOOD) } else { err(BAD) })
        .collect();
    let inner = Scripted::new(script);
    let budget = RetryBudget::new("grpc", BudgetConfig::throttle(10, 0.5)).unwrap();
    let layer = layer("grpc", plain().max_attempts(4)).budget(budget.clone());
    let service = layer.layer(inner.clone());
    let mut course = Vec::new();
    for _ in 0..12 {
        let ok = send(&service, 1).await.is_ok();
        course.push((inner.count() - 1, ok, tenths(&budget)));
    }
    assert_eq!(
        course,
        [
            (0, true, 100),
            (3, true, 85),
            (6, true, 70),
            (8, false, 50),
            (9, false, 40),
            (10, true, 45),
            (11, true, 50),
            (12, true, 55),
            (13, true, 60),
            (14, true, 65),
            (16, true, 60),
            (17, false, 50),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_grpcs_throttle_counts_deposits_nothing() {
    let budget = RetryBudget::new("veto", BudgetConfig::throttle(10, 0.5)).unwrap();
    let layer = layer("veto", plain()).budget(budget.clone());
    let vetoed = Scripted::new([err(Outcome::PERMANENT.retry(RetryAdvice::Vetoed))]);
    assert!(send(&layer.layer(vetoed), 1).await.is_err());
    assert_eq!(tenths(&budget), 90);
}

// ── events ──────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn retries_and_their_end_are_events_and_a_success_is_none() {
    let (_subscription, events) = events_of("events");
    let run = async |script: Vec<Response>| {
        let inner = Scripted::new(script);
        let service = layer("events", plain()).without_budget().layer(inner);
        let _ = send(&service, 1).await;
        std::mem::take(&mut *events.lock().unwrap())
    };
    let nothing: [&str; 0] = [];
    assert_eq!(run(vec![ok(GOOD)]).await, nothing);
    assert_eq!(run(vec![err(Outcome::PERMANENT)]).await, nothing);
    assert_eq!(
        run(vec![err(BAD)]).await,
        [
            "retry 2 after 100ms",
            "retry 3 after 200ms",
            "AttemptsUsed after 3"
        ]
    );
    assert_eq!(
        run(vec![err(BAD.not_executed()), ok(GOOD)]).await,
        ["retry 1 after 0ns"]
    );
    let long = BAD.wait(Some(S(100)));
    let stopped = format!("{:?} after 1", RetryStop::WaitTooLong);
    assert_eq!(run(vec![err(long)]).await, [stopped]);
}

// ── without tower ───────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn run_has_the_same_rules_and_the_same_budget() {
    let (layer, budget) = paid(plain(), 5);
    let started = Instant::now();
    let mut attempts = Vec::new();
    let result = layer
        .run(ErrorIsTransient, |attempt| {
            attempts.push(attempt);
            async move {
                assert_eq!(Call::current().attempt, attempt);
                Err::<Outcome, _>(Error::Inner(Fault(BAD)))
            }
        })
        .await;
    assert_eq!(result, Err(Error::Inner(Fault(BAD))));
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(started.elapsed(), MS(300));
    assert_eq!(tenths(&budget), 30);
    // A rejection ends the call and covers the whole call.
    let result = layer
        .run(ErrorIsTransient, async |attempt| match attempt {
            1 => Err::<Outcome, _>(Error::Inner(Fault(BAD))),
            _ => Err(Error::Rejected(rejection(Reason::CircuitOpen, None))),
        })
        .await;
    let rejected = result.unwrap_err();
    assert_eq!(
        rejected.rejected().map(|r| r.executed),
        Some(Executed::Maybe)
    );
    let run = layer.run(ErrorIsTransient, async |_| {
        Err::<Outcome, _>(Error::Inner(Fault(BAD)))
    });
    let started = Instant::now();
    assert!(Deadline::after(MS(250)).scope(run).await.is_err());
    assert_eq!(started.elapsed(), MS(100));
}

#[tokio::test(start_paused = true)]
async fn a_run_can_be_spawned_and_marks_what_it_has_spent() {
    let (layer, _) = paid(plain(), 5);
    let task = tokio::spawn(async move {
        let text = String::from("borrowed");
        let attempts = Mutex::new(0);
        let below = layer.clone();
        let result = layer
            .run(ErrorIsTransient, async |_| {
                below
                    .run(ErrorIsTransient, async |_| {
                        *attempts.lock().unwrap() += text.len() / text.len();
                        Err::<Outcome, _>(Error::Inner(Fault(BAD)))
                    })
                    .await
            })
            .await;
        (result, attempts.into_inner().unwrap())
    });
    let (result, attempts) = task.await.unwrap();
    assert_eq!((result, attempts), (Err(Error::Inner(Fault(BAD))), 3));
}

//! Rows about layers on top of one another, over a service that is scripted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerLayer};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::event::{Event, subscribe};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::testing::{Step, Strict};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{Classify, Error, Outcome, Reason, RetryAdvice};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

use crate::words::duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// From the outside in.
    stack: Vec<Part>,
    /// The steps of the service, call by call; the last one repeats.
    service: Vec<String>,
    /// One after the other, what is to be seen of each:
    ///
    /// - `result`: `S`, `F`, or the reason of a rejection; none if the caller `leaves` after that time;
    /// - `runs`: how often the service was called; `took`; `timeouts`: how many attempts ran into their limit;
    /// - `waits` of the retries, and why there was no further one (`stopped`);
    /// - `breakers`, `counts`: state, results and failures of each breaker after it, from the outside in; `balance`.
    calls: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Part {
    Deadline(String),
    Timeout(String),
    /// Without a budget unless it names one, and with waits of no time unless it names them.
    Retry(Map<String, Value>),
    /// The one budget of the retry layers inside it: a mark, no layer.
    Budget(BudgetConfig),
    Breaker(Map<String, Value>),
}

/// An error of the service, with its own outcome.
#[derive(Clone, Debug, PartialEq)]
struct Fault(Outcome);

type Failure = Error<Fault>;
type Service = BoxCloneSyncService<(), &'static str, Failure>;

#[derive(Clone, Copy)]
struct ByError;

impl Classify<&'static str, Failure> for ByError {
    fn classify(&self, result: Result<&&'static str, &Failure>) -> Outcome {
        match result {
            Err(Error::Inner(Fault(outcome))) => *outcome,
            _ => Outcome::SUCCESS,
        }
    }
}

#[derive(Default)]
struct Reported {
    waits: Vec<Duration>,
    stopped: Vec<&'static str>,
    timeouts: usize,
}

pub(crate) async fn drive(at: &str, case: Case) {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    let name = format!("stack {}", NAMES.fetch_add(1, Ordering::Relaxed));
    let reported = Arc::new(Mutex::new(Reported::default()));
    let (sink, own) = (Arc::clone(&reported), name.clone());
    let _subscription = subscribe(move |event: &Event<'_>| {
        if **event.source().name() != *own {
            return;
        }
        let mut reported = sink.lock().unwrap();
        match event {
            Event::Retry { wait, .. } => reported.waits.push(*wait),
            Event::RetryStopped { why, .. } => reported.stopped.push(why.as_str()),
            Event::Rejected { rejected, .. }
                if matches!(rejected.reason, Reason::AttemptTimeout { .. }) =>
            {
                reported.timeouts += 1;
            }
            _ => {}
        }
    });

    let script = case.service;
    let inner = Strict::new(move |call| step(&script[call.min(script.len() - 1)]));
    let mut breakers = Vec::new();
    let mut budget = None;
    let mut service = BoxCloneSyncService::new(inner.clone());
    for part in case.stack.iter().rev() {
        service = stacked(at, &name, part, service, &mut breakers, &mut budget);
    }
    breakers.reverse();

    for (number, call) in case.calls.iter().enumerate() {
        let at = format!("{at}, call {number}");
        *reported.lock().unwrap() = Reported::default();
        let (before, began) = (inner.calls(), Instant::now());
        let result = made(&service, call.get("leaves")).await;
        let took = began.elapsed();
        if result.is_none() {
            // Nothing starts for a caller who left.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        assert_eq!(inner.live(), 0, "{at}: something still runs");
        let reported = reported.lock().unwrap();
        let of_each = |of: fn(&Breaker) -> Value| breakers.iter().map(of).collect::<Vec<_>>();
        let seen = json!({
            "result": result,
            "runs": inner.calls() - before,
            "timeouts": reported.timeouts,
            "stopped": reported.stopped.last(),
            "breakers": of_each(|breaker| breaker.state().as_str().into()),
            "counts": of_each(|breaker| {
                let seen = breaker.snapshot();
                json!([seen.total, seen.failed])
            }),
            "balance": budget.as_ref().map(RetryBudget::balance),
        });
        assert_eq!(
            seen["result"],
            call.get("result").cloned().unwrap_or_default(),
            "{at}"
        );
        for (what, wanted) in call {
            match &**what {
                "leaves" => {}
                "took" => assert!(nearly(took, wanted), "{at}: it took {took:?}"),
                "waits" => {
                    let wanted: Vec<String> = crate::read(&at, wanted.clone());
                    let wanted: Vec<_> = wanted.iter().map(|wait| duration(wait)).collect();
                    assert_eq!(reported.waits, wanted, "{at}: waits");
                }
                _ => assert_eq!(seen[what], *wanted, "{at}: {what}"),
            }
        }
    }
}

/// What a call came to; nothing if its caller left after that time.
async fn made(service: &Service, leaves: Option<&Value>) -> Option<String> {
    let future = service.clone().oneshot(());
    let result = match leaves.and_then(Value::as_str) {
        Some(time) => tokio::time::timeout(duration(time), future).await.ok()?,
        None => future.await,
    };
    Some(match result {
        Ok(response) => response.to_owned(),
        Err(Error::Inner(_)) => "F".to_owned(),
        Err(Error::Rejected(rejected)) => rejected.reason.as_str().to_owned(),
    })
}

/// Tokio rounds each timer up to a millisecond.
fn nearly(took: Duration, wanted: &Value) -> bool {
    let wanted = duration(wanted.as_str().expect("a time"));
    took.abs_diff(wanted) <= Duration::from_millis(9)
}

fn stacked(
    at: &str,
    name: &str,
    part: &Part,
    inner: Service,
    breakers: &mut Vec<Breaker>,
    budget: &mut Option<RetryBudget>,
) -> Service {
    match part {
        Part::Deadline(total) => {
            let layer = DeadlineLayer::new(name, duration(total));
            BoxCloneSyncService::new(layer.layer(inner))
        }
        Part::Timeout(limit) => {
            let layer = TimeoutLayer::new(name, duration(limit));
            BoxCloneSyncService::new(layer.layer(inner))
        }
        Part::Breaker(set) => {
            let config =
                crate::breaker::config(set).unwrap_or_else(|error| panic!("{at}: {error}"));
            let breaker = Breaker::new(name, config).expect(at);
            breakers.push(breaker.clone());
            BoxCloneSyncService::new(BreakerLayer::new(breaker, ByError).layer(inner))
        }
        // Read from the inside out, so it stands inside its retry layer.
        Part::Budget(config) => {
            *budget = Some(RetryBudget::new(name, *config).expect(at));
            inner
        }
        Part::Retry(config) => {
            let at_once = json!({"base": "0s", "jitter": "none"});
            let mut all = Map::new();
            all.insert("backoff".to_owned(), at_once);
            all.extend(config.clone());
            let config: RetryConfig = crate::read(at, Value::Object(all));
            let layer = RetryLayer::new(name, config, by_clone()).expect(at);
            let layer = layer.classify(ByError);
            let layer = match budget {
                Some(budget) => layer.budget(budget.clone()),
                None => layer.without_budget(),
            };
            BoxCloneSyncService::new(layer.layer(inner))
        }
    }
}

/// `S`, `F`, `hang`; `S after 2s`; `F wait 5s`, which names a wait; `F restart 5s`, which also starts the schedule over;
/// `F never`, which must not be retried; `X`, which certainly was not executed; `P`, `N` and `O`.
fn step(text: &str) -> Step<&'static str, Failure> {
    let mut words = text.split(' ');
    let letter = words.next().expect("a word");
    let (how, time) = (words.next(), words.next().map(duration));
    let outcome = match letter {
        "hang" => return Step::Hang,
        "S" => Outcome::SUCCESS,
        "F" => Outcome::TRANSIENT,
        "X" => Outcome::TRANSIENT.not_executed(),
        "P" => Outcome::PERMANENT,
        "N" => Outcome::NEUTRAL,
        "O" => Outcome::OVERLOADED,
        other => panic!("no step `{other}`"),
    };
    let outcome = match how {
        None | Some("after") => outcome,
        Some("wait") => outcome.wait(time),
        Some("restart") => outcome.wait(time).restarts_backoff(),
        Some("never") => outcome.retry(RetryAdvice::Never),
        Some(other) => panic!("no step `{other}`"),
    };
    let result = if letter == "S" {
        Ok("S")
    } else {
        Err(Error::Inner(Fault(outcome)))
    };
    match (how, time) {
        (Some("after"), Some(time)) => Step::After(time, result),
        _ => Step::Answer(result),
    }
}

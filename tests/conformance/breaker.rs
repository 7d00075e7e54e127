//! Rows about breakers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerPermit, Window};
use buttress::clock::Now;
use buttress::event::{Event, subscribe};
use buttress::{Outcome, Rejected};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, advance};

use crate::words::{duration, words};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What is set; rules that are not named are off, and there is neither jitter nor a spread.
    breaker: Map<String, Value>,
    /// What happens, and what is to be seen then.
    run: Vec<(String, String)>,
}

/// The configuration of a row.
pub(crate) fn config(set: &Map<String, Value>) -> serde_json::Result<BreakerConfig> {
    let mut all = Map::new();
    all.insert("consecutive_failures".to_owned(), Value::Null);
    all.insert("failure_rate".to_owned(), Value::Null);
    all.insert("consecutive_min_span".to_owned(), "0s".into());
    all.insert("open_jitter".to_owned(), 0.0.into());
    all.extend(set.clone());
    serde_json::from_value(Value::Object(all))
}

/// The events of the breaker.
#[derive(Default)]
struct Reported {
    causes: Vec<&'static str>,
    rejections: usize,
    would_reject: usize,
}

struct Bench {
    breaker: Breaker,
    built: Instant,
    permits: HashMap<String, BreakerPermit>,
    refused: Option<Rejected>,
}

pub(crate) async fn drive(at: &str, case: Case) {
    let config = config(&case.breaker).unwrap_or_else(|error| panic!("{at}: {error}"));
    // Cells begin at multiples of their width: so does the row's time.
    if let Window::Time(window) = config.window {
        let now = u128::from(Now::unread().moment().as_nanos());
        let since = u64::try_from(now % window.as_nanos()).expect("below the window");
        advance(window.saturating_sub(Duration::from_nanos(since))).await;
    }
    let name: Arc<str> = format!("row {at}").into();
    let reported = Arc::new(Mutex::new(Reported::default()));
    let (sink, own) = (Arc::clone(&reported), Arc::clone(&name));
    let _subscription = subscribe(move |event: &Event<'_>| {
        if *event.source().name() != own {
            return;
        }
        let mut reported = sink.lock().unwrap();
        match event {
            Event::BreakerTransition { transition, .. } => {
                reported.causes.push(transition.cause.as_str());
            }
            Event::Rejected { .. } => reported.rejections += 1,
            Event::WouldReject { .. } => reported.would_reject += 1,
            _ => {}
        }
    });
    let mut bench = Bench {
        breaker: Breaker::new(name, config).unwrap_or_else(|error| panic!("{at}: {error}")),
        built: Instant::now(),
        permits: HashMap::new(),
        refused: None,
    };
    for (number, (events, expected)) in case.run.iter().enumerate() {
        let step = format!("{at}, step {number}: {events}");
        bench.act(&step, events).await;
        for fact in expected.split(", ").filter(|fact| !fact.is_empty()) {
            bench.check(&step, fact, &reported.lock().unwrap());
        }
    }
}

impl Bench {
    async fn act(&mut self, at: &str, events: &str) {
        let (verb, rest) = events.split_once(' ').unwrap_or((events, ""));
        match verb {
            "look" => {}
            "begin" => {
                for name in rest.split(' ') {
                    let permit = self.admitted(at);
                    self.permits.insert(name.to_owned(), permit);
                }
            }
            "end" => {
                let (name, letter) = rest.split_once(' ').expect("a name and a result");
                self.permits
                    .remove(name)
                    .expect("begun")
                    .settle(outcome(letter));
            }
            "drop" => rest
                .split(' ')
                .for_each(|name| drop(self.permits.remove(name))),
            "slow" => {
                let (time, letter) = rest.split_once(' ').expect("a time and a result");
                let permit = self.admitted(at);
                advance(duration(time)).await;
                permit.settle(outcome(letter));
            }
            "panic" => {
                let breaker = self.breaker.clone();
                let call = async || -> Result<(), Rejected> { panic!("scripted panic") };
                let task = tokio::spawn(async move { breaker.run(call).await.is_ok() });
                assert!(task.await.is_err_and(|error| error.is_panic()), "{at}");
            }
            "isolate" => self.breaker.isolate(),
            "release" => self.breaker.release(),
            "disable" => self.breaker.disable(),
            "reset" => self.breaker.reset(),
            "force_open" => self.breaker.force_open(duration(rest)),
            _ if verb.starts_with("t=") => {
                let then = self.built + duration(&verb[2..]);
                advance(then - Instant::now()).await;
                assert_eq!(rest, "", "{at}");
            }
            _ if verb.starts_with('+') => {
                advance(duration(&verb[1..])).await;
                assert_eq!(rest, "", "{at}");
            }
            _ => {
                for word in words(events) {
                    if word == "R" {
                        let refused = self.breaker.try_acquire().map(drop);
                        self.refused = Some(refused.expect_err(at));
                    } else {
                        self.admitted(at).settle(outcome(&word));
                    }
                }
            }
        }
    }

    fn admitted(&self, at: &str) -> BreakerPermit {
        self.breaker
            .try_acquire()
            .unwrap_or_else(|rejected| panic!("{at}: {rejected}"))
    }

    fn check(&self, at: &str, fact: &str, reported: &Reported) {
        let seen = self.breaker.snapshot();
        let (what, value) = fact.split_once(' ').unwrap_or((fact, ""));
        let rate = |rate: Option<f64>| match rate {
            Some(rate) => format!("{rate:.3}"),
            None => "unknown".to_owned(),
        };
        let wait = |wait: Option<Duration>| wait == Some(duration(value));
        let holds = match what {
            "wait" => wait(seen.remaining),
            "retry_after" => wait(
                self.refused
                    .as_ref()
                    .and_then(|refused| refused.retry_after),
            ),
            "total" => seen.total.to_string() == value,
            "failed" => seen.failed.to_string() == value,
            "slow" => seen.slow.to_string() == value,
            "rate" => rate(seen.failure_rate) == value,
            "slow_rate" => rate(seen.slow_rate) == value,
            "cause" => reported.causes.last() == Some(&value),
            "transitions" => reported.causes.len().to_string() == value,
            "rejected" => reported.rejections.to_string() == value,
            "would_reject" => reported.would_reject.to_string() == value,
            state => seen.state.as_str() == state && self.breaker.state() == seen.state,
        };
        assert!(
            holds,
            "{at}: not {fact}, but {seen:?}, {:?}",
            reported.causes
        );
    }
}

fn outcome(letter: &str) -> Outcome {
    match letter {
        "S" => Outcome::SUCCESS,
        "F" => Outcome::TRANSIENT,
        "O" => Outcome::OVERLOADED,
        "P" => Outcome::PERMANENT,
        "N" => Outcome::NEUTRAL,
        other => panic!("no outcome `{other}`"),
    }
}

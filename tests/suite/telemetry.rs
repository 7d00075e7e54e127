//! Metrics and logs of all layers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState, Cause};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::clock::Now;
use buttress::event::{Event, subscribe};
use buttress::gate::{KeyedConfig, by_str};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope, StoredBody};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::telemetry::{ObserveLayer, Observed, refresh};
use buttress::testing::Step;
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{CallOptions, Error, ErrorIsTransient, Outcome};
use metrics::{KeyName, Metadata, SharedString, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::advance;
use tower::{Layer, ServiceExt};

use crate::common::{
    Inner, MS, SECOND, bad, breaker, good, poll, rejection, settle, three_in_a_row,
};
use crate::log::Log;

/// One recorded series: its name, its labels in order, its value.
#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: DebugValue,
}

/// Records the metrics of this thread until the guard is dropped.
fn record() -> (Snapshotter, metrics::LocalRecorderGuard<'static>) {
    let recorder: &'static _ = Box::leak(Box::new(DebuggingRecorder::new()));
    let guard = metrics::set_default_local_recorder(recorder);
    (recorder.snapshotter(), guard)
}

/// All series since the last call.
fn series(snapshotter: &Snapshotter) -> Vec<Series> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let (name, labels) = key.key().clone().into_parts();
        let labels = labels
            .into_iter()
            .map(|label| (label.key().to_owned(), label.value().to_owned()));
        Series {
            name: name.as_str().to_owned(),
            labels: labels.collect(),
            value,
        }
    })
    .collect()
}

/// The value of the only series of this metric with these labels.
fn value(all: &[Series], name: &str, labels: &[(&str, &str)]) -> f64 {
    let mut found = all.iter().filter(|series| {
        series.name == name
            && labels.iter().all(|(key, value)| {
                let wanted = ((*key).to_owned(), (*value).to_owned());
                series.labels.contains(&wanted)
            })
    });
    let (Some(one), None) = (found.next(), found.next()) else {
        panic!("not one `{name}` {labels:?} in {all:#?}")
    };
    match &one.value {
        DebugValue::Counter(count) => u32::try_from(*count).unwrap().into(),
        DebugValue::Gauge(value) => value.0,
        DebugValue::Histogram(values) => u32::try_from(values.len()).unwrap().into(),
    }
}

fn state(all: &[Series], name: &str) -> f64 {
    value(all, "buttress.breaker.state", &[("name", name)])
}

/// Causes every event of every layer.
async fn everything() {
    let observe = ObserveLayer::new(Observed::new("all"), ErrorIsTransient);
    let deadline = DeadlineLayer::new("all", SECOND);
    let hanging: Inner = Inner::new(|_| Step::Hang);
    rejection(observe.layer(deadline.layer(hanging)).oneshot(()).await);

    let dry = breaker("all", three_in_a_row().dry_run(true));
    settle(&dry, 4, Outcome::TRANSIENT);

    let keyed = Breaker::keyed(
        "all",
        BreakerConfig::default(),
        KeyedConfig::default().max_keys(1),
        by_str(|key: &String| key),
    );
    let keyed = keyed.unwrap();
    for key in ["a", "b", "c"] {
        let breaker = keyed.get(&key.to_owned(), &Now::unread());
        if key == "b" {
            breaker.isolate();
        }
    }

    let config = RetryConfig::new().max_attempts(9);
    let retry = RetryLayer::new("all", config, by_clone()).unwrap();
    let inner: Inner = Inner::new(|_| bad());
    retry.layer(inner).oneshot(()).await.unwrap_err();

    // Room for one record: the second is refused.
    let store = MemoryStore::with_max_bytes(512).unwrap();
    let once = IdempotencyLayer::new("all", store, Scope::Global, IdempotencyConfig::default());
    let served = tower::service_fn(async |_: http::Request<StoredBody<String>>| {
        Ok::<_, Error<&str>>(http::Response::new(String::new()))
    });
    let once = once.unwrap();
    let served = once.layer(served);
    for (key, done) in [
        ("\"key-of-number-one\"", true),
        ("\"key-of-number-two\"", false),
    ] {
        let request = http::Request::post("/").header("idempotency-key", key);
        let request = request.body(String::new()).unwrap();
        assert_eq!(served.clone().oneshot(request).await.is_ok(), done);
    }
    buttress::telemetry::refresh();
}

#[tokio::test(start_paused = true)]
async fn the_documented_metrics_and_labels_are_the_recorded_ones() {
    let page = include_str!("../../docs/telemetry.md");
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .collect();
    let (snapshotter, guard) = record();
    everything().await;
    drop(guard);
    let all = series(&snapshotter);
    let recorded: BTreeSet<_> = all.iter().map(|series| &*series.name).collect();
    assert_eq!(recorded, documented);
    // And with the labels that the page names, no others.
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let name = line.split('`').nth(1).unwrap();
        let described = line.rsplit("label").next().unwrap();
        let described = described.trim_start_matches('s').trim_matches([' ', '|']);
        let described: BTreeSet<_> = described.split(", ").collect();
        for series in all.iter().filter(|series| series.name == name) {
            let labels: BTreeSet<_> = series.labels.iter().map(|(key, _)| &**key).collect();
            assert_eq!(labels, described, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_gauge_follows_every_transition() {
    let (snapshotter, _guard) = record();
    let breaker = breaker("gauge", three_in_a_row());
    let level = || state(&series(&snapshotter), "gauge").to_string();
    settle(&breaker, 3, Outcome::TRANSIENT);
    assert_eq!(level(), "2");
    advance(2 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    assert_eq!(level(), "1");
    probe.settle(Outcome::SUCCESS);
    assert_eq!(level(), "0");
    breaker.force_open(SECOND);
    assert_eq!(level(), "3");
    breaker.isolate();
    assert_eq!(level(), "4");
    breaker.disable();
    assert_eq!(level(), "5");
    breaker.release();
    assert_eq!(level(), "0");
}

#[tokio::test(start_paused = true)]
async fn a_transition_reported_late_does_not_reset_the_gauge() {
    // A lost probe whose open time is over too causes two transitions, reported one after the other. The observer isolates
    // the circuit at the first one, and that transition is reported before the second.
    let breaker = breaker("late", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    advance(2 * SECOND).await;
    let lost = breaker.try_acquire().unwrap();
    advance(20 * SECOND).await;
    let (snapshotter, _guard) = record();
    let reported = Arc::new(Mutex::new(Vec::new()));
    let (notes, observed) = (Arc::clone(&reported), breaker.clone());
    let subscription = subscribe(move |event: &Event<'_>| {
        let Event::BreakerTransition {
            source,
            sequence,
            transition,
            ..
        } = event
        else {
            return;
        };
        if &**source.name() == "late" {
            notes.lock().unwrap().push(*sequence);
            if transition.cause == Cause::ProbeLost {
                observed.isolate();
            }
        }
    });
    let _ = breaker.try_acquire();
    drop(subscription);
    drop(lost);
    assert_eq!(*reported.lock().unwrap(), [3, 5, 4]);
    assert_eq!(breaker.state(), BreakerState::Isolated);
    assert_eq!(state(&series(&snapshotter), "late").to_string(), "4");
}

fn keyed(
    name: &str,
    max_keys: usize,
) -> buttress::gate::Keyed<
    Box<str>,
    impl buttress::gate::KeyBy<String, Key = Box<str>> + use<>,
    Breaker,
> {
    let keys = KeyedConfig::default().max_keys(max_keys);
    Breaker::keyed(name, three_in_a_row(), keys, by_str(|key: &String| key)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_breaker_exports_its_state_from_its_creation_on() {
    let before = breaker("built-before", three_in_a_row());
    let keyed_before = keyed("built-before", 10);
    settle(&before, 3, Outcome::TRANSIENT);
    keyed_before.get(&"a".to_owned(), &Now::unread());
    let (snapshotter, _guard) = record();
    let _after = breaker("built-after", three_in_a_row());
    let _keyed_after = keyed("built-after", 10);
    let circuits = |all: &[Series], name, state| {
        value(
            all,
            "buttress.breaker.circuits",
            &[("name", name), ("state", state)],
        )
        .to_string()
    };
    let all = series(&snapshotter);
    assert_eq!(state(&all, "built-after").to_string(), "0");
    assert_eq!(circuits(&all, "built-after", "closed"), "0");
    refresh();
    let all = series(&snapshotter);
    assert_eq!(state(&all, "built-before").to_string(), "2");
    assert_eq!(circuits(&all, "built-before", "closed"), "1");
    drop((before, keyed_before));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_built_before_the_recorder_still_reports() {
    let breaker = breaker("before", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    breaker.reset();
    let (snapshotter, _guard) = record();
    settle(&breaker, 3, Outcome::TRANSIENT);
    breaker.try_acquire().unwrap_err();
    let all = series(&snapshotter);
    assert_eq!(state(&all, "before").to_string(), "2");
    let rejected = [
        ("name", "before"),
        ("layer", "breaker"),
        ("reason", "circuit_open"),
    ];
    assert_eq!(
        value(&all, "buttress.rejections_total", &rejected).to_string(),
        "1"
    );
}

#[tokio::test(start_paused = true)]
async fn a_keyed_breaker_counts_its_circuits_by_state() {
    let (snapshotter, _guard) = record();
    let keyed = keyed("counted", 4);
    let get = |key: &str| keyed.get(&key.to_owned(), &Now::unread());
    let counts = || {
        let all = series(&snapshotter);
        let of = |state| {
            value(
                &all,
                "buttress.breaker.circuits",
                &[("name", "counted"), ("state", state)],
            )
            .to_string()
        };
        [of("closed"), of("half_open"), of("open")].join(" ")
    };
    assert_eq!(counts(), "0 0 0");
    for key in ["a", "b", "c"] {
        settle(&get(key), 1, Outcome::SUCCESS);
    }
    assert_eq!(counts(), "3 0 0");
    settle(&get("a"), 3, Outcome::TRANSIENT);
    settle(&get("b"), 3, Outcome::TRANSIENT);
    assert_eq!(counts(), "1 0 2");
    advance(2 * SECOND).await;
    let probe = get("a").try_acquire().unwrap();
    assert_eq!(counts(), "1 1 1");
    probe.settle(Outcome::SUCCESS);
    assert_eq!(counts(), "2 0 1");
    get("b").isolate();
    let all = series(&snapshotter);
    let isolated = [("name", "counted"), ("state", "isolated")];
    assert_eq!(
        value(&all, "buttress.breaker.circuits", &isolated).to_string(),
        "1"
    );
    // The evicted ones are not counted.
    for key in 0..20 {
        get(&key.to_string());
    }
    assert_eq!(counts(), "3 0 0");
    assert!(
        !all.iter()
            .any(|series| series.name == "buttress.breaker.state")
    );
}

#[tokio::test(start_paused = true)]
async fn the_number_of_series_does_not_depend_on_the_number_of_servers() {
    use buttress::http::{ClientConfig, client};

    let log = Log::install();
    let (snapshotter, _guard) = record();
    let keys = KeyedConfig::default().max_keys(100);
    let stack = client("fleet", ClientConfig::default().authorities(keys)).unwrap();
    let stack = stack.layer(tower::service_fn(
        async |_: http::Request<String>| -> Result<http::Response<String>, std::io::Error> {
            let mut response = http::Response::new(String::new());
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        },
    ));
    for host in 0..5_000 {
        for _ in 0..if host < 10 { 20 } else { 1 } {
            let mut request = http::Request::new(String::new());
            *request.uri_mut() = format!("http://host-{host}/").parse().unwrap();
            let _ = stack.clone().oneshot(request).await;
        }
        log.take();
    }
    let all = series(&snapshotter);
    assert!(all.len() <= 100, "{} series", all.len());
    for series in &all {
        for (label, value) in &series.labels {
            assert!(label != "server" && !value.contains("host-"), "{series:?}");
            assert!(label != "name" || value == "fleet", "{series:?}");
        }
    }
    let calls = [
        ("name", "fleet"),
        ("scope", "call"),
        ("outcome", "transient"),
    ];
    assert!(value(&all, "buttress.call.duration_seconds", &calls) >= 4_990.0);
    let attempts = [
        ("name", "fleet"),
        ("scope", "attempt"),
        ("outcome", "transient"),
    ];
    assert!(value(&all, "buttress.call.duration_seconds", &attempts) >= 4_990.0);
}

#[tokio::test(start_paused = true)]
async fn servers_are_labeled_on_request_and_within_a_bound() {
    let (snapshotter, _guard) = record();
    let keyed = keyed("labeled", 2);
    keyed.label_servers(2);
    let get = |key: &str| keyed.get(&key.to_owned(), &Now::unread());
    for key in ["", "b", "c", "d"] {
        settle(&get(key), 3, Outcome::TRANSIENT);
        get(key).try_acquire().unwrap_err();
        advance(2 * SECOND).await;
    }
    let all = series(&snapshotter);
    let refused = |server| {
        let labels = [("name", "labeled"), ("server", server)];
        value(&all, "buttress.rejections_total", &labels).to_string()
    };
    assert_eq!(
        [refused(""), refused("b"), refused("other")],
        ["1", "1", "2"]
    );
    // The state of a key is shown until it is evicted, and again if it comes back.
    let level = |all: &[Series], server| {
        value(
            all,
            "buttress.breaker.state",
            &[("name", "labeled"), ("server", server)],
        )
        .to_string()
    };
    assert_eq!([level(&all, ""), level(&all, "b")], ["0", "0"]);
    settle(&get("b"), 3, Outcome::TRANSIENT);
    assert_eq!(level(&series(&snapshotter), "b"), "2");
    let states = all
        .iter()
        .filter(|series| series.name == "buttress.breaker.state");
    assert_eq!(states.count(), 2, "`other` has none");
}

#[tokio::test(start_paused = true)]
async fn evicting_a_labeled_server_resets_its_gauge_but_writes_none_that_was_never_written() {
    let (snapshotter, _guard) = record();
    let keys = KeyedConfig::default().idle(60 * SECOND);
    let by_key = || by_str(|key: &String| key);
    let breakers = Breaker::keyed("evicted", three_in_a_row(), keys, by_key()).unwrap();
    let budgets = RetryBudget::keyed("evicted", BudgetConfig::new(), keys, by_key()).unwrap();
    breakers.label_servers(4);
    budgets.label_servers(4);
    let breaker = |key: &str| breakers.get(&key.to_owned(), &Now::unread());
    let budget = |key: &str| budgets.get(&key.to_owned(), &Now::unread());

    settle(&breaker("opened"), 3, Outcome::TRANSIENT);
    budget("unused");
    drop(budget("used").try_withdraw());
    advance(3600 * SECOND).await;
    breaker("next");
    budget("next");
    assert_eq!((breakers.len(), budgets.len()), (1, 1));

    // The only snapshot, because the recorder itself resets its gauges at each.
    let all = series(&snapshotter);
    for (name, server) in [
        ("buttress.breaker.state", "opened"),
        ("buttress.budget.balance", "used"),
    ] {
        let labels = [("name", "evicted"), ("server", server)];
        assert_eq!(value(&all, name, &labels).to_string(), "0", "{name}");
    }
    let unused = ("server".to_owned(), "unused".to_owned());
    for series in &all {
        assert!(!series.labels.contains(&unused), "{series:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_wired_to_the_layer_and_to_its_gauge() {
    let (snapshotter, _guard) = record();
    let config = RetryConfig::new().max_attempts(9);
    let retry = RetryLayer::new("wired", config, by_clone()).unwrap();
    let inner: Inner = Inner::new(|_| bad());
    let result = retry.layer(inner.clone()).oneshot(()).await;
    assert_eq!(result, Err(Error::Inner("bad")), "the real result");
    assert_eq!(inner.calls(), 3, "two tokens at first");
    let all = series(&snapshotter);
    let count = |name, labels: &[_]| value(&all, name, labels).to_string();
    let wired = ("name", "wired");
    assert_eq!(count("buttress.budget.balance", &[wired]), "0");
    assert_eq!(count("buttress.budget.exhausted_total", &[wired]), "1");
    assert_eq!(count("buttress.retries_total", &[wired]), "2");
    assert_eq!(count("buttress.retry.wait_seconds", &[wired]), "2");
    let reason = ("reason", "budget_exhausted");
    assert_eq!(count("buttress.retry.stopped_total", &[wired, reason]), "1");
}

#[tokio::test(start_paused = true)]
async fn observed_calls_are_recorded_with_their_outcome() {
    let (snapshotter, _guard) = record();
    let observe = ObserveLayer::new(Observed::new("calls"), ErrorIsTransient);
    let inner: Inner = Inner::new(|call| match call {
        0 => Step::After(250 * MS, Ok("late")),
        1 => bad(),
        _ => Step::Hang,
    });
    let service = observe.layer(inner);
    service.clone().oneshot(()).await.unwrap();
    service.clone().oneshot(()).await.unwrap_err();
    {
        let mut left = Box::pin(service.oneshot(()));
        assert!(poll(left.as_mut()).is_pending());
    }
    let all = series(&snapshotter);
    for (outcome, count) in [("success", 1.0), ("transient", 1.0), ("abandoned", 1.0)] {
        let labels = [("name", "calls"), ("outcome", outcome)];
        let recorded = value(&all, "buttress.call.duration_seconds", &labels);
        assert!((recorded - count).abs() < 1e-9, "{outcome}");
    }
    let durations = all.iter().flat_map(|series| match &series.value {
        DebugValue::Histogram(values) => values.clone(),
        _ => Vec::new(),
    });
    let longest = durations.map(|seconds| seconds.0).fold(0.0, f64::max);
    assert!((longest - 0.25).abs() < 1e-9, "in seconds");
}

// ── logs ──

#[tokio::test(start_paused = true)]
async fn transitions_are_logged_as_warnings_and_the_rest_for_debugging() {
    let log = Log::install();
    let breaker = breaker("logged", three_in_a_row());
    settle(&breaker, 3, Outcome::TRANSIENT);
    let [(level, line)] = &log.take()[..] else {
        panic!("one line per transition")
    };
    assert_eq!(*level, tracing::Level::WARN);
    for part in [
        "message=circuit breaker `logged` is now open ",
        "from=\"closed\"",
        "cause=\"consecutive_failures\"",
        "sequence=1",
    ] {
        assert!(line.contains(part), "{line} lacks {part}");
    }
    breaker.try_acquire().unwrap_err();
    let [(level, line)] = &log.take()[..] else {
        panic!("one line per rejection")
    };
    assert_eq!(*level, tracing::Level::DEBUG);
    assert!(
        line.contains("message=circuit breaker `logged` is open, next probe in 2s "),
        "{line}"
    );
    assert!(line.contains("reason=\"circuit_open\""), "{line}");
    let retry = RetryLayer::new("logged", RetryConfig::new(), by_clone()).unwrap();
    let inner: Inner = Inner::new(|call| if call == 0 { bad() } else { good() });
    let limit = TimeoutLayer::new("logged", SECOND);
    retry.layer(limit.layer(inner)).oneshot(()).await.unwrap();
    let lines = log.take();
    assert!(!lines.is_empty());
    for (level, line) in lines {
        assert_eq!(level, tracing::Level::DEBUG, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn neither_a_key_nor_a_path_or_query_is_logged_or_recorded() {
    use buttress::http::{Replay, handle_rejections};
    use buttress::idempotency::IdempotencyKeyLayer;

    let log = Log::install();
    let (snapshotter, _recording) = record();
    let keyed = Breaker::keyed(
        "discreet",
        three_in_a_row(),
        KeyedConfig::default(),
        buttress::http::ByAuthority,
    );
    let layers = tower::ServiceBuilder::new()
        .layer(ObserveLayer::new(
            Observed::new("discreet"),
            buttress::http::ByStatus::new(),
        ))
        .layer(IdempotencyKeyLayer::new())
        .layer(
            RetryLayer::new("discreet", RetryConfig::new(), Replay::new())
                .unwrap()
                .classify(buttress::http::ByStatus::new()),
        )
        .layer(BreakerLayer::new(
            keyed.unwrap(),
            buttress::http::ByStatus::new(),
        ))
        .into_inner();
    let service = handle_rejections(layers).layer(tower::service_fn(
        async |_: http::Request<String>| -> Result<http::Response<String>, std::convert::Infallible> {
            let mut response = http::Response::new(String::new());
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            Ok(response)
        },
    ));
    for method in ["GET", "POST"] {
        for _ in 0..5 {
            let mut request = http::Request::new(String::new());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = "http://u:p@host/secret-path?secret-query".parse().unwrap();
            let call = service.clone().oneshot(request);
            CallOptions::new()
                .idempotency_key("secret-key")
                .scope(call)
                .await
                .unwrap();
        }
    }
    let reported = format!("{:?} {:?}", log.take(), series(&snapshotter));
    assert!(reported.contains("host"), "the authority may be logged");
    for secret in ["secret", "u:p"] {
        assert!(!reported.contains(secret), "{secret} is in {reported}");
    }
}

/// A recorder that gets its gauges and counters from a closure.
struct Delegate(Box<Registers>);

type Registers = dyn Fn(&metrics::Key) -> (metrics::Gauge, metrics::Counter);

impl metrics::Recorder for Delegate {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &Metadata<'_>) -> metrics::Counter {
        self.0(key).1
    }
    fn register_gauge(&self, key: &metrics::Key, _: &Metadata<'_>) -> metrics::Gauge {
        self.0(key).0
    }
    fn register_histogram(&self, _: &metrics::Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_series_that_the_exporter_has_deleted_comes_back() {
    type Names = Arc<Mutex<BTreeSet<String>>>;
    let exported = Names::default();
    let sink = Arc::clone(&exported);
    let recorder = Delegate(Box::new(move |key| {
        sink.lock().unwrap().insert(key.name().to_owned());
        (metrics::Gauge::noop(), metrics::Counter::noop())
    }));
    let _guard = metrics::set_default_local_recorder(&recorder);
    let breaker = breaker("deleted", three_in_a_row());
    breaker.isolate();
    for _ in 0..2 {
        exported.lock().unwrap().clear();
        breaker.try_acquire().unwrap_err();
        refresh();
        let exported = exported.lock().unwrap();
        for name in ["buttress.rejections_total", "buttress.breaker.state"] {
            assert!(exported.contains(name), "{name} in {exported:?}");
        }
    }
}

#[test]
fn a_gauge_that_is_slow_to_set_shows_the_newest_state() {
    use metrics::GaugeFn;

    /// Disables the breaker before its first value has arrived.
    struct Slow(Breaker, Mutex<Vec<f64>>);
    impl GaugeFn for Slow {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}
        fn set(&self, value: f64) {
            if value.to_string() == "4" && self.1.lock().unwrap().is_empty() {
                self.0.disable();
            }
            self.1.lock().unwrap().push(value);
        }
    }

    let breaker = breaker("slow-gauge", three_in_a_row());
    let slow = Arc::new(Slow(breaker.clone(), Mutex::new(Vec::new())));
    let gauge = Arc::clone(&slow);
    let recorder = Delegate(Box::new(move |_| {
        (
            metrics::Gauge::from_arc(Arc::clone(&gauge)),
            metrics::Counter::noop(),
        )
    }));
    metrics::with_local_recorder(&recorder, || breaker.isolate());
    assert_eq!(breaker.state(), BreakerState::Disabled);
    let last = slow.1.lock().unwrap().last().copied();
    assert_eq!(last.map(|level| level.to_string()).as_deref(), Some("5"));
}

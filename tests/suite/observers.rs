//! Which observers receive events, and for how long; handles of one name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use buttress::breaker::{Breaker, BreakerConfig, BreakerState};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::clock::Now;
use buttress::event::Subscription;
use buttress::event::{Event, subscribe};
use buttress::gate::{KeyedConfig, by_str};
use buttress::http::{ClientConfig, ServerConfig, client, server};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::{Error, Outcome};
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{Inner, SECOND, bad, breaker, settle, three_in_a_row};
use crate::log::Log;

/// A list that is written by an observer.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Writes where each event comes from.
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let notes = self.clone();
        move |event| notes.add(format!("{:?}", event.source()))
    }
}

// ── all handles ──

#[test]
fn a_subscription_ends_when_it_is_dropped_on_every_thread() {
    let seen = Arc::new(AtomicUsize::new(0));
    let sink = Arc::clone(&seen);
    let subscription = subscribe(move |event: &Event<'_>| {
        if &**event.source().name() == "ends" {
            sink.fetch_add(1, Ordering::Relaxed);
        }
    });
    let breaker = breaker("ends", three_in_a_row());
    let built = seen.load(Ordering::Relaxed);
    let (to_thread, from_here) = std::sync::mpsc::channel::<()>();
    let (to_here, from_thread) = std::sync::mpsc::channel::<()>();
    let other = breaker.clone();
    let thread = std::thread::spawn(move || {
        other.isolate();
        to_here.send(()).unwrap();
        from_here.recv().unwrap();
        other.release();
    });
    from_thread.recv().unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), built + 1);
    drop(subscription);
    // Events of other tests may be on their way to it.
    let patience = std::time::Instant::now() + 10 * SECOND;
    while Arc::strong_count(&seen) > 1 {
        assert!(std::time::Instant::now() < patience, "it is not dropped");
        std::thread::yield_now();
    }
    to_thread.send(()).unwrap();
    thread.join().unwrap();
    breaker.isolate();
    assert_eq!(seen.load(Ordering::Relaxed), built + 1);
}

#[test]
fn an_observer_that_panics_fails_no_call_and_hides_the_event_from_no_observer() {
    let panics = |event: &Event<'_>| {
        let name = &**event.source().name();
        assert!(name != "contained", "scripted panic");
    };
    let notes = Notes::default();
    let breaker = breaker("contained", three_in_a_row());
    let first = subscribe(panics);
    let second = subscribe(notes.observer());
    breaker.observe_with(panics);
    breaker.observe_with(notes.observer());
    settle(&breaker, 3, Outcome::TRANSIENT);
    drop((first, second));
    assert_eq!(breaker.state(), BreakerState::Open);
    let own = notes
        .take()
        .into_iter()
        .filter(|note| note.contains("`contained`"));
    assert_eq!(own.count(), 2);
    // While another panic unwinds, too.
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let budget = RetryBudget::new("contained", BudgetConfig::new()).unwrap();
        budget.observe_with(panics);
        let _refunded = budget.try_withdraw();
        panic!("scripted panic");
    }));
    assert!(unwound.is_err());
}

#[test]
fn an_observer_may_subscribe_unsubscribe_emit_and_own_a_subscription() {
    // At the end it holds a subscription, which is dropped with its owner.
    let slot: Arc<Mutex<Option<Subscription>>> = Arc::default();
    let notes = Notes::default();
    let observer = notes.observer();
    let emits = breaker("emits", three_in_a_row());
    let outer = subscribe(move |event: &Event<'_>| {
        observer(event);
        if &**event.source().name() == "subscribes" {
            let had = slot.lock().unwrap().take();
            if had.is_none() {
                *slot.lock().unwrap() = Some(subscribe(|_: &Event<'_>| {}));
            }
            drop(had);
            emits.isolate();
            emits.release();
        }
    });
    let subscribes = breaker("subscribes", three_in_a_row());
    for _ in 0..3 {
        subscribes.isolate();
        subscribes.release();
    }
    drop(outer);
    let notes = notes.take();
    let count = |name: &str| notes.iter().filter(|note| note.contains(name)).count();
    // One event of its creation and six transitions; each causes two transitions of the other breaker.
    assert_eq!((count("`subscribes`"), count("`emits`")), (7, 14));
}

#[test]
fn an_event_at_the_end_of_a_thread_is_received() {
    use std::cell::RefCell;

    struct Emits(Breaker);
    impl Drop for Emits {
        fn drop(&mut self) {
            self.0.isolate();
        }
    }
    thread_local! {
        static HELD: RefCell<Option<Emits>> = const { RefCell::new(None) };
    }
    let notes = Notes::default();
    let subscription = subscribe(notes.observer());
    // A thread destroys its thread-locals in the reverse order of their first use: `HELD` after those that an event uses.
    let thread = std::thread::spawn(|| {
        HELD.set(None);
        let breaker = breaker("thread-end", three_in_a_row());
        HELD.set(Some(Emits(breaker)));
    });
    thread.join().unwrap();
    drop(subscription);
    let own = |note: &String| note == "breaker `thread-end`";
    assert_eq!(
        notes.take().into_iter().filter(own).count(),
        2,
        "created and isolated"
    );
}

// ── one handle ──

#[tokio::test(start_paused = true)]
async fn an_observer_of_one_handle_receives_its_events_and_no_others() {
    let notes = Notes::default();
    let (own, other) = (
        breaker("own", three_in_a_row()),
        breaker("other", three_in_a_row()),
    );
    own.clone().observe_with(notes.observer());
    own.isolate();
    other.isolate();
    assert_eq!(notes.take(), ["breaker `own`"]);

    let keyed = Breaker::keyed(
        "keyed-own",
        three_in_a_row(),
        KeyedConfig::default(),
        by_str(|key: &String| key),
    )
    .unwrap();
    keyed.observe_with(notes.observer());
    let entry = keyed.get(&"a".to_owned(), &Now::unread());
    notes.take();
    settle(&entry, 3, Outcome::TRANSIENT);
    assert_eq!(
        notes.take(),
        ["breaker `keyed-own/a`", "breaker `keyed-own`"]
    );

    let budget = RetryBudget::new("own", BudgetConfig::new()).unwrap();
    budget.observe_with(notes.observer());
    drop(budget.try_withdraw());
    assert_eq!(notes.take(), ["budget `own`", "budget `own`"]);

    let retry = RetryLayer::new("own", RetryConfig::new(), by_clone()).unwrap();
    retry.observe_with(notes.observer());
    // A layer that is changed afterwards has the same observers.
    let retry = retry.without_budget();
    let inner: Inner = Inner::new(|_| bad());
    retry.layer(inner).oneshot(()).await.unwrap_err();
    assert_eq!(notes.take(), ["retry `own`"; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_of_a_stack_receives_the_events_of_all_its_parts() {
    let notes = Notes::default();
    let stack = client("stack-own", ClientConfig::default()).unwrap();
    stack.observe_with(notes.observer());
    let fails = service_fn(async |_: Request<String>| {
        let mut response = Response::new(String::new());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        Ok::<_, std::io::Error>(response)
    });
    let request = Request::get("http://host/").body(String::new()).unwrap();
    stack.layer(fails).oneshot(request).await.unwrap();
    let notes = notes.take();
    for part in [
        "observe `stack-own.call`",
        "observe `stack-own.attempt`",
        "retry `stack-own`",
        "budget `stack-own/http://host`",
        "breaker `stack-own/http://host`",
    ] {
        assert!(notes.iter().any(|note| note == part), "{part} in {notes:?}");
    }
}

// ── names ──

/// The warnings about this name, each with the settings of both handles.
fn warnings(name: &'static str) -> (Notes, Subscription) {
    let notes = Notes::default();
    let sink = notes.clone();
    let subscription = subscribe(move |event: &Event<'_>| {
        if let Event::NameInUse {
            source,
            existing,
            new,
            ..
        } = event
        {
            if &**source.name() == name {
                let here = |file: &str| file.replace('\\', "/").contains("tests/suite/");
                assert!(here(existing.location.file()) && here(new.location.file()));
                let layer = source.layer();
                sink.add(format!(
                    "{layer}: {:?} / {:?}",
                    existing.settings, new.settings
                ));
            }
        }
    });
    (notes, subscription)
}

#[test]
fn two_live_handles_of_one_kind_and_name_are_reported_once() {
    let log = Log::install();
    let (warnings, _subscription) = warnings("twins");
    let config = three_in_a_row();
    let first = breaker("twins", config);
    let _clone = first.clone();
    let _other_kind = RetryBudget::new("twins", BudgetConfig::new()).unwrap();
    let _other_kind = RetryLayer::new("twins", RetryConfig::new(), by_clone()).unwrap();
    assert_eq!(
        warnings.take(),
        [""; 0],
        "clones and other kinds do not count"
    );
    let other = config.probes(2);
    let second = Breaker::new("twins", other).unwrap();
    assert_eq!(
        warnings.take(),
        [format!("breaker: {config:?} / {other:?}")]
    );
    let [(level, line)] = &log.take()[..] else {
        panic!("one line")
    };
    assert_eq!(*level, tracing::Level::WARN);
    assert!(
        line.contains("two live handles of the kind breaker are named `twins`"),
        "{line}"
    );
    let _third = breaker("twins", config);
    drop((first, second));
    let _fourth = breaker("twins", config);
    assert_eq!(warnings.take(), [""; 0], "once");
}

#[test]
fn a_dropped_handle_frees_its_name() {
    let (warnings, _subscription) = warnings("freed");
    for _ in 0..3 {
        let one = breaker("freed", three_in_a_row());
        // Its last clone frees it.
        let clone = one.clone();
        drop(one);
        drop(clone);
        let keyed = Breaker::keyed(
            "freed",
            BreakerConfig::default(),
            KeyedConfig::default(),
            by_str(|key: &String| key),
        );
        let entry = keyed.as_ref().unwrap().get(&"a".to_owned(), &Now::unread());
        drop(keyed);
        drop(entry);
    }
    assert_eq!(warnings.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn two_stacks_of_one_name_are_reported_once_and_so_is_one_that_is_built_for_each_request() {
    let (warnings, _subscription) = warnings("stacks");
    let config = ClientConfig::default();
    let serve =
        || service_fn(async |_: Request<String>| Ok::<_, Error<()>>(Response::new(String::new())));
    let first = client("stacks", config.clone()).unwrap();
    let _server = server("stacks", ServerConfig::default()).unwrap();
    // Two clients of one stack, which live longer than the layer, are one handle.
    let clients = [first.layer(serve()), first.clone().layer(serve())];
    drop(first);
    assert_eq!(warnings.take(), [""; 0]);
    let second = client("stacks", config.clone().observe(false)).unwrap();
    let [warning] = &warnings.take()[..] else {
        panic!("one warning for the stack, none for its parts")
    };
    assert!(warning.starts_with("client: ClientConfig"), "{warning}");
    assert!(warning.contains("observe: true") && warning.contains("observe: false"));
    drop((clients, second));
    for _ in 0..10 {
        let built_for_each = [(); 2].map(|()| client("stacks", config.clone()).unwrap());
        drop(built_for_each);
    }
    assert_eq!(warnings.take(), [""; 0], "once, also after it was free");
}

//! Sends events to observers: those of the features `metrics` and `tracing`, and those of the application.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
mod names;
#[cfg(feature = "metrics")]
mod series;
#[cfg(feature = "tracing")]
mod tracing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::event::{Event, Observe, Source};

/// The observers that come with features.
const BUILT_IN: &[&dyn Observe] = &[
    #[cfg(feature = "metrics")]
    &metrics::Metrics,
    #[cfg(feature = "tracing")]
    &tracing::Tracing,
];

/// A list is never changed, only replaced, so that no lock is held while observers are called.
static SUBSCRIBERS: RwLock<Option<Arc<[Subscriber]>>> = RwLock::new(None);
/// Whether there is a subscriber: most processes have none.
static IS_SUBSCRIBED: AtomicBool = AtomicBool::new(false);

#[derive(Clone)]
struct Subscriber {
    id: u64,
    observer: Arc<dyn Observe>,
}

/// Sends every event in the process to this observer, until the subscription is dropped.
///
/// An event allocates nothing on its way. To observe one handle only, use its `observe_with`.
///
/// ```
/// use buttress::event::{Event, subscribe};
///
/// let subscription = subscribe(|event: &Event<'_>| {
///     if let Event::BreakerTransition { source, transition, .. } = event {
///         println!("{source:?}: {:?} because of {:?}", transition.to, transition.cause);
///     }
/// });
/// # drop(subscription);
/// ```
#[must_use = "the observer is removed when the subscription is dropped"]
pub fn subscribe(observer: impl Observe + 'static) -> Subscription {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let observer: Arc<dyn Observe> = Arc::new(observer);
    replace_subscribers(|all| {
        let new = Subscriber { id, observer };
        all.iter().cloned().chain([new]).collect()
    });
    Subscription { id }
}

/// Keeps an observer subscribed. Dropping it removes the observer, which is dropped after the events that are on their way
/// to it.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let others = |one: &&Subscriber| one.id != self.id;
        replace_subscribers(|all| all.iter().filter(others).cloned().collect());
    }
}

fn replace_subscribers(change: impl FnOnce(&[Subscriber]) -> Arc<[Subscriber]>) {
    let mut subscribers = SUBSCRIBERS.write().unwrap_or_else(PoisonError::into_inner);
    let new = change(subscribers.as_deref().unwrap_or_default());
    IS_SUBSCRIBED.store(!new.is_empty(), Ordering::Release);
    let gone = subscribers.replace(new);
    // First the lock: an observer may own a subscription or something that emits.
    drop(subscribers);
    drop(gone);
}

/// Sends an event to all observers. Never called under a lock.
pub(crate) fn emit(event: &Event<'_>) {
    contain(|| {
        for observer in BUILT_IN {
            observer.on_event(event);
        }
    });
    event
        .source()
        .observers()
        .for_each(|observer| contain(|| observer.on_event(event)));
    if IS_SUBSCRIBED.load(Ordering::Acquire) {
        let subscribers = SUBSCRIBERS
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for one in subscribers.iter().flat_map(|all| all.iter()) {
            contain(|| one.observer.on_event(event));
        }
        contain(|| drop(subscribers));
    }
}

/// A panic of an observer must neither fail the call that is observed nor hide the event from other observers.
fn contain(observe: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(observe)) {
        // Dropping it could panic again.
        std::mem::forget(payload);
    }
}

/// A handle whose gauges show more than its last event: the balance of a budget that successes fill, the state of a breaker
/// that was built before the recorder was installed.
pub(crate) trait Refresh: Send + Sync {
    /// Emits the event that carries the present value.
    fn refresh(&self);
}

/// Emits the counts of a keyed breaker again.
impl Refresh for Source {
    fn refresh(&self) {
        emit(&Event::Circuits {
            source: self,
            counts: self.circuits(),
        });
    }
}

static REFRESHABLE: Mutex<Vec<Weak<dyn Refresh>>> = Mutex::new(Vec::new());

/// Registers a handle for `refresh`, for as long as it lives.
pub(crate) fn register_refresh(handle: Weak<dyn Refresh>) {
    let mut fresh = REFRESHABLE.lock().unwrap_or_else(PoisonError::into_inner);
    // Dropped handles are removed whenever the list would grow. It is never longer than twice the live handles.
    if fresh.len() == fresh.capacity() {
        fresh.retain(|handle| handle.strong_count() > 0);
    }
    fresh.push(handle);
}

/// Sends the present value of every gauge to all observers: the state of every breaker and the balance of every retry
/// budget. Call it once after a recorder is installed, and before metrics are collected: successes fill a budget without an
/// event.
pub fn refresh() {
    let fresh = REFRESHABLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    for handle in fresh.iter().filter_map(Weak::upgrade) {
        handle.refresh();
    }
}

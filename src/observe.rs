//! Who is told of events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::event::Event;

/// Is told what happens. Called after every lock is released, on the task it happened in: it must be quick, must not block
/// and must not panic, for a call may be unwinding already.
pub trait Observe: Send + Sync {
    /// This happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observe for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

type Observers = Vec<(u64, Arc<dyn Observe>)>;
static OBSERVERS: RwLock<(u64, Observers)> = RwLock::new((0, Vec::new()));
static OBSERVED: AtomicBool = AtomicBool::new(false);

/// From now on this observer is told of every event in the process, until the subscription is dropped.
///
/// ```
/// use buttress::{Event, subscribe};
///
/// let subscription = subscribe(|event: &Event<'_>| {
///     if let Event::BreakerMoved { source, moved, .. } = event {
///         println!("{source:?}: {:?} because of {:?}", moved.to, moved.cause);
///     }
/// });
/// # drop(subscription);
/// ```
#[must_use = "the observer is removed when the subscription is dropped"]
pub fn subscribe(observer: impl Observe + 'static) -> Subscription {
    let mut observers = OBSERVERS.write().unwrap_or_else(PoisonError::into_inner);
    observers.0 += 1;
    let id = observers.0;
    observers.1.push((id, Arc::new(observer)));
    OBSERVED.store(true, Ordering::Release);
    Subscription { id }
}

/// Keeps an observer subscribed; dropping it removes the observer.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut observers = OBSERVERS.write().unwrap_or_else(PoisonError::into_inner);
        let at = observers.1.iter().position(|(id, _)| *id == self.id);
        let gone = at.map(|at| observers.1.remove(at));
        OBSERVED.store(!observers.1.is_empty(), Ordering::Release);
        // Only then: what it owns may be a subscription too, or something that emits.
        drop(observers);
        drop(gone);
    }
}

/// Tells all observers. Never called under a lock.
pub(crate) fn emit(event: &Event<'_>) {
    for observer in crate::BUILT_IN_OBSERVERS {
        observer.on_event(event);
    }
    if OBSERVED.load(Ordering::Acquire) {
        // Taken out of the lock, so that an observer may subscribe or unsubscribe.
        let observers = OBSERVERS
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone();
        for (_, observer) in observers {
            observer.on_event(event);
        }
    }
}

/// A handle whose gauge shows more than its last event, such as the balance of a budget that successes fill.
pub(crate) trait Refresh: Send + Sync {
    /// Emits the event that carries the present value.
    fn refresh(&self);
}

static FRESH: Mutex<Vec<Weak<dyn Refresh>>> = Mutex::new(Vec::new());

/// From now on `refresh` reaches this handle, for as long as it lives.
pub(crate) fn keep_fresh(handle: Weak<dyn Refresh>) {
    let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
    // Forgets the dead whenever the list would grow, so that it is never longer than twice the living.
    if fresh.len() == fresh.capacity() {
        fresh.retain(|handle| handle.strong_count() > 0);
    }
    fresh.push(handle);
}

/// Tells all observers the present value of what changes without an event: the balance of every retry budget. To be called
/// before metrics are collected.
pub fn refresh() {
    let fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for handle in fresh.iter().filter_map(Weak::upgrade) {
        handle.refresh();
    }
}

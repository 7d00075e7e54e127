//! Who receives events.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use crate::event::Event;

/// Receives events. Called after every lock is released, on the task the event happened in: it must be quick and must not
/// block. A panic of an observer reaches the panic hook only and fails no call.
pub trait Observe: Send + Sync {
    /// Handles an event.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observe for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

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
        for observer in crate::BUILT_IN_OBSERVERS {
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

/// The observers of one handle. They are only ever added, so that an event reads them without a lock.
#[derive(Default)]
pub(crate) struct ObserverList(OnceLock<Box<Node>>);

struct Node {
    observer: Arc<dyn Observe>,
    next: ObserverList,
}

impl ObserverList {
    pub(crate) fn push(&self, observer: Arc<dyn Observe>) {
        let mut node = Box::new(Node {
            observer,
            next: Self::default(),
        });
        let mut end = self;
        while let Err(back) = end.0.set(node) {
            node = back;
            match end.0.get() {
                Some(taken) => end = &taken.next,
                None => return,
            }
        }
    }

    pub(crate) fn for_each(&self, mut visit: impl FnMut(&dyn Observe)) {
        let mut at = self;
        while let Some(node) = at.0.get() {
            visit(&*node.observer);
            at = &node.next;
        }
    }
}

/// A copy with the same observers, which later changes do not share.
impl Clone for ObserverList {
    fn clone(&self) -> Self {
        let copy = Self::default();
        let mut at = self;
        while let Some(node) = at.0.get() {
            copy.push(Arc::clone(&node.observer));
            at = &node.next;
        }
        copy
    }
}

impl fmt::Debug for ObserverList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserverList").finish_non_exhaustive()
    }
}

/// A handle whose gauges show more than its last event: the balance of a budget that successes fill, the state of a breaker
/// that was built before the recorder was installed.
pub(crate) trait Refresh: Send + Sync {
    /// Emits the event that carries the present value.
    fn refresh(&self);
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

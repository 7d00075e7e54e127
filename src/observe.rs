//! Who receives events.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::event::Event;

/// Receives events. Called after every lock is released, on the task the event happened in: it must be quick and must not
/// block. If it panics, the panic is reported by the panic hook and goes no further, so it fails no call.
pub trait Observe: Send + Sync {
    /// This happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observe for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// The subscriptions, and how often the list has changed.
static SUBSCRIBERS: Mutex<Vec<Subscriber>> = Mutex::new(Vec::new());
/// Changes with every subscription that begins or ends. The lowest bit says whether there is one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

struct Subscriber {
    id: u64,
    observer: Arc<dyn Observe>,
    /// What each thread calls. Only the subscription owns them, so ending it drops the observer.
    threads: Vec<Arc<PerThread>>,
}

/// One thread's own reference to an observer, so that threads do not contend for one reference count.
struct PerThread(Arc<dyn Observe>);

/// The subscribers as a thread last saw them.
struct Seen {
    generation: u64,
    observers: Rc<[Weak<PerThread>]>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::new(Seen { generation: 0, observers: Rc::new([]) });
}

/// Sends every event in the process to this observer, until the subscription is dropped.
///
/// An event takes no lock and allocates nothing. To observe one handle only, use its `observe_with`.
///
/// ```
/// use buttress::event::{Event, subscribe};
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
    let mut subscribers = lock_subscribers();
    let id = next_generation(true);
    subscribers.push(Subscriber {
        id,
        observer: Arc::new(observer),
        threads: Vec::new(),
    });
    Subscription { id }
}

/// Keeps an observer subscribed; dropping it removes and drops the observer, or lets a call of it that is running end first.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = lock_subscribers();
        let at = subscribers.iter().position(|one| one.id == self.id);
        let gone = at.map(|at| subscribers.remove(at));
        next_generation(!subscribers.is_empty());
        // Only then: what it owns may be a subscription too, or something that emits.
        drop(subscribers);
        drop(gone);
    }
}

fn lock_subscribers() -> std::sync::MutexGuard<'static, Vec<Subscriber>> {
    SUBSCRIBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called under the lock of the subscribers.
fn next_generation(any: bool) -> u64 {
    let next = (GENERATION.load(Ordering::Relaxed) | 1) + 1 + u64::from(any);
    GENERATION.store(next, Ordering::Release);
    next
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
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & 1 == 1 {
        // Outside of the borrow, so that an observer may subscribe, unsubscribe or emit.
        let seen = SEEN.try_with(|seen| seen.borrow_mut().at(generation));
        if let Ok(observers) = seen {
            for observer in observers.iter().filter_map(Weak::upgrade) {
                contain(|| observer.0.on_event(event));
            }
        } else {
            emit_at_thread_end(event);
        }
    }
}

/// The list of this thread is destroyed already, but a value dropped after it may still emit.
#[cold]
fn emit_at_thread_end(event: &Event<'_>) {
    let subscribers = lock_subscribers();
    let observers: Vec<_> = subscribers
        .iter()
        .map(|one| Arc::clone(&one.observer))
        .collect();
    drop(subscribers);
    for observer in observers {
        contain(|| observer.on_event(event));
    }
}

/// A panic of an observer must neither fail the call that is observed nor keep the event from other observers.
fn contain(observe: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(observe)) {
        // Dropping it could panic again.
        std::mem::forget(payload);
    }
}

impl Seen {
    fn at(&mut self, generation: u64) -> Rc<[Weak<PerThread>]> {
        if self.generation != generation {
            self.look_again();
        }
        Rc::clone(&self.observers)
    }

    #[cold]
    fn look_again(&mut self) {
        let mut subscribers = lock_subscribers();
        self.generation = GENERATION.load(Ordering::Relaxed);
        // Gone before new ones are made, so that what this thread no longer uses is removed.
        self.observers = Rc::new([]);
        self.observers = subscribers
            .iter_mut()
            .map(|one| {
                one.threads.retain(|of| Arc::weak_count(of) > 0);
                let own = Arc::new(PerThread(Arc::clone(&one.observer)));
                let weak = Arc::downgrade(&own);
                one.threads.push(own);
                weak
            })
            .collect();
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

    pub(crate) fn for_each(&self, mut act: impl FnMut(&dyn Observe)) {
        let mut at = self;
        while let Some(node) = at.0.get() {
            act(&*node.observer);
            at = &node.next;
        }
    }
}

/// The same observers, and from then on its own.
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

/// Sends the present value of every gauge to all observers: the state of every breaker and the balance of every retry
/// budget. Call it once after a recorder is installed, and before metrics are collected: successes fill a budget without an
/// event.
pub fn refresh() {
    let fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for handle in fresh.iter().filter_map(Weak::upgrade) {
        handle.refresh();
    }
}

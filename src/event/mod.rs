//! The events of all layers, as one enum.
//!
//! Events are reported after every lock is released, on the task they happened in. The observers of the features
//! `metrics` and `tracing` see every event; your own see them after [`subscribe`].

mod circuits;
mod reason;

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(crate) use self::circuits::CircuitCounts;
pub use self::reason::{OperationStep, RetryStop};
use crate::error::Rejected;
pub(crate) use crate::observe::{Refresh, emit, register_refresh};
pub use crate::observe::{Subscription, subscribe};
pub use crate::operation_id::OperationId;
use crate::outcome::Outcome;
pub(crate) use crate::transition::{BreakerState, Cause, StateTransition};

/// Something that happened in a layer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A call was rejected, or ended by a time limit.
    Rejected {
        /// The layer it happened in.
        source: &'a Source,
        /// The error that the caller gets.
        rejected: &'a Rejected,
    },
    /// A dry run admitted a call that would have been rejected.
    WouldReject {
        /// The layer it happened in.
        source: &'a Source,
        /// The error that the caller would have got.
        rejected: &'a Rejected,
    },
    /// A circuit breaker changed its state.
    BreakerTransition {
        /// The breaker.
        source: &'a Source,
        /// The number of this transition. Events may arrive out of order: ignore an older one.
        sequence: u64,
        /// The transition.
        transition: StateTransition,
        /// Whether the breaker is in a dry run.
        dry_run: bool,
    },
    /// The state of a circuit breaker, reported when it is built and by [`refresh`](crate::telemetry::refresh). For a keyed breaker, [`refresh`](crate::telemetry::refresh) reports
    /// [`Circuits`](Self::Circuits) instead.
    BreakerState {
        /// The breaker.
        source: &'a Source,
        /// The number of its last transition; 0 if there was none.
        sequence: u64,
        /// The state since then.
        state: BreakerState,
    },
    /// The number of circuits of a keyed breaker changed in some state, or [`refresh`](crate::telemetry::refresh) was called.
    Circuits {
        /// The keyed breaker, without a key.
        source: &'a Source,
        /// How many of its circuits are in which state.
        counts: &'a CircuitCounts,
    },
    /// Another attempt is scheduled.
    Retry {
        /// The retry layer.
        source: &'a Source,
        /// The number of the attempt to come; the first one was 1.
        attempt: u32,
        /// The time until it starts.
        wait: Duration,
        /// The outcome of the attempt before.
        outcome: Outcome,
    },
    /// A failed call is not retried, although its outcome alone would have allowed it.
    RetryStopped {
        /// The retry layer.
        source: &'a Source,
        /// How many attempts were made.
        attempts: u32,
        /// Why there is no further one.
        why: RetryStop,
    },
    /// A retry budget changed by a withdrawal or a refund, or [`refresh`](crate::telemetry::refresh) was called.
    Budget {
        /// The budget.
        source: &'a Source,
        /// The tokens that a withdrawal would find now.
        balance: f64,
    },
    /// A retry budget had nothing left for a retry.
    BudgetExhausted {
        /// The budget.
        source: &'a Source,
        /// The tokens that a withdrawal would find now.
        balance: f64,
    },
    /// An observed call ended.
    Finished {
        /// The observing layer.
        source: &'a Source,
        /// Its outcome; `None` if it was abandoned.
        outcome: Option<Outcome>,
        /// How long it took.
        took: Duration,
    },
    /// An operation with an idempotency key took a step.
    Operation {
        /// The idempotency layer.
        source: &'a Source,
        /// The step.
        step: OperationStep,
        /// Which operation.
        operation: OperationId,
        /// Which run of it takes the step; `None` for a replay.
        run: Option<u32>,
    },
    /// The operations of an idempotency layer that are in progress in this process. Sent by
    /// [`refresh`](crate::telemetry::refresh).
    InProgress {
        /// The idempotency layer.
        source: &'a Source,
        /// How many operations are in progress.
        running: usize,
        /// How many requests wait for the result of another one.
        waiting: usize,
        /// How long ago the oldest one began; zero if there is none.
        oldest: Duration,
    },
    /// An operation of an idempotency store failed.
    StoreFailed {
        /// The idempotency layer.
        source: &'a Source,
        /// Why.
        error: &'a (dyn StdError + 'static),
    },
    /// A key was evicted to make room or because it was idle.
    KeyEvicted {
        /// The policy of that key.
        source: &'a Source,
    },
    /// No key could be evicted, and a new one shares the overflow policy.
    KeyOverflow {
        /// The overflow policy.
        source: &'a Source,
        /// The maximum number of keys.
        max_keys: usize,
    },
    /// Two live handles of one kind have the same name, so metrics and logs mix them up. Reported once per kind and name.
    ///
    /// Build a handle once and clone it: clones share their state, and a handle that is built for each request starts
    /// without counts. Two handles for two purposes need two names.
    NameInUse {
        /// The new handle. Its [`layer`](Source::layer) is the kind: `"breaker"`, `"budget"`, `"retry"`, `"client"`,
        /// `"server"`.
        source: &'a Source,
        /// The handle that had the name already.
        existing: BuiltAt<'a>,
        /// The new handle.
        new: BuiltAt<'a>,
    },
}

impl Event<'_> {
    /// The layer it happened in.
    pub const fn source(&self) -> &Source {
        match self {
            Self::Rejected { source, .. }
            | Self::WouldReject { source, .. }
            | Self::BreakerTransition { source, .. }
            | Self::Retry { source, .. }
            | Self::RetryStopped { source, .. }
            | Self::Budget { source, .. }
            | Self::BudgetExhausted { source, .. }
            | Self::Finished { source, .. }
            | Self::Operation { source, .. }
            | Self::InProgress { source, .. }
            | Self::StoreFailed { source, .. }
            | Self::BreakerState { source, .. }
            | Self::Circuits { source, .. }
            | Self::KeyEvicted { source }
            | Self::KeyOverflow { source, .. }
            | Self::NameInUse { source, .. } => source,
        }
    }
}

/// Where a handle was built, and with which settings.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BuiltAt<'a> {
    /// The line that built it.
    pub location: &'static Location<'static>,
    /// The settings it was built with.
    pub settings: &'a (dyn fmt::Debug + Send + Sync),
}

/// Where an event comes from: the kind of layer, the name of the handle, and the key if the handle has an entry per key.
pub struct Source {
    layer: &'static str,
    name: Arc<str>,
    origin: Origin,
}

enum Origin {
    Handle(Box<Handle>),
    /// The entry of one key.
    Key {
        parent: Arc<Source>,
        cache: OnceLock<Cached>,
    },
}

/// The part of a source that all keys of a handle share.
#[derive(Default)]
struct Handle {
    scope: Option<&'static str>,
    cache: OnceLock<Cached>,
    observers: ObserverList,
    circuits: CircuitCounts,
    /// How many keys have a label of their own.
    labeled_servers: AtomicUsize,
    held: OnceLock<Held>,
}

/// A value that is dropped with the source.
pub(crate) type Held = Arc<dyn Any + Send + Sync>;

/// The cache of the metrics observer for a source.
type Cached = Box<dyn Any + Send + Sync>;

impl Source {
    /// A source of events: the kind of layer, such as `"breaker"`, and the name its user gave it.
    pub fn new(layer: &'static str, name: impl Into<Arc<str>>) -> Self {
        Self::of_handle(layer, name.into(), Handle::default())
    }

    /// The entry of one key of the handle `parent`. Its events have the name `parent/key`; metrics have the label
    /// `name="parent"`, so that the number of series does not depend on the number of keys.
    #[must_use]
    pub fn of_key(parent: &Arc<Self>, key: &str) -> Self {
        Self {
            layer: parent.layer,
            name: format!("{}/{key}", parent.name).into(),
            origin: Origin::Key {
                parent: Arc::clone(parent),
                cache: OnceLock::new(),
            },
        }
    }

    /// The source of observed calls: `scope` is `"call"` or `"attempt"`.
    pub(crate) fn scoped(
        layer: &'static str,
        name: impl Into<Arc<str>>,
        scope: &'static str,
    ) -> Self {
        let scope = Some(scope);
        Self::of_handle(
            layer,
            name.into(),
            Handle {
                scope,
                ..Handle::default()
            },
        )
    }

    fn of_handle(layer: &'static str, name: Arc<str>, handle: Handle) -> Self {
        Self {
            layer,
            name,
            origin: Origin::Handle(Box::new(handle)),
        }
    }

    /// The same source for another copy of the handle, with the observers that are attached now.
    pub(crate) fn fork(&self) -> Self {
        let handle = self.handle();
        let held = OnceLock::new();
        if let Some(guard) = handle.held.get() {
            let _ = held.set(Arc::clone(guard));
        }
        let fork = Handle {
            scope: handle.scope,
            observers: handle.observers.clone(),
            held,
            ..Handle::default()
        };
        Self::of_handle(self.layer, Arc::clone(&self.name), fork)
    }

    /// The kind of layer: `"breaker"`, `"retry"`, `"budget"`, `"timeout"`, `"deadline"` …
    pub const fn layer(&self) -> &'static str {
        self.layer
    }

    /// The full name, as it appears in errors and logs: the name its user gave the handle, followed by `/` and the key if
    /// the handle has an entry per key.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name its user gave the handle, without the key. Metrics use it as the label `name`.
    pub fn handle_name(&self) -> &str {
        match &self.origin {
            Origin::Handle(handle) => handle
                .scope
                .and_then(|scope| self.name.strip_suffix(scope)?.strip_suffix('.'))
                .unwrap_or(&self.name),
            Origin::Key { parent, .. } => &parent.name,
        }
    }

    /// The key, if the handle has an entry per key: for the standard client stack the authority.
    pub fn key(&self) -> Option<&str> {
        match &self.origin {
            Origin::Handle(_) => None,
            Origin::Key { parent, .. } => self.name.get(parent.name.len() + 1..),
        }
    }

    /// `"call"` or `"attempt"`, if the event is about an observed call.
    pub fn scope(&self) -> Option<&'static str> {
        self.handle().scope
    }

    /// The source of the handle that has this key's entry.
    pub(crate) const fn parent(&self) -> Option<&Arc<Self>> {
        match &self.origin {
            Origin::Handle(_) => None,
            Origin::Key { parent, .. } => Some(parent),
        }
    }

    /// Attaches an observer that receives the events of this handle, for as long as the handle lives.
    pub(crate) fn observe_with(&self, observer: Arc<dyn Observe>) {
        self.handle().observers.push(observer);
    }

    pub(crate) fn observers(&self) -> &ObserverList {
        &self.handle().observers
    }

    /// How many circuits of a keyed breaker are in which state.
    pub(crate) fn circuits(&self) -> &CircuitCounts {
        &self.handle().circuits
    }

    /// Limits how many keys have a label of their own.
    pub(crate) fn label_servers(&self, max: usize) {
        self.handle().labeled_servers.store(max, Ordering::Relaxed);
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn labeled_servers(&self) -> usize {
        self.handle().labeled_servers.load(Ordering::Relaxed)
    }

    /// Holds a guard, such as that of a registered name, for as long as this source lives.
    pub(crate) fn hold(&self, guard: Held) {
        let _ = self.handle().held.set(guard);
    }

    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "the metrics observer caches its series here")
    )]
    pub(crate) const fn cache(&self) -> &OnceLock<Cached> {
        match &self.origin {
            Origin::Handle(handle) => &handle.cache,
            Origin::Key { cache, .. } => cache,
        }
    }

    fn handle(&self) -> &Handle {
        match &self.origin {
            Origin::Handle(handle) => handle,
            Origin::Key { parent, .. } => parent.handle(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.layer, self.name)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_its_handle_its_key_and_its_scope() {
        let shop = Arc::new(Source::new("breaker", "shop"));
        let host = Source::of_key(&shop, "https://a/b");
        assert_eq!(&**host.name(), "shop/https://a/b");
        assert_eq!(
            (host.handle_name(), host.key()),
            ("shop", Some("https://a/b"))
        );
        assert_eq!((shop.handle_name(), shop.key()), ("shop", None));
        let call = Source::scoped("observe", "shop.call", "call");
        assert_eq!((call.handle_name(), call.scope()), ("shop", Some("call")));
        let own = Source::scoped("observe", "my-call", "call");
        assert_eq!(own.handle_name(), "my-call");
        assert_eq!(own.fork().scope(), Some("call"));
    }
}

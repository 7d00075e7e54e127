//! Where an event comes from.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::event::{BreakerState, Event};
use crate::live_names::LiveName;
use crate::observe::{Observe, ObserverList, Refresh, emit};

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
    live_name: OnceLock<Arc<LiveName>>,
}

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
        let live_name = OnceLock::new();
        if let Some(live) = handle.live_name.get() {
            let _ = live_name.set(Arc::clone(live));
        }
        let fork = Handle {
            scope: handle.scope,
            observers: handle.observers.clone(),
            live_name,
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

    /// Keeps the name registered for as long as this source lives.
    pub(crate) fn hold(&self, name: Arc<LiveName>) {
        let _ = self.handle().live_name.set(name);
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

/// Emits the counts of a keyed breaker again.
impl Refresh for Source {
    fn refresh(&self) {
        emit(&Event::Circuits {
            source: self,
            counts: self.circuits(),
        });
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.layer, self.name)
    }
}

/// How many circuits of a keyed breaker are in which state. Reading it returns the counts of now, not of the event that
/// carries it.
#[derive(Debug, Default)]
pub struct CircuitCounts([AtomicI64; BreakerState::ALL.len()]);

impl CircuitCounts {
    /// How many circuits are in this state. An open circuit counts as open until the next call to it.
    pub fn get(&self, state: BreakerState) -> u64 {
        // A transition may be counted before the one that led to it.
        let count = self.0[state as usize].load(Ordering::Acquire);
        u64::try_from(count).unwrap_or(0)
    }

    pub(crate) fn add(&self, state: BreakerState) {
        self.0[state as usize].fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, state: BreakerState) {
        self.0[state as usize].fetch_sub(1, Ordering::AcqRel);
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

    #[test]
    fn a_transition_counted_late_never_shows_a_negative_count() {
        let counts = CircuitCounts::default();
        counts.remove(BreakerState::Open);
        assert_eq!(counts.get(BreakerState::Open), 0);
        counts.add(BreakerState::Open);
        counts.add(BreakerState::Open);
        assert_eq!(counts.get(BreakerState::Open), 1);
    }
}

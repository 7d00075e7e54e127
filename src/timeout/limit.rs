//! A time limit that can change at runtime.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::nanos;
use crate::event::Source;
use crate::sync::{AtomicU64, Ordering};

/// A limit and its event source, shared by a layer and all its services.
#[derive(Debug)]
pub(crate) struct Limit {
    source: Source,
    /// `u64::MAX` is none.
    nanos: AtomicU64,
}

impl Limit {
    pub(crate) fn new(
        layer: &'static str,
        name: impl Into<Arc<str>>,
        limit: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            source: Source::new(layer, name),
            nanos: AtomicU64::new(nanos(limit)),
        })
    }

    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// In nanoseconds; `u64::MAX` is none.
    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed)
    }

    /// The limit; `Duration::MAX` is none.
    pub(crate) fn get(&self) -> Duration {
        duration(self.nanos())
    }

    pub(crate) fn set(&self, limit: Duration) {
        self.nanos.store(nanos(limit), Ordering::Relaxed);
    }
}

/// The limit as a duration; `u64::MAX` is `Duration::MAX`.
pub(crate) const fn duration(nanos: u64) -> Duration {
    if nanos == u64::MAX {
        Duration::MAX
    } else {
        Duration::from_nanos(nanos)
    }
}

/// A limit in `Debug` output; `Duration::MAX` is none.
#[cfg(feature = "http")]
pub(crate) struct ShownLimit(pub(crate) Duration);

#[cfg(feature = "http")]
impl std::fmt::Debug for ShownLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Duration::MAX => f.write_str("none"),
            limit => limit.fmt(f),
        }
    }
}

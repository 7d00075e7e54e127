//! The series of each source: its labels, and the newest state in its gauge.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;
use metrics::{Gauge, Key, Label};

use super::names::{CALLS, REJECTED};
use crate::event::{BreakerState, Source};

pub(super) type Labels = [(&'static str, &'static str)];

/// The cached state of one source.
#[derive(Default)]
pub(super) struct Series {
    pub(super) server: Server,
    /// The keys of [`FREQUENT`].
    keys: [OnceLock<Key>; FREQUENT.len()],
    /// 0, or one more than: the number of the newest transition, and below it, in [`LEVEL_BITS`], the level it led to.
    pub(super) newest: AtomicU64,
    /// Whether the gauge of a labeled server was written, so that its eviction has something to reset.
    pub(super) is_shown: AtomicBool,
    /// The series of the keys with a label of their own.
    servers: Mutex<HashMap<Box<str>, Arc<Series>>>,
    /// The series of all other keys.
    other: OnceLock<Arc<Series>>,
}

/// The metrics that come with each call, by the value of their last label. Their keys are cached: a successful call
/// allocates nothing.
const FREQUENT: [(&str, &str); 6] = [
    (CALLS, "success"),
    (CALLS, "permanent"),
    (CALLS, "transient"),
    (CALLS, "neutral"),
    (REJECTED, "circuit_open"),
    (REJECTED, "attempt_timeout"),
];

/// The label `server` of a series.
#[derive(Default)]
pub(super) enum Server {
    #[default]
    None,
    Own(Box<str>),
    Other,
}

/// Finds the series of this source. All keys of a handle share its series, unless servers are labeled.
pub(super) fn with_series(source: &Source, record: impl FnOnce(&Series)) {
    let Some(parent) = source.parent() else {
        return record(of_handle(source));
    };
    let (max @ 1.., Some(key)) = (parent.labeled_servers(), source.key()) else {
        return record(of_handle(parent));
    };
    let cached = source
        .cache()
        .get_or_init(|| Box::new(of_handle(parent).of_server(key, max)));
    if let Some(series) = cached.downcast_ref::<Arc<Series>>() {
        record(series);
    }
}

fn of_handle(source: &Source) -> &Series {
    let cached = source.cache().get_or_init(|| Box::<Series>::default());
    cached.downcast_ref().expect("only this module writes it")
}

impl Series {
    /// The series of this server: its own, or those of all beyond `max`.
    fn of_server(&self, key: &str, max: usize) -> Arc<Self> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = servers.get(key) {
            return Arc::clone(known);
        }
        let new = |server| {
            Arc::new(Self {
                server,
                ..Self::default()
            })
        };
        if servers.len() >= max {
            return Arc::clone(self.other.get_or_init(|| new(Server::Other)));
        }
        let series = new(Server::Own(key.into()));
        servers.insert(key.into(), Arc::clone(&series));
        series
    }

    /// Sets the gauge unless a newer transition was shown. Transitions are emitted after the lock, and an older one may arrive
    /// later. The same one may be shown again: to another recorder, or to one that has dropped the series.
    pub(super) fn show(&self, gauge: &Gauge, sequence: u64, state: BreakerState) {
        let mut written = (sequence << LEVEL_BITS | u64::from(level(state))) + 1;
        if self.newest.fetch_max(written, Ordering::AcqRel) > written {
            return;
        }
        loop {
            let [level, ..] = (written - 1).to_le_bytes();
            gauge.set(f64::from(level & ((1 << LEVEL_BITS) - 1)));
            // The last write must be of the newest state.
            let newest = self.newest.load(Ordering::Acquire);
            if newest == written || newest == 0 {
                break;
            }
            written = newest;
        }
    }

    pub(super) fn key(&self, name: &'static str, source: &Source, labels: &Labels) -> Cow<'_, Key> {
        let make = || {
            let own = Label::new("name", source.handle_name().to_owned());
            let server = match &self.server {
                Server::None => None,
                Server::Own(server) => Some(Label::new("server", server.to_string())),
                Server::Other => Some(Label::from_static_parts("server", "other")),
            };
            let labels = labels
                .iter()
                .map(|(key, value)| Label::from_static_parts(key, value));
            let all: Vec<_> = [own].into_iter().chain(server).chain(labels).collect();
            Key::from_parts(name, all)
        };
        let value = labels.last().map_or("", |(_, value)| value);
        match FREQUENT
            .iter()
            .position(|&frequent| frequent == (name, value))
        {
            Some(slot) => Cow::Borrowed(self.keys[slot].get_or_init(make)),
            None => Cow::Owned(make()),
        }
    }
}

const LEVEL_BITS: u32 = 3;

fn level(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
        BreakerState::ForcedOpen => 3,
        BreakerState::Isolated => 4,
        BreakerState::Disabled => 5,
    }
}

//! The series of each source: its handles, its labels, and its gauges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram, Key, Label, Recorder};

use super::metrics::{METADATA, describe};
use super::names::{BALANCE, CIRCUITS, OLDEST, RUNNING, STATE, WAITING};
use crate::event::{BreakerState, CircuitCounts, OperationStep, Source};

/// What is kept for one source and one recorder. Each counter is registered when it is first needed.
#[derive(Default)]
pub(super) struct Handles {
    /// The address of the recorder the handles belong to.
    recorder: usize,
    pub(super) server: Server,
    /// Rejections by reason: they come in floods. See [`reason_slot`].
    pub(super) rejected: [OnceLock<Counter>; 6],
    pub(super) gauge: OnceLock<Gauge>,
    pub(super) circuits: [OnceLock<Gauge>; BreakerState::ALL.len()],
    pub(super) wait: OnceLock<Histogram>,
    pub(super) calls: [OnceLock<Histogram>; 3],
    /// By step.
    pub(super) operations: [OnceLock<Counter>; OperationStep::COUNT],
    /// Running, waiting, and the age of the oldest.
    pub(super) in_progress: [OnceLock<Gauge>; 3],
    /// 0, or one more than: the number of the newest move, and below it, in [`LEVEL_BITS`], the level it led to.
    pub(super) newest: AtomicU64,
    /// Those of the keys that have a label of their own.
    servers: Mutex<HashMap<Box<str>, Arc<Handles>>>,
    other: OnceLock<Arc<Handles>>,
}

/// The label `server` of a series.
#[derive(Default)]
pub(super) enum Server {
    #[default]
    None,
    Own(Box<str>),
    Other,
}

/// What is kept in the place of a key.
struct OfKey {
    recorder: usize,
    handles: Arc<Handles>,
}

/// Finds the handles of this source, or registers them. All keys of a handle share its handles, unless servers are labeled.
///
/// A process sees two recorders: none, and the one it installs. So there are two places, each written once and read without
/// a lock. A third recorder (a test's local one) works too, without being kept.
pub(super) fn with_handles(recorder: &dyn Recorder, source: &Source, act: impl FnOnce(&Handles)) {
    let Some(parent) = source.parent() else {
        return with_shared(recorder, source, act);
    };
    let (max @ 1.., Some(key)) = (parent.labeled_servers(), source.key()) else {
        return with_shared(recorder, parent, act);
    };
    let address = address(recorder);
    let kept = source
        .cache()
        .first()
        .and_then(OnceLock::get)
        .and_then(|kept| kept.downcast_ref::<OfKey>())
        .filter(|kept| kept.recorder == address);
    if let Some(kept) = kept {
        return act(&kept.handles);
    }
    with_shared(recorder, parent, |shared| {
        let handles = shared.of_server(key, max);
        act(&handles);
        if let Some(place) = source.cache().first() {
            let _ = place.set(Box::new(OfKey {
                recorder: address,
                handles,
            }));
        }
    });
}

fn with_shared(recorder: &dyn Recorder, source: &Source, act: impl FnOnce(&Handles)) {
    let address = address(recorder);
    for place in source.cache() {
        let kept = place.get_or_init(|| {
            describe(recorder);
            Box::new(Handles {
                recorder: address,
                ..Handles::default()
            })
        });
        match kept.downcast_ref::<Handles>() {
            Some(handles) if handles.recorder == address => return act(handles),
            _ => {}
        }
    }
    act(&Handles::default());
}

fn address(recorder: &dyn Recorder) -> usize {
    std::ptr::from_ref(recorder).cast::<()>().addr()
}

impl Handles {
    /// The handles of this server: its own, or those of all beyond `max`.
    fn of_server(&self, key: &str, max: usize) -> Arc<Self> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = servers.get(key) {
            return Arc::clone(known);
        }
        let new = |server| {
            Arc::new(Self {
                recorder: self.recorder,
                server,
                ..Self::default()
            })
        };
        if servers.len() >= max {
            return Arc::clone(self.other.get_or_init(|| new(Server::Other)));
        }
        let handles = new(Server::Own(key.into()));
        servers.insert(key.into(), Arc::clone(&handles));
        handles
    }

    /// Of a keyed breaker, only labeled servers have a state of their own.
    pub(super) fn show_state(
        &self,
        recorder: &dyn Recorder,
        source: &Source,
        sequence: u64,
        state: BreakerState,
    ) {
        if source.key().is_none() || matches!(self.server, Server::Own(_)) {
            self.show(self.gauge(recorder, STATE, source), sequence, state);
        }
    }

    pub(super) fn show_balance(&self, recorder: &dyn Recorder, source: &Source, balance: f64) {
        if !matches!(self.server, Server::Other) {
            self.gauge(recorder, BALANCE, source).set(balance);
        }
    }

    pub(super) fn show_in_progress(
        &self,
        recorder: &dyn Recorder,
        source: &Source,
        running: usize,
        waiting: usize,
        oldest: Duration,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "no process has 2^52 of them")]
        let values = [
            (RUNNING, running as f64),
            (WAITING, waiting as f64),
            (OLDEST, oldest.as_secs_f64()),
        ];
        for (place, (name, value)) in self.in_progress.iter().zip(values) {
            let register = || recorder.register_gauge(&self.key(name, source, &[]), &METADATA);
            place.get_or_init(register).set(value);
        }
    }

    /// The three common states always, the others once a circuit was in them.
    pub(super) fn show_circuits(
        &self,
        recorder: &dyn Recorder,
        source: &Source,
        counts: &CircuitCounts,
    ) {
        for state in BreakerState::ALL {
            let common = matches!(
                state,
                BreakerState::Closed | BreakerState::HalfOpen | BreakerState::Open
            );
            let place = &self.circuits[state as usize];
            if !common && place.get().is_none() && counts.get(state) == 0 {
                continue;
            }
            let gauge = place.get_or_init(|| {
                let key = self.key(CIRCUITS, source, &[("state", state.as_str())]);
                recorder.register_gauge(&key, &METADATA)
            });
            // The last write must be of the newest state.
            loop {
                let count = counts.get(state);
                #[expect(clippy::cast_precision_loss, reason = "there are at most 2^24 keys")]
                gauge.set(count as f64);
                if counts.get(state) == count {
                    break;
                }
            }
        }
    }

    /// Moves are emitted after the lock, so an older one may come later, or be slower on its way into the gauge, which must
    /// not go back to it.
    fn show(&self, gauge: &Gauge, sequence: u64, state: BreakerState) {
        let mut written = (sequence << LEVEL_BITS | u64::from(level(state))) + 1;
        if self.newest.fetch_max(written, Ordering::AcqRel) >= written {
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

    pub(super) fn gauge(
        &self,
        recorder: &dyn Recorder,
        name: &'static str,
        source: &Source,
    ) -> &Gauge {
        self.gauge
            .get_or_init(|| recorder.register_gauge(&self.key(name, source, &[]), &METADATA))
    }

    pub(super) fn key(
        &self,
        name: &'static str,
        source: &Source,
        labels: &[(&'static str, &'static str)],
    ) -> Key {
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

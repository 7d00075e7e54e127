//! Every event as metrics, through the `metrics` facade.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};

use super::names::{
    BALANCE, CALLS, CIRCUITS, EVICTED, EXHAUSTED, MOVES, OPERATIONS, OVERFLOW, RECORDED, REJECTED,
    RETRIES, RETRY_STOPPED, RETRY_WAIT, STATE, STORE_FAILURES, Type, WOULD_REJECT,
};
use crate::error::Reason;
use crate::event::{BreakerState, CircuitCounts, Event, Observe, OperationStep, Source};

/// The observer of the feature `metrics`.
#[derive(Debug)]
pub(crate) struct Metrics;

impl Observe for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        metrics::with_recorder(|recorder| {
            with_handles(recorder, event.source(), |handles| {
                handles.record(recorder, event);
            });
        });
    }
}

/// What is kept for one source and one recorder. Each counter is registered when it is first needed.
#[derive(Default)]
struct Handles {
    /// The address of the recorder the handles belong to.
    recorder: usize,
    server: Server,
    /// Rejections by reason: they come in floods. See [`reason_slot`].
    rejected: [OnceLock<Counter>; 6],
    gauge: OnceLock<Gauge>,
    circuits: [OnceLock<Gauge>; BreakerState::ALL.len()],
    wait: OnceLock<Histogram>,
    calls: [OnceLock<Histogram>; 3],
    /// By step.
    operations: [OnceLock<Counter>; OperationStep::COUNT],
    /// 0, or one more than: the number of the newest move, and below it, in [`LEVEL_BITS`], the level it led to.
    newest: AtomicU64,
    /// Those of the keys that have a label of their own.
    servers: Mutex<HashMap<Box<str>, Arc<Handles>>>,
    other: OnceLock<Arc<Handles>>,
}

/// The label `server` of a series.
#[derive(Default)]
enum Server {
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
fn with_handles(recorder: &dyn Recorder, source: &Source, act: impl FnOnce(&Handles)) {
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

fn describe(recorder: &dyn Recorder) {
    for &(name, kind, unit, text) in RECORDED {
        let (name, unit) = (KeyName::from_const_str(name), Some(unit));
        match kind {
            Type::Counter => recorder.describe_counter(name, unit, text.into()),
            Type::Gauge => recorder.describe_gauge(name, unit, text.into()),
            Type::Histogram => recorder.describe_histogram(name, unit, text.into()),
        }
    }
}

static METADATA: Metadata<'static> = Metadata::new("buttress", Level::INFO, Some(module_path!()));

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

    fn record(&self, recorder: &dyn Recorder, event: &Event<'_>) {
        let source = event.source();
        let counter = |name, labels: &[(&'static str, &'static str)]| {
            recorder.register_counter(&self.key(name, source, labels), &METADATA)
        };
        match *event {
            Event::Rejected { rejected, .. } => {
                let reason = rejected.reason.as_str();
                let register =
                    || counter(REJECTED, &[("layer", source.layer()), ("reason", reason)]);
                match reason_slot(&rejected.reason) {
                    Some(slot) => self.rejected[slot].get_or_init(register).increment(1),
                    None => register().increment(1),
                }
            }
            Event::WouldReject { rejected, .. } => counter(
                WOULD_REJECT,
                &[
                    ("layer", source.layer()),
                    ("reason", rejected.reason.as_str()),
                ],
            )
            .increment(1),
            Event::BreakerMoved {
                sequence,
                moved,
                dry_run,
                ..
            } => {
                counter(
                    MOVES,
                    &[
                        ("to", moved.to.as_str()),
                        ("cause", moved.cause.as_str()),
                        ("dry_run", if dry_run { "true" } else { "false" }),
                    ],
                )
                .increment(1);
                self.show_state(recorder, source, sequence, moved.to);
            }
            Event::BreakerState {
                sequence, state, ..
            } => self.show_state(recorder, source, sequence, state),
            Event::Circuits { counts, .. } => self.show_circuits(recorder, source, counts),
            Event::Retry { wait, outcome, .. } => {
                counter(RETRIES, &[("outcome", outcome.kind.as_str())]).increment(1);
                self.wait
                    .get_or_init(|| {
                        recorder.register_histogram(&self.key(RETRY_WAIT, source, &[]), &METADATA)
                    })
                    .record(wait.as_secs_f64());
            }
            Event::RetryStopped { why, .. } => {
                counter(RETRY_STOPPED, &[("why", why.as_str())]).increment(1);
            }
            Event::Budget { balance, .. } => self.show_balance(recorder, source, balance),
            Event::BudgetExhausted { balance, .. } => {
                counter(EXHAUSTED, &[]).increment(1);
                self.show_balance(recorder, source, balance);
            }
            Event::Finished { outcome, took, .. } => {
                let label = outcome.map_or("abandoned", |outcome| outcome.kind.as_str());
                let labels = [
                    ("scope", source.scope().unwrap_or("call")),
                    ("outcome", label),
                ];
                let register =
                    || recorder.register_histogram(&self.key(CALLS, source, &labels), &METADATA);
                let took = took.as_secs_f64();
                match call_slot(label) {
                    Some(slot) => self.calls[slot].get_or_init(register).record(took),
                    None => register().record(took),
                }
            }
            Event::Operation { step, .. } => {
                self.operations[step as usize]
                    .get_or_init(|| counter(OPERATIONS, &[("step", step.as_str())]))
                    .increment(1);
            }
            Event::StoreFailed { .. } => counter(STORE_FAILURES, &[]).increment(1),
            Event::KeyEvicted { .. } => {
                // Without the name: a flood of keys would leave a series for each.
                let layer = Label::from_static_parts("layer", source.layer());
                let key = Key::from_parts(EVICTED, vec![layer]);
                recorder.register_counter(&key, &METADATA).increment(1);
                // The facade cannot delete a series: at least it says nothing untrue any more.
                if let (Server::Own(_), Some(gauge)) = (&self.server, self.gauge.get()) {
                    gauge.set(0.0);
                    // If the key comes back, its transitions are numbered from the start.
                    self.newest.store(0, Ordering::Release);
                }
            }
            Event::KeyOverflow { .. } => {
                counter(OVERFLOW, &[("layer", source.layer())]).increment(1);
            }
            Event::NameInUse { .. } => {}
        }
    }

    /// Of a keyed breaker, only labeled servers have a state of their own.
    fn show_state(
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

    fn show_balance(&self, recorder: &dyn Recorder, source: &Source, balance: f64) {
        if !matches!(self.server, Server::Other) {
            self.gauge(recorder, BALANCE, source).set(balance);
        }
    }

    /// The three common states always, the others once a circuit was in them.
    fn show_circuits(&self, recorder: &dyn Recorder, source: &Source, counts: &CircuitCounts) {
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
            // Whoever sets last must have set the newest.
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
        let mut told = (sequence << LEVEL_BITS | u64::from(level(state))) + 1;
        if self.newest.fetch_max(told, Ordering::AcqRel) >= told {
            return;
        }
        loop {
            let [level, ..] = (told - 1).to_le_bytes();
            gauge.set(f64::from(level & ((1 << LEVEL_BITS) - 1)));
            // Whoever sets last must have set the newest.
            let newest = self.newest.load(Ordering::Acquire);
            if newest == told || newest == 0 {
                break;
            }
            told = newest;
        }
    }

    fn gauge(&self, recorder: &dyn Recorder, name: &'static str, source: &Source) -> &Gauge {
        self.gauge
            .get_or_init(|| recorder.register_gauge(&self.key(name, source, &[]), &METADATA))
    }

    fn key(
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

/// The place of a reason's counter; an application's own have none.
const fn reason_slot(reason: &Reason) -> Option<usize> {
    match reason {
        Reason::CircuitOpen => Some(0),
        Reason::CircuitProbing => Some(1),
        Reason::CircuitForcedOpen => Some(2),
        Reason::CircuitIsolated => Some(3),
        Reason::AttemptTimeout { .. } => Some(4),
        Reason::Deadline => Some(5),
        _ => None,
    }
}

fn call_slot(outcome: &str) -> Option<usize> {
    ["success", "permanent", "transient"]
        .iter()
        .position(|frequent| *frequent == outcome)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_list_is_the_recorded_one() {
        let page = include_str!("../../docs/telemetry.md");
        for (name, kind, unit, text) in RECORDED {
            let row = format!(
                "| `{name}` | {} | {} | {text} |",
                format!("{kind:?}").to_lowercase(),
                unit.as_str()
            );
            assert!(
                page.contains(&row),
                "docs/telemetry.md lacks the row\n{row}"
            );
        }
        let rows = page
            .lines()
            .filter(|line| line.starts_with("| `buttress."))
            .count();
        assert_eq!(
            rows,
            RECORDED.len(),
            "docs/telemetry.md lists something that is not recorded"
        );
    }
}

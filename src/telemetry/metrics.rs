//! Every event as metrics, through the `metrics` facade.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};

use super::names::{
    BALANCE, CALLS, EVICTED, EXHAUSTED, MOVES, OPERATIONS, OVERFLOW, RECORDED, REJECTED, RETRIES,
    RETRY_STOPPED, RETRY_WAIT, STATE, STORE_FAILURES, Type, WOULD_REJECT,
};
use crate::error::Reason;
use crate::event::{BreakerState, Event, Observe, OperationStep, Source};

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
    /// Rejections by reason: they come in floods. See [`reason_slot`].
    rejected: [OnceLock<Counter>; 6],
    gauge: OnceLock<Gauge>,
    wait: OnceLock<Histogram>,
    calls: [OnceLock<Histogram>; 3],
    /// By step.
    operations: [OnceLock<Counter>; OperationStep::COUNT],
    /// The number of the newest move, and below it, in [`LEVEL_BITS`], the level it led to.
    newest: AtomicU64,
}

/// Finds the handles of this source, or registers them.
///
/// A process sees two recorders: none, and the one it installs. So there are two places, each written once and read without
/// a lock. A third recorder (a test's local one) works too, without being kept.
fn with_handles(recorder: &dyn Recorder, source: &Source, act: impl FnOnce(&Handles)) {
    let address = std::ptr::from_ref(recorder).cast::<()>().addr();
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
    fn record(&self, recorder: &dyn Recorder, event: &Event<'_>) {
        let source = event.source();
        let counter = |name, labels: &[(&'static str, &'static str)]| {
            recorder.register_counter(&key(name, source, labels), &METADATA)
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
                self.show(self.gauge(recorder, STATE, source), sequence, moved.to);
            }
            Event::Retry { wait, outcome, .. } => {
                counter(RETRIES, &[("outcome", outcome.kind.as_str())]).increment(1);
                self.wait
                    .get_or_init(|| {
                        recorder.register_histogram(&key(RETRY_WAIT, source, &[]), &METADATA)
                    })
                    .record(wait.as_secs_f64());
            }
            Event::RetryStopped { why, .. } => {
                counter(RETRY_STOPPED, &[("why", why.as_str())]).increment(1);
            }
            Event::Budget { balance, .. } => self.gauge(recorder, BALANCE, source).set(balance),
            Event::BudgetExhausted { balance, .. } => {
                counter(EXHAUSTED, &[]).increment(1);
                self.gauge(recorder, BALANCE, source).set(balance);
            }
            Event::Finished { outcome, took, .. } => {
                let label = outcome.map_or("abandoned", |outcome| outcome.kind.as_str());
                let register = || {
                    recorder
                        .register_histogram(&key(CALLS, source, &[("outcome", label)]), &METADATA)
                };
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
                if let Some(gauge) = self.gauge.get() {
                    gauge.set(0.0);
                }
            }
            Event::KeyOverflow { .. } => {
                counter(OVERFLOW, &[("layer", source.layer())]).increment(1);
            }
        }
    }

    /// Moves are emitted after the lock, so an older one may come later, or be slower on its way into the gauge, which must
    /// not go back to it.
    fn show(&self, gauge: &Gauge, sequence: u64, state: BreakerState) {
        let mut told = sequence << LEVEL_BITS | u64::from(level(state));
        if self.newest.fetch_max(told, Ordering::AcqRel) >= told {
            return;
        }
        loop {
            let [level, ..] = told.to_le_bytes();
            gauge.set(f64::from(level & ((1 << LEVEL_BITS) - 1)));
            // Whoever sets last must have set the newest.
            let newest = self.newest.load(Ordering::Acquire);
            if newest == told {
                break;
            }
            told = newest;
        }
    }

    fn gauge(&self, recorder: &dyn Recorder, name: &'static str, source: &Source) -> &Gauge {
        self.gauge
            .get_or_init(|| recorder.register_gauge(&key(name, source, &[]), &METADATA))
    }
}

fn key(name: &'static str, source: &Source, labels: &[(&'static str, &'static str)]) -> Key {
    let own = Label::new("name", source.name().to_string());
    let labels = labels
        .iter()
        .map(|(key, value)| Label::from_static_parts(key, value));
    Key::from_parts(name, std::iter::once(own).chain(labels).collect::<Vec<_>>())
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

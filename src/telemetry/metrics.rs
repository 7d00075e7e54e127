//! Every event as metrics, through the `metrics` facade.

use std::sync::atomic::Ordering;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};

use super::names::{
    CALLS, EVICTED, EVICTION_POLICY, EXHAUSTED, MOVES, OPERATIONS, OVERFLOW, RECORDED, REJECTED,
    RETRIES, RETRY_STOPPED, RETRY_WAIT, STORE_FAILURES, Type, WOULD_REJECT,
};
use super::series::{Handles, Server, with_handles};
use crate::error::Reason;
use crate::event::{Event, Observe};

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

pub(super) fn describe(recorder: &dyn Recorder) {
    for &(name, kind, unit, text) in RECORDED {
        let (name, unit) = (KeyName::from_const_str(name), Some(unit));
        match kind {
            Type::Counter => recorder.describe_counter(name, unit, text.into()),
            Type::Gauge => recorder.describe_gauge(name, unit, text.into()),
            Type::Histogram => recorder.describe_histogram(name, unit, text.into()),
        }
    }
}

pub(super) static METADATA: Metadata<'static> =
    Metadata::new("buttress", Level::INFO, Some(module_path!()));

impl Handles {
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
            Event::InProgress {
                running,
                waiting,
                oldest,
                ..
            } => self.show_in_progress(recorder, source, running, waiting, oldest),
            Event::StoreFailed { .. } => counter(STORE_FAILURES, &[]).increment(1),
            Event::EvictionPolicy { policy, .. } => count_policy(recorder, policy),
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

/// Without the name: it is a server that has the policy.
fn count_policy(recorder: &dyn Recorder, policy: Option<&str>) {
    if let Some(policy) = policy {
        let label = Label::new("policy", policy.to_owned());
        let key = Key::from_parts(EVICTION_POLICY, vec![label]);
        recorder.register_counter(&key, &METADATA).increment(1);
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

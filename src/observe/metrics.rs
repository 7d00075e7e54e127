//! Every event as metrics, through the `metrics` facade.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};

use super::names::{
    BALANCE, CALLS, CIRCUITS, EVICTED, EXHAUSTED, OLDEST, OPERATIONS, OVERFLOW, RECORDED, REJECTED,
    RETRIES, RETRY_STOPPED, RETRY_WAIT, RUNNING, STATE, STORE_FAILURES, TRANSITIONS, Type, WAITING,
    WOULD_REJECT,
};
use super::series::{Labels, Series, Server, with_series};
use crate::event::CircuitCounts;
use crate::event::{BreakerState, Event, Observe, Source};

/// The observer of the feature `metrics`.
#[derive(Debug)]
pub(crate) struct Metrics;

impl Observe for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        metrics::with_recorder(|recorder| {
            describe(recorder);
            with_series(event.source(), |series| {
                let source = event.source();
                Recording {
                    recorder,
                    source,
                    series,
                }
                .record(event);
            });
        });
    }
}

/// Describes the metrics once for each recorder.
fn describe(recorder: &dyn Recorder) {
    static DESCRIBED: AtomicUsize = AtomicUsize::new(0);
    let address = std::ptr::from_ref(recorder).cast::<()>().addr();
    if DESCRIBED.load(Ordering::Relaxed) == address {
        return;
    }
    DESCRIBED.store(address, Ordering::Relaxed);
    for &(name, kind, unit, text) in RECORDED {
        let (name, unit) = (KeyName::from_const_str(name), Some(unit));
        match kind {
            Type::Counter => recorder.describe_counter(name, unit, text.into()),
            Type::Gauge => recorder.describe_gauge(name, unit, text.into()),
            Type::Histogram => recorder.describe_histogram(name, unit, text.into()),
        }
    }
}

// The module of the public documentation, whatever file this is in: recorders may filter by it.
static METADATA: Metadata<'static> = Metadata::new(
    "buttress",
    Level::INFO,
    Some("buttress::telemetry::metrics"),
);

/// One event on its way to a recorder. Handles are registered for each event and not cached: an exporter may drop an idle
/// series, and a handle registered before would still write to the dropped series.
struct Recording<'a> {
    recorder: &'a dyn Recorder,
    source: &'a Source,
    series: &'a Series,
}

impl Recording<'_> {
    fn record(&self, event: &Event<'_>) {
        let layer = ("layer", self.source.layer());
        match *event {
            Event::Rejected { rejected, .. } => {
                self.count(REJECTED, &[layer, ("reason", rejected.reason.as_str())]);
            }
            Event::WouldReject { rejected, .. } => {
                self.count(WOULD_REJECT, &[layer, ("reason", rejected.reason.as_str())]);
            }
            Event::BreakerTransition {
                sequence,
                transition,
                dry_run,
                ..
            } => {
                let dry_run = if dry_run { "true" } else { "false" };
                self.count(
                    TRANSITIONS,
                    &[
                        ("to", transition.to.as_str()),
                        ("cause", transition.cause.as_str()),
                        ("dry_run", dry_run),
                    ],
                );
                self.show_state(sequence, transition.to);
            }
            Event::BreakerState {
                sequence, state, ..
            } => self.show_state(sequence, state),
            Event::Circuits { counts, .. } => self.show_circuits(counts),
            Event::Retry { wait, outcome, .. } => {
                self.count(RETRIES, &[("outcome", outcome.kind.as_str())]);
                self.histogram(RETRY_WAIT, &[]).record(wait.as_secs_f64());
            }
            Event::RetryStopped { why, .. } => {
                self.count(RETRY_STOPPED, &[("reason", why.as_str())]);
            }
            Event::Budget { balance, .. } => self.show_balance(balance),
            Event::BudgetExhausted { balance, .. } => {
                self.count(EXHAUSTED, &[]);
                self.show_balance(balance);
            }
            Event::Finished { outcome, took, .. } => {
                let outcome = outcome.map_or("abandoned", |outcome| outcome.kind.as_str());
                let scope = self.source.scope().unwrap_or("call");
                self.histogram(CALLS, &[("scope", scope), ("outcome", outcome)])
                    .record(took.as_secs_f64());
            }
            Event::Operation { step, .. } => self.count(OPERATIONS, &[("step", step.as_str())]),
            #[expect(clippy::cast_precision_loss, reason = "no process has 2^52 of them")]
            Event::InProgress {
                running,
                waiting,
                oldest,
                ..
            } => {
                self.gauge(RUNNING, &[]).set(running as f64);
                self.gauge(WAITING, &[]).set(waiting as f64);
                self.gauge(OLDEST, &[]).set(oldest.as_secs_f64());
            }
            Event::StoreFailed { .. } => self.count(STORE_FAILURES, &[]),
            Event::KeyEvicted { .. } => {
                // Without the name: a flood of keys would leave a series for each.
                self.count_unnamed(EVICTED, Label::from_static_parts("layer", layer.1));
                // The facade cannot delete a series, but 0 is not wrong.
                if self.series.is_shown.swap(false, Ordering::AcqRel) {
                    let name = if layer.1 == "budget" { BALANCE } else { STATE };
                    self.gauge(name, &[]).set(0.0);
                    // If the key comes back, its transitions are numbered from the start.
                    self.series.newest.store(0, Ordering::Release);
                }
            }
            Event::KeyOverflow { .. } => self.count(OVERFLOW, &[layer]),
            Event::NameInUse { .. } => {}
        }
    }

    /// Of a keyed breaker, only labeled servers have a state of their own.
    fn show_state(&self, sequence: u64, state: BreakerState) {
        if self.source.key().is_none() || matches!(self.series.server, Server::Own(_)) {
            self.shown();
            let gauge = self.gauge(STATE, &[]);
            self.series.show(&gauge, sequence, state);
        }
    }

    fn show_balance(&self, balance: f64) {
        if !matches!(self.series.server, Server::Other) {
            self.shown();
            self.gauge(BALANCE, &[]).set(balance);
        }
    }

    /// Only labeled servers: the eviction of any other key says nothing about the gauge that it shared.
    fn shown(&self) {
        if let Server::Own(_) = self.series.server {
            self.series.is_shown.store(true, Ordering::Release);
        }
    }

    fn show_circuits(&self, counts: &CircuitCounts) {
        for state in BreakerState::ALL {
            let gauge = self.gauge(CIRCUITS, &[("state", state.as_str())]);
            // The last write must be of the newest count.
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

    fn count(&self, name: &'static str, labels: &Labels) {
        self.counter(&self.key(name, labels)).increment(1);
    }

    fn count_unnamed(&self, name: &'static str, label: Label) {
        self.counter(&Key::from_parts(name, vec![label]))
            .increment(1);
    }

    fn counter(&self, key: &Key) -> Counter {
        self.recorder.register_counter(key, &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &Labels) -> Gauge {
        self.recorder
            .register_gauge(&self.key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &Labels) -> Histogram {
        self.recorder
            .register_histogram(&self.key(name, labels), &METADATA)
    }

    fn key(&self, name: &'static str, labels: &Labels) -> Cow<'_, Key> {
        self.series.key(name, self.source, labels)
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

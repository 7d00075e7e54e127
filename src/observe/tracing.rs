//! Every event as a `tracing` event: transitions at `warn`, repairs by an operator at `info`, the rest at `debug`.

use tracing::{debug, info, warn};

use crate::event::BuiltAt;
use crate::event::{Event, Observe, OperationId, OperationStep};

/// The observer of the feature `tracing`.
#[derive(Debug)]
pub(crate) struct Tracing;

impl Observe for Tracing {
    fn on_event(&self, event: &Event<'_>) {
        let name = &**event.source().name();
        let layer = event.source().layer();
        match *event {
            Event::Rejected { rejected, .. } => {
                debug!(target: "buttress", layer, name, reason = rejected.reason.as_str(), "{rejected}");
            }
            Event::WouldReject { rejected, .. } => debug!(
                target: "buttress",
                layer,
                name,
                reason = rejected.reason.as_str(),
                "dry run, call admitted: {rejected}"
            ),
            Event::BreakerTransition {
                transition,
                sequence,
                dry_run,
                ..
            } => warn!(
                target: "buttress",
                layer,
                name,
                sequence,
                dry_run,
                from = transition.from.as_str(),
                cause = transition.cause.as_str(),
                "circuit breaker `{name}` is now {}",
                transition.to.as_str()
            ),
            Event::Retry {
                attempt,
                wait,
                outcome,
                ..
            } => debug!(
                target: "buttress",
                layer,
                name,
                attempt,
                wait_ms = wait.as_secs_f64() * 1e3,
                outcome = outcome.kind.as_str(),
                "retry scheduled as attempt {attempt}"
            ),
            Event::RetryStopped { attempts, why, .. } => {
                debug!(target: "buttress", layer, name, attempts, reason = why.as_str(), "no retry after attempt {attempts}");
            }
            Event::Budget { .. }
            | Event::BreakerState { .. }
            | Event::Circuits { .. }
            | Event::InProgress { .. } => {}
            Event::BudgetExhausted { balance, .. } => {
                debug!(target: "buttress", layer, name, balance, "retry budget `{name}` is exhausted: the call gets its last result");
            }
            Event::Finished { outcome, took, .. } => debug!(
                target: "buttress",
                layer,
                name,
                took_ms = took.as_secs_f64() * 1e3,
                outcome = outcome.map_or("abandoned", |outcome| outcome.kind.as_str()),
                "call finished"
            ),
            Event::Operation {
                step,
                operation,
                run,
                ..
            } => log_step(layer, name, step, operation, run),
            Event::StoreFailed { error, .. } => {
                warn!(target: "buttress", layer, name, error, "idempotency store `{name}` failed: {error}");
            }
            Event::KeyEvicted { .. } => {
                debug!(target: "buttress", layer, name, "key `{name}` was evicted");
            }
            Event::KeyOverflow { max_keys, .. } => warn!(
                target: "buttress",
                layer,
                name, max_keys, "no key could be evicted at {max_keys} keys: new keys share the policy `{name}`; raise `max_keys`"
            ),
            Event::NameInUse { existing, new, .. } => log_name_in_use(layer, name, existing, new),
        }
    }
}

fn log_name_in_use(layer: &str, name: &str, existing: BuiltAt<'_>, new: BuiltAt<'_>) {
    warn!(
        target: "buttress",
        layer,
        name,
        existing = ?existing.settings,
        new = ?new.settings,
        "two live handles of the kind {layer} are named `{name}`, built at {} and at {}: build one and clone it, or give each its \
         own name",
        existing.location,
        new.location
    );
}

fn log_step(
    layer: &str,
    name: &str,
    step: OperationStep,
    operation: OperationId,
    run: Option<u32>,
) {
    match step {
        OperationStep::TakenOver | OperationStep::LeaseLost | OperationStep::NotRecorded => warn!(
            target: "buttress",
            layer,
            name,
            step = step.as_str(),
            %operation,
            run,
            "an operation may have been executed twice, or may be executed again"
        ),
        OperationStep::ReleasedByOperator | OperationStep::RecordedByOperator => info!(
            target: "buttress",
            layer,
            name,
            step = step.as_str(),
            %operation,
            run,
            "an operator released or recorded an operation"
        ),
        _ => debug!(
            target: "buttress",
            layer,
            name,
            step = step.as_str(),
            %operation,
            run,
            "operation with an idempotency key"
        ),
    }
}

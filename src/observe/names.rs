//! The list of all metrics, which is also in `docs/telemetry.md`.

use metrics::Unit;

/// Name, kind, unit and description of each metric. The same list is in `docs/telemetry.md`.
pub(super) const RECORDED: &[(&str, Type, Unit, &str)] = &[
    (
        REJECTED,
        Type::Counter,
        Unit::Count,
        "calls rejected or ended by a time limit; labels layer, name, reason",
    ),
    (
        WOULD_REJECT,
        Type::Counter,
        Unit::Count,
        "calls that a dry run would have rejected; labels layer, name, reason",
    ),
    (
        STATE,
        Type::Gauge,
        Unit::Count,
        "0 closed, 1 half-open, 2 open, 3 forced open, 4 isolated, 5 disabled; label name",
    ),
    (
        CIRCUITS,
        Type::Gauge,
        Unit::Count,
        "circuits of a keyed breaker in each state; labels name, state",
    ),
    (
        TRANSITIONS,
        Type::Counter,
        Unit::Count,
        "state transitions of a breaker; labels name, to, cause, dry_run",
    ),
    (
        RETRIES,
        Type::Counter,
        Unit::Count,
        "attempts after the first one; labels name, outcome",
    ),
    (
        RETRY_WAIT,
        Type::Histogram,
        Unit::Seconds,
        "wait before an attempt; label name",
    ),
    (
        RETRY_STOPPED,
        Type::Counter,
        Unit::Count,
        "failed calls that were not retried; labels name, reason",
    ),
    (
        BALANCE,
        Type::Gauge,
        Unit::Count,
        "tokens in a retry budget; label name",
    ),
    (
        EXHAUSTED,
        Type::Counter,
        Unit::Count,
        "retries denied by an exhausted budget; label name",
    ),
    (
        CALLS,
        Type::Histogram,
        Unit::Seconds,
        "duration of observed calls; labels name, scope, outcome",
    ),
    (
        OPERATIONS,
        Type::Counter,
        Unit::Count,
        "steps of operations with an idempotency key; labels name, step",
    ),
    (
        RUNNING,
        Type::Gauge,
        Unit::Count,
        "operations in progress in this process; label name",
    ),
    (
        WAITING,
        Type::Gauge,
        Unit::Count,
        "requests that wait for the result of another request with the same key; label name",
    ),
    (
        OLDEST,
        Type::Gauge,
        Unit::Seconds,
        "age of the oldest operation in progress; label name",
    ),
    (
        STORE_FAILURES,
        Type::Counter,
        Unit::Count,
        "failed operations of an idempotency store; label name",
    ),
    (
        EVICTED,
        Type::Counter,
        Unit::Count,
        "keys evicted; label layer",
    ),
    (
        OVERFLOW,
        Type::Counter,
        Unit::Count,
        "calls that shared the overflow entry; labels layer, name",
    ),
];

pub(super) const REJECTED: &str = "buttress.rejections_total";
pub(super) const WOULD_REJECT: &str = "buttress.dry_run.rejections_total";
pub(super) const STATE: &str = "buttress.breaker.state";
pub(super) const CIRCUITS: &str = "buttress.breaker.circuits";
pub(super) const TRANSITIONS: &str = "buttress.breaker.transitions_total";
pub(super) const RETRIES: &str = "buttress.retries_total";
pub(super) const RETRY_WAIT: &str = "buttress.retry.wait_seconds";
pub(super) const RETRY_STOPPED: &str = "buttress.retry.stopped_total";
pub(super) const OPERATIONS: &str = "buttress.idempotency.operations_total";
pub(super) const RUNNING: &str = "buttress.idempotency.running";
pub(super) const WAITING: &str = "buttress.idempotency.waiting";
pub(super) const OLDEST: &str = "buttress.idempotency.oldest_seconds";
pub(super) const STORE_FAILURES: &str = "buttress.idempotency.store_failures_total";
pub(super) const BALANCE: &str = "buttress.budget.balance";
pub(super) const EXHAUSTED: &str = "buttress.budget.exhausted_total";
pub(super) const CALLS: &str = "buttress.call.duration_seconds";
pub(super) const EVICTED: &str = "buttress.keyed.evictions_total";
pub(super) const OVERFLOW: &str = "buttress.keyed.overflow_total";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

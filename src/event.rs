//! The events of all layers, as one enum.
//!
//! Events are reported after every lock is released, on the task they happened in. The observers of the features
//! `metrics` and `tracing` see every event; your own see them after [`subscribe`].

use std::error::Error as StdError;
use std::time::Duration;

use crate::error::Rejected;
use crate::live_names::BuiltAt;
pub use crate::observe::{Observe, Subscription, subscribe};
pub(crate) use crate::observe::{Refresh, emit, register_refresh};
pub use crate::operation_id::OperationId;
use crate::outcome::Outcome;
use crate::source::CircuitCounts;
pub use crate::source::Source;
pub(crate) use crate::transition::{BreakerState, Cause, StateTransition};

/// Something that happened in a layer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A call was rejected, or ended by a time limit.
    Rejected {
        /// The layer it happened in.
        source: &'a Source,
        /// The error that the caller gets.
        rejected: &'a Rejected,
    },
    /// A dry run admitted a call that would have been rejected.
    WouldReject {
        /// The layer it happened in.
        source: &'a Source,
        /// The error that the caller would have got.
        rejected: &'a Rejected,
    },
    /// A circuit breaker changed its state.
    BreakerTransition {
        /// The breaker.
        source: &'a Source,
        /// The number of this transition. Events may arrive out of order: ignore an older one.
        sequence: u64,
        /// The transition.
        transition: StateTransition,
        /// Whether the breaker is in a dry run.
        dry_run: bool,
    },
    /// The state of a circuit breaker, reported when it is built and by [`refresh`](crate::telemetry::refresh). For a keyed breaker, [`refresh`](crate::telemetry::refresh) reports
    /// [`Circuits`](Self::Circuits) instead.
    BreakerState {
        /// The breaker.
        source: &'a Source,
        /// The number of its last transition; 0 if there was none.
        sequence: u64,
        /// The state since then.
        state: BreakerState,
    },
    /// The number of circuits of a keyed breaker changed in some state, or [`refresh`](crate::telemetry::refresh) was called.
    Circuits {
        /// The keyed breaker, without a key.
        source: &'a Source,
        /// How many of its circuits are in which state.
        counts: &'a CircuitCounts,
    },
    /// Another attempt is scheduled.
    Retry {
        /// The retry layer.
        source: &'a Source,
        /// The number of the attempt to come; the first one was 1.
        attempt: u32,
        /// The time until it starts.
        wait: Duration,
        /// The outcome of the attempt before.
        outcome: Outcome,
    },
    /// A failed call is not retried, although its outcome alone would have allowed it.
    RetryStopped {
        /// The retry layer.
        source: &'a Source,
        /// How many attempts were made.
        attempts: u32,
        /// Why there is no further one.
        why: RetryStop,
    },
    /// A retry budget changed by a withdrawal or a refund, or [`refresh`](crate::telemetry::refresh) was called.
    Budget {
        /// The budget.
        source: &'a Source,
        /// The tokens that a withdrawal would find now.
        balance: f64,
    },
    /// A retry budget had nothing left for a retry.
    BudgetExhausted {
        /// The budget.
        source: &'a Source,
        /// The tokens that a withdrawal would find now.
        balance: f64,
    },
    /// An observed call ended.
    Finished {
        /// The observing layer.
        source: &'a Source,
        /// Its outcome; `None` if it was abandoned.
        outcome: Option<Outcome>,
        /// How long it took.
        took: Duration,
    },
    /// An operation with an idempotency key took a step.
    Operation {
        /// The idempotency layer.
        source: &'a Source,
        /// The step.
        step: OperationStep,
        /// Which operation.
        operation: OperationId,
        /// Which run of it takes the step; `None` for a replay.
        run: Option<u32>,
    },
    /// The operations of an idempotency layer that are in progress in this process. Sent by
    /// [`refresh`](crate::telemetry::refresh).
    InProgress {
        /// The idempotency layer.
        source: &'a Source,
        /// How many operations are in progress.
        running: usize,
        /// How many requests wait for the result of another one.
        waiting: usize,
        /// How long ago the oldest one began; zero if there is none.
        oldest: Duration,
    },
    /// An operation of an idempotency store failed.
    StoreFailed {
        /// The idempotency layer.
        source: &'a Source,
        /// Why.
        error: &'a (dyn StdError + 'static),
    },
    /// A key was evicted to make room or because it was idle.
    KeyEvicted {
        /// The policy of that key.
        source: &'a Source,
    },
    /// No key could be evicted, and a new one shares the overflow policy.
    KeyOverflow {
        /// The overflow policy.
        source: &'a Source,
        /// The maximum number of keys.
        max_keys: usize,
    },
    /// Two live handles of one kind have the same name, so metrics and logs mix them up. Reported once per kind and name.
    ///
    /// Build a handle once and clone it: clones share their state, and a handle that is built for each request starts
    /// without counts. Two handles for two purposes need two names.
    NameInUse {
        /// The new handle. Its [`layer`](Source::layer) is the kind: `"breaker"`, `"budget"`, `"retry"`, `"client"`,
        /// `"server"`.
        source: &'a Source,
        /// The handle that had the name already.
        existing: BuiltAt<'a>,
        /// The new handle.
        new: BuiltAt<'a>,
    },
}

impl Event<'_> {
    /// The layer it happened in.
    pub const fn source(&self) -> &Source {
        match self {
            Self::Rejected { source, .. }
            | Self::WouldReject { source, .. }
            | Self::BreakerTransition { source, .. }
            | Self::Retry { source, .. }
            | Self::RetryStopped { source, .. }
            | Self::Budget { source, .. }
            | Self::BudgetExhausted { source, .. }
            | Self::Finished { source, .. }
            | Self::Operation { source, .. }
            | Self::InProgress { source, .. }
            | Self::StoreFailed { source, .. }
            | Self::BreakerState { source, .. }
            | Self::Circuits { source, .. }
            | Self::KeyEvicted { source }
            | Self::KeyOverflow { source, .. }
            | Self::NameInUse { source, .. } => source,
        }
    }
}

/// Why a failed call is not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryStop {
    /// All attempts are used up.
    AttemptsUsed,
    /// The retry budget is empty.
    BudgetExhausted,
    /// The request cannot, or must not, be sent again.
    NotRetryable,
    /// The request's body cannot be sent again: it was not read to its end when the response came, was larger than
    /// the replay buffer, or failed.
    BodyNotReplayable,
    /// The server asked for a longer wait than is allowed.
    WaitTooLong,
    /// The wait could not end before the deadline.
    Deadline,
    /// A retry layer closer to the failure has already retried it.
    SpentBelow,
    /// The service failed before it was ready for another attempt.
    NotReady,
    /// Switched off for this call.
    SwitchedOff,
}

impl RetryStop {
    /// The reason as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsUsed => "attempts_used",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NotRetryable => "not_retryable",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::WaitTooLong => "wait_too_long",
            Self::Deadline => "deadline",
            Self::SpentBelow => "spent_below",
            Self::SwitchedOff => "switched_off",
            Self::NotReady => "not_ready",
        }
    }
}

/// A step of an operation with an idempotency key. A rejected request is reported as [`Event::Rejected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationStep {
    /// It is executed for the first time.
    Begun,
    /// It is executed again: the lease of the run before ended without a result.
    TakenOver,
    /// Its response is recorded.
    Completed,
    /// It was not executed: the key is free again.
    Released,
    /// Its response is not stored: the next request with its key is the next run.
    NotStored,
    /// Its response was replayed.
    Replayed,
    /// Its lease ended before it did, and another run took it over: it was executed twice, at least in part.
    LeaseLost,
    /// Its response was sent, but the store did not record it: it may be executed again.
    NotRecorded,
    /// An operator released its key.
    ReleasedByOperator,
    /// An operator recorded its response.
    RecordedByOperator,
}

impl OperationStep {
    /// The step as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::TakenOver => "taken_over",
            Self::Completed => "completed",
            Self::Released => "released",
            Self::NotStored => "not_stored",
            Self::Replayed => "replayed",
            Self::LeaseLost => "lease_lost",
            Self::NotRecorded => "not_recorded",
            Self::ReleasedByOperator => "released_by_operator",
            Self::RecordedByOperator => "recorded_by_operator",
        }
    }
}

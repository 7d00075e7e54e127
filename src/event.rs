//! Everything that can be observed, in one enum.
//!
//! Everything is reported after every lock is released, on the task it happened in. The observers of the features
//! `metrics` and `tracing` see every event; your own see them after [`subscribe`].

use std::error::Error as StdError;
use std::time::Duration;

use crate::error::Rejected;
use crate::live_names::BuiltAt;
pub use crate::observe::{Observe, Subscription, subscribe};
pub(crate) use crate::observe::{Refresh, emit, keep_fresh};
pub use crate::operation_id::OperationId;
use crate::outcome::Outcome;
use crate::source::CircuitCounts;
pub use crate::source::Source;
pub(crate) use crate::transition::{BreakerState, Cause, StateTransition};

/// Something that happened in a layer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A call was refused, or cut short by a time limit.
    Rejected {
        /// The layer it happened in.
        source: &'a Source,
        /// What the caller gets.
        rejected: &'a Rejected,
    },
    /// A dry run admitted a call that would have been refused.
    WouldReject {
        /// The layer it happened in.
        source: &'a Source,
        /// What the caller would have got.
        rejected: &'a Rejected,
    },
    /// A circuit breaker changed its state.
    BreakerTransition {
        /// The breaker.
        source: &'a Source,
        /// Counts the moves of this breaker. Events may arrive out of order; an older one is to be ignored.
        sequence: u64,
        /// The move.
        transition: StateTransition,
        /// Whether it is the shadow of a dry run that moved.
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
        /// What the attempt before it came to.
        outcome: Outcome,
    },
    /// A failed call is not repeated, though its outcome alone would have allowed it.
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
    /// A call ended that is observed for the four golden signals.
    Finished {
        /// The observing layer.
        source: &'a Source,
        /// What it came to; `None` if its caller left.
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
    /// The store of an idempotency layer could not do what it was asked for.
    StoreFailed {
        /// The idempotency layer.
        source: &'a Source,
        /// Why.
        error: &'a (dyn StdError + 'static),
    },
    /// A server of an idempotency store evicts records when its memory is full, or does not report whether it does. An
    /// operation whose record was evicted is executed again.
    EvictionPolicy {
        /// The store.
        source: &'a Source,
        /// The address of the server.
        server: &'a str,
        /// Its policy, such as `"allkeys-lru"`; `None` if the server does not report it.
        policy: Option<&'a str>,
    },
    /// A key was forgotten to make room or because it was idle.
    KeyEvicted {
        /// What was kept for that key.
        source: &'a Source,
    },
    /// No key could be forgotten, so a new one shares the overflow entry.
    KeyOverflow {
        /// What is shared.
        source: &'a Source,
        /// The most keys that may be kept.
        max_keys: usize,
    },
    /// Two live handles of one kind have the same name, so metrics and logs mix them up. Reported once per kind and name.
    ///
    /// Build a handle once and clone it: clones share their state, and a handle that is built for each request forgets
    /// what it has counted. Two handles for two purposes need two names.
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
            | Self::EvictionPolicy { source, .. }
            | Self::BreakerState { source, .. }
            | Self::Circuits { source, .. }
            | Self::KeyEvicted { source }
            | Self::KeyOverflow { source, .. }
            | Self::NameInUse { source, .. } => source,
        }
    }
}

/// Why a failed call is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryStop {
    /// All attempts are used up.
    AttemptsUsed,
    /// The retry budget is empty.
    BudgetExhausted,
    /// The request cannot, or must not, be sent again.
    NotRepeatable,
    /// The request's body cannot be sent again: it was not read to its end when the answer came, was too large to keep, or
    /// failed.
    BodyNotReplayable,
    /// The server asked for a longer wait than is allowed.
    WaitTooLong,
    /// The wait could not end before the deadline.
    Deadline,
    /// A retry layer nearer to the failure has already repeated it.
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
            Self::NotRepeatable => "not_repeatable",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::WaitTooLong => "wait_too_long",
            Self::Deadline => "deadline",
            Self::SpentBelow => "spent_below",
            Self::SwitchedOff => "switched_off",
            Self::NotReady => "not_ready",
        }
    }
}

/// A step of an operation with an idempotency key. What is refused is [`Event::Rejected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationStep {
    /// It is run for the first time.
    Begun,
    /// It is run again: the lease of the run before was over without a word from it.
    TakenOver,
    /// Its answer is recorded.
    Completed,
    /// It did not happen: the key is free.
    Forgotten,
    /// Its response is not stored: the next request with its key is the next run.
    NotStored,
    /// Its answer was given again.
    Replayed,
    /// Its lease was over before it was, and another took it over: it ran twice, at least in part.
    LeaseLost,
    /// Its answer was given, but the store did not take its record: it may be run again.
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
            Self::Forgotten => "forgotten",
            Self::NotStored => "not_stored",
            Self::Replayed => "replayed",
            Self::LeaseLost => "lease_lost",
            Self::NotRecorded => "not_recorded",
            Self::ReleasedByOperator => "released_by_operator",
            Self::RecordedByOperator => "recorded_by_operator",
        }
    }
}

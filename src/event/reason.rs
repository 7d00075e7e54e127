//! The reasons and steps that events report.

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

/// A step of an operation with an idempotency key. A rejected request is reported as [`Event::Rejected`](super::Event::Rejected).
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

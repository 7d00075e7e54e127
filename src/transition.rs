//! The states of a circuit breaker, and why it changes them.

/// What a circuit breaker does with the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls pass and are counted.
    Closed,
    /// Calls are refused for a time.
    Open,
    /// A few probes pass, the rest is refused.
    HalfOpen,
    /// Opened by hand for a time.
    ForcedOpen,
    /// Opened by hand until it is released.
    Isolated,
    /// Switched off: all calls pass, nothing is counted.
    Disabled,
}

impl BreakerState {
    pub(crate) const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Isolated,
        Self::Disabled,
    ];

    /// The state as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Isolated => "isolated",
            Self::Disabled => "disabled",
        }
    }
}

/// A change of a breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateTransition {
    /// The state it left.
    pub from: BreakerState,
    /// The state it is in now.
    pub to: BreakerState,
    /// Why.
    pub cause: Cause,
}

impl StateTransition {
    pub(crate) const fn new(from: BreakerState, to: BreakerState, cause: Cause) -> Self {
        Self { from, to, cause }
    }
}

/// Why a breaker changed its state. When several rules trip at once, the first of this list is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRate,
    /// Too large a share of slow calls.
    SlowRate,
    /// Too many calls in a row whose callers left before an answer.
    Abandoned,
    /// The time it was to stay open is over.
    OpenForOver,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// Too many probes failed.
    ProbeFailed,
    /// A probe gave no answer within its lease.
    ProbeLost,
    /// By hand, or by a new configuration.
    Manual,
}

impl Cause {
    /// The cause as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::SlowRate => "slow_rate",
            Self::Abandoned => "abandoned",
            Self::OpenForOver => "open_for_over",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeLost => "probe_lost",
            Self::Manual => "manual",
        }
    }
}

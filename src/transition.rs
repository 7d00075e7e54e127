//! The states of a circuit breaker, and the causes of its transitions.

/// What a circuit breaker does with the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls pass and are counted.
    Closed,
    /// Calls are rejected for a time.
    Open,
    /// A few probes pass, the rest is rejected.
    HalfOpen,
    /// Opened manually for a time.
    ForcedOpen,
    /// Opened manually until it is released.
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

/// A state transition of a breaker.
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

/// The cause of a state transition. If several rules trip at once, the first of this list is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRate,
    /// Too large a share of slow calls.
    SlowRate,
    /// Too many abandoned calls in a row.
    Abandoned,
    /// The open time is over.
    OpenForOver,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// Too many probes failed.
    ProbeFailed,
    /// A probe made no progress within `probe_idle_timeout`.
    ProbeLost,
    /// A manual transition, or a new configuration.
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

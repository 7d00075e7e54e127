//! Rejections: one error type for all layers.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::executed::Executed;
use crate::key_problem::KeyProblem;

/// A call that a layer of this crate rejected or ended: the layer, the reason, and when to retry.
///
/// The message contains the layer and the numbers: ``circuit breaker `payments` is open, next probe in 1.2s``.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// The reason.
    pub reason: Reason,
    /// The name of the layer.
    pub name: Arc<str>,
    /// The time until another call could be admitted, if known.
    pub retry_after: Option<Duration>,
    /// Whether the service may have acted on the call. Covers the whole call, earlier attempts included.
    pub executed: Executed,
}

/// Why a call was rejected or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The circuit is open: the service failed too often.
    CircuitOpen,
    /// The circuit is half-open and all its probes are in flight.
    CircuitProbing,
    /// The circuit has just closed and admits only part of the calls.
    CircuitRampingUp,
    /// The circuit was opened manually for a limited time.
    CircuitForcedOpen,
    /// The circuit is isolated manually until it is released.
    CircuitIsolated,
    /// One attempt took longer than its limit.
    AttemptTimeout {
        /// The limit that was in force.
        limit: Duration,
    },
    /// No connection was established within the limit. Nothing was sent.
    ConnectTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The head of the response did not arrive within the limit after the end of the request.
    HeaderTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The deadline of the whole call passed: before the call began (not executed) or during the call.
    Deadline,
    /// The body of the response was idle for too long.
    BodyIdle {
        /// The limit between two frames.
        limit: Duration,
    },
    /// The caller has exceeded a quota.
    QuotaExceeded(Quota),
    /// A problem with the idempotency key.
    Key(KeyProblem),
    /// A policy of your own rejected the call, with this message.
    Policy(Cow<'static, str>),
}

/// A quota that the caller has exceeded. The rejection's [`retry_after`](Rejected::retry_after) is the time until the quota allows
/// another call, and its [`name`](Rejected::name) is the name of the quota.
///
/// ```
/// use std::time::Duration;
/// use buttress::{Quota, Reason, Rejected};
///
/// let rejected = Rejected::new(Reason::QuotaExceeded(Quota::new(100).window(60)), "exports")
///     .retry_after(Some(Duration::from_secs(12)));
/// assert_eq!(
///     rejected.to_string(),
///     "quota `exports` of 100 per 60s exceeded, retry after 12s"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// The limit per window.
    pub limit: u32,
    /// The remaining quota, which is too small for the rejected call. Default: 0.
    pub remaining: u32,
    /// The length of the window in seconds. `None`, the default: the quota has no window.
    pub window: Option<NonZeroU32>,
}

impl Quota {
    /// A quota with this limit, nothing remaining and no window.
    pub const fn new(limit: u32) -> Self {
        Self {
            limit,
            remaining: 0,
            window: None,
        }
    }

    setters! {
        remaining: u32,
    }

    /// Sets the length of the window in seconds; 0 is none.
    #[must_use]
    pub const fn window(mut self, seconds: u32) -> Self {
        self.window = NonZeroU32::new(seconds);
        self
    }
}

impl Reason {
    /// The reason as a label of metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::CircuitProbing => "circuit_probing",
            Self::CircuitRampingUp => "circuit_ramping_up",
            Self::CircuitForcedOpen => "circuit_forced_open",
            Self::CircuitIsolated => "circuit_isolated",
            Self::AttemptTimeout { .. } => "attempt_timeout",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::HeaderTimeout { .. } => "header_timeout",
            Self::Deadline => "deadline",
            Self::BodyIdle { .. } => "body_idle",
            Self::QuotaExceeded(_) => "quota_exceeded",
            Self::Key(problem) => problem.as_str(),
            Self::Policy(_) => "policy",
        }
    }
}

/// The reason in a few words, without the name of the layer: `circuit open`, `no response within 250ms`. [`Rejected`] displays the
/// full sentence.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpen => f.write_str("circuit open"),
            Self::CircuitProbing => f.write_str("circuit half-open, all probes in flight"),
            Self::CircuitRampingUp => f.write_str("circuit ramping up"),
            Self::CircuitForcedOpen => f.write_str("circuit forced open"),
            Self::CircuitIsolated => f.write_str("circuit isolated"),
            Self::AttemptTimeout { limit } => write!(f, "no response within {limit:?}"),
            Self::ConnectTimeout { limit } => write!(f, "no connection within {limit:?}"),
            Self::HeaderTimeout { limit } => write!(f, "no response head within {limit:?}"),
            Self::Deadline => f.write_str("deadline exceeded"),
            Self::BodyIdle { limit } => write!(f, "no body data for {limit:?}"),
            Self::QuotaExceeded(quota) => match quota.window {
                Some(seconds) => write!(f, "quota of {} per {seconds}s exceeded", quota.limit),
                None => write!(f, "quota of {} exceeded", quota.limit),
            },
            Self::Key(problem) => problem.fmt(f),
            Self::Policy(why) => f.write_str(why),
        }
    }
}

impl Rejected {
    /// A rejection by the layer with this name of a call that never reached the service.
    pub fn new(reason: Reason, name: impl Into<Arc<str>>) -> Self {
        Self {
            reason,
            name: name.into(),
            retry_after: None,
            executed: Executed::No,
        }
    }

    setters! {
        mut retry_after: Option<Duration>,
        mut executed: Executed,
    }

    /// The event and the layer, without the reason.
    pub(crate) fn summary(&self) -> impl fmt::Display + '_ {
        Summary(self)
    }
}

struct Summary<'a>(&'a Rejected);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rejected { name, executed, .. } = self.0;
        let (happened, layer) = match self.0.reason {
            Reason::CircuitOpen
            | Reason::CircuitProbing
            | Reason::CircuitRampingUp
            | Reason::CircuitForcedOpen
            | Reason::CircuitIsolated => ("rejected", "circuit breaker "),
            Reason::AttemptTimeout { .. } => ("cut off", "timeout "),
            Reason::ConnectTimeout { .. } => ("cut off", "connect timeout "),
            Reason::HeaderTimeout { .. } => ("cut off", "header timeout "),
            Reason::Deadline if *executed == Executed::No => ("rejected", "deadline "),
            Reason::Deadline => ("cut off", "deadline "),
            Reason::BodyIdle { .. } => ("cut off", "body idle timeout "),
            Reason::QuotaExceeded(_) => ("rejected", "quota "),
            Reason::Key(_) => ("rejected", "idempotency layer "),
            Reason::Policy(_) => ("rejected", ""),
        };
        write!(f, "call {happened} by {layer}`{name}`")
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.reason {
            Reason::CircuitOpen => write!(f, "circuit breaker `{name}` is open")?,
            Reason::CircuitProbing => write!(
                f,
                "circuit breaker `{name}` is half-open and all its probes are in flight"
            )?,
            Reason::CircuitRampingUp => write!(
                f,
                "circuit breaker `{name}` is ramping up and admits only part of the calls"
            )?,
            Reason::CircuitForcedOpen => write!(f, "circuit breaker `{name}` is forced open")?,
            Reason::CircuitIsolated => write!(
                f,
                "circuit breaker `{name}` is isolated until it is released manually"
            )?,
            Reason::AttemptTimeout { limit } => {
                write!(f, "timeout `{name}`: no response within {limit:?}")?;
            }
            Reason::ConnectTimeout { limit } => {
                write!(
                    f,
                    "connect timeout `{name}`: no connection within {limit:?}"
                )?;
            }
            Reason::HeaderTimeout { limit } => write!(
                f,
                "header timeout `{name}`: no response within {limit:?} after the request was sent"
            )?,
            Reason::Deadline if self.executed == Executed::No => {
                write!(f, "deadline `{name}` passed before the call began")?;
            }
            Reason::Deadline => write!(f, "deadline `{name}` passed during the call")?,
            Reason::BodyIdle { limit } => {
                write!(f, "body idle timeout `{name}`: no data for {limit:?}")?;
            }
            Reason::QuotaExceeded(quota) => {
                write!(f, "quota `{name}` of {}", quota.limit)?;
                if let Some(seconds) = quota.window {
                    write!(f, " per {seconds}s")?;
                }
                write!(f, " exceeded")?;
            }
            Reason::Key(problem) => write!(f, "idempotency `{name}`: {problem}")?,
            Reason::Policy(why) => write!(f, "`{name}` rejected the call: {why}")?,
        }
        match (&self.reason, self.retry_after) {
            (_, None) => Ok(()),
            (Reason::CircuitOpen | Reason::CircuitForcedOpen, Some(wait)) => {
                write!(f, ", next probe in {:?}", rounded(wait))
            }
            (_, Some(wait)) => write!(f, ", retry after {:?}", rounded(wait)),
        }
    }
}

impl std::error::Error for Rejected {}

/// Rounds a wait up to milliseconds, for display.
fn rounded(wait: Duration) -> Duration {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_layer_and_the_numbers() {
        let open = Rejected::new(Reason::CircuitOpen, "payments")
            .retry_after(Some(Duration::from_micros(1_199_001)));
        assert_eq!(
            open.to_string(),
            "circuit breaker `payments` is open, next probe in 1.2s"
        );
        let limit = Duration::from_millis(250);
        let late = Rejected::new(Reason::AttemptTimeout { limit }, "search");
        assert_eq!(
            late.to_string(),
            "timeout `search`: no response within 250ms"
        );
    }

    /// One of each reason.
    fn every_reason() -> Vec<Reason> {
        let limit = Duration::from_millis(250);
        vec![
            Reason::CircuitOpen,
            Reason::CircuitProbing,
            Reason::CircuitRampingUp,
            Reason::CircuitForcedOpen,
            Reason::CircuitIsolated,
            Reason::AttemptTimeout { limit },
            Reason::ConnectTimeout { limit },
            Reason::HeaderTimeout { limit },
            Reason::Deadline,
            Reason::BodyIdle { limit },
            Reason::QuotaExceeded(Quota::new(100).window(60)),
            Reason::Key(KeyProblem::Missing),
            Reason::Policy("too many calls".into()),
        ]
    }

    #[test]
    fn a_reason_displays_without_the_name_of_the_layer() {
        let words: Vec<_> = every_reason().iter().map(Reason::to_string).collect();
        assert_eq!(
            words,
            [
                "circuit open",
                "circuit half-open, all probes in flight",
                "circuit ramping up",
                "circuit forced open",
                "circuit isolated",
                "no response within 250ms",
                "no connection within 250ms",
                "no response head within 250ms",
                "deadline exceeded",
                "no body data for 250ms",
                "quota of 100 per 60s exceeded",
                "an idempotency key is required",
                "too many calls",
            ]
        );
    }

    #[test]
    fn a_summary_names_the_layer_without_the_reason() {
        for reason in every_reason() {
            for executed in [Executed::No, Executed::Maybe] {
                let rejected = Rejected::new(reason.clone(), "x").executed(executed);
                let (summary, why) = (rejected.summary().to_string(), rejected.to_string());
                assert!(summary.ends_with("`x`"), "{summary}");
                assert!(!why.contains(&summary), "{summary}: {why}");
                assert!(!summary.contains(&reason.to_string()), "{summary}");
            }
        }
    }

    #[test]
    fn a_rejection_is_small() {
        // It is moved through every layer.
        assert_eq!(size_of::<Rejected>(), 64);
    }
}

//! Outcomes: the common classification of results for all layers.

use std::time::Duration;

use crate::call::Marks;
use crate::error::{CallError, Reason, Rejected};
pub use crate::executed::Executed;
use crate::key_problem::KeyProblem;

/// The classification of a finished call: the state of the service, and whether to retry.
///
/// Breakers read [`kind`](Outcome::kind); retries read all fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The kind of the result.
    pub kind: Kind,
    /// The wait before the next attempt that the server requested.
    pub wait: Option<Duration>,
    /// Overrides the retry decision of the kind.
    pub retry: RetryAdvice,
    /// Whether the service may have acted on the call.
    pub executed: Executed,
    /// Whether the waits of later retries start over, as after a gRPC pushback.
    pub restarts_backoff: bool,
    /// Set if a live server did not process the request. Default: `None`.
    pub unprocessed: Option<Unprocessed>,
}

/// Why a live server did not process a request (RFC 9113 §8.7).
///
/// Both happen during an ordinary restart and are no sign of bad health. Breakers and retry budgets have an allowance for each: while
/// it lasts, such a request is retried for free and the breaker does not count it. Afterwards it counts as
/// [overloaded](Kind::Overloaded) for the breaker, and a retry costs a token and a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unprocessed {
    /// The connection was closing: the request was never written, or its stream is above the last one of a GOAWAY without an
    /// error. The allowance is 100; each call that succeeds restores four.
    ConnectionClosing,
    /// The server refused the stream (HTTP/2 `REFUSED_STREAM`). The allowance is 10; every tenth call that succeeds restores
    /// one.
    StreamRefused,
}

/// The kind of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The call succeeded.
    Success,
    /// A failure that may pass.
    Transient,
    /// The service is alive and limits load.
    Overloaded,
    /// The request is at fault; the service is healthy.
    Permanent,
    /// No information about the service.
    Neutral,
}

impl Kind {
    /// The kind as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Transient => "transient",
            Self::Overloaded => "overloaded",
            Self::Permanent => "permanent",
            Self::Neutral => "neutral",
        }
    }
}

/// Whether a result may be followed by another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryAdvice {
    /// Decided by the [`Kind`]: retry if transient or overloaded.
    ByKind,
    /// No retry: it would not help or would be wrong.
    Never,
    /// No retry: the server forbids it.
    Vetoed,
    /// Retry, even if the kind would not be retried.
    Allowed,
}

impl Outcome {
    /// The call succeeded.
    pub const SUCCESS: Self = Self::of(Kind::Success);
    /// A failure that may pass.
    pub const TRANSIENT: Self = Self::of(Kind::Transient);
    /// The service is alive and limits load.
    pub const OVERLOADED: Self = Self::of(Kind::Overloaded);
    /// The request is at fault; the service is healthy.
    pub const PERMANENT: Self = Self::of(Kind::Permanent);
    /// No information about the service.
    pub const NEUTRAL: Self = Self::of(Kind::Neutral);

    /// An outcome of this kind: no wait, retried as the kind decides, perhaps executed.
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            wait: None,
            retry: RetryAdvice::ByKind,
            executed: Executed::Maybe,
            restarts_backoff: false,
            unprocessed: None,
        }
    }

    /// The outcome of a request that a live server did not process: neutral, not executed, may be retried.
    pub const fn unprocessed(how: Unprocessed) -> Self {
        let mut outcome = Self::NEUTRAL.not_executed().retry(RetryAdvice::Allowed);
        outcome.unprocessed = Some(how);
        outcome
    }

    setters! {
        wait: Option<Duration>,
        retry: RetryAdvice,
    }

    /// Marks the call as certainly not executed.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.executed = Executed::No;
        self
    }

    /// Restarts the backoff of later retries.
    #[must_use]
    pub const fn restarts_backoff(mut self) -> Self {
        self.restarts_backoff = true;
        self
    }

    /// Marks the call as perhaps executed if inner layers reported it. If one attempt sent two requests, the result is that of the
    /// last one only.
    pub(crate) const fn heeding(mut self, marks: Marks) -> Self {
        if marks.acted() {
            self.executed = Executed::Maybe;
        }
        self
    }

    /// Whether the service handled the call correctly: a success, or an error for which the request is at fault.
    pub const fn is_good(&self) -> bool {
        matches!(self.kind, Kind::Success | Kind::Permanent)
    }
}

/// Classifies results. Every layer uses a classifier. It never receives a rejection of this crate.
///
/// Closures are classifiers; [`classify_fn`] fixes their types for the compiler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify a `Result<{Res}, {E}>`",
    label = "not a classifier for these results",
    note = "to treat every error as transient: `buttress::ErrorIsTransient`",
    note = "HTTP: `buttress::http::ByStatus`, for responses of `http` or reqwest and errors that implement `buttress::http::ErrorOutcome`; your own error: \
            `impl buttress::http::ErrorOutcome for YourError {{ fn outcome(&self) -> buttress::Outcome {{ buttress::http::error_outcome(self) }} }}`; \
            a foreign one: `.map_err(buttress::BoxError::from)` next to the service",
    note = "anything else: `buttress::classify_fn(|result: Result<&Res, &E>| …)`, with the types of your service's results"
)]
pub trait Classify<Res, E> {
    /// Classifies this result.
    fn classify(&self, result: Result<&Res, &E>) -> Outcome;

    /// The type of this error in traces: one word of a short list, without variable parts. Default: `_OTHER`.
    ///
    /// It may be called for a rejection, for which [`Reason::as_str`](crate::Reason::as_str) is the type.
    fn error_type(&self, error: &E) -> &'static str {
        let _ = error;
        "_OTHER"
    }
}

impl<F, Res, E> Classify<Res, E> for F
where
    F: Fn(Result<&Res, &E>) -> Outcome,
{
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        self(result)
    }
}

/// Makes a closure a classifier: returns the closure, with its types fixed.
///
/// ```
/// use buttress::{Outcome, classify_fn};
///
/// let by_text = classify_fn(|result: Result<&String, &std::io::Error>| match result {
///     Ok(text) if text.is_empty() => Outcome::PERMANENT,
///     Ok(_) => Outcome::SUCCESS,
///     Err(_) => Outcome::TRANSIENT,
/// });
/// # let _ = by_text;
/// ```
pub const fn classify_fn<F, Res, E>(f: F) -> F
where
    F: Fn(Result<&Res, &E>) -> Outcome,
{
    f
}

/// The default classifier: an `Ok` is a success, an `Err` is transient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorIsTransient;

impl<Res, E> Classify<Res, E> for ErrorIsTransient {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::SUCCESS,
            Err(_) => Outcome::TRANSIENT,
        }
    }
}

/// Classifies a result, including rejections of this crate. `None`: a deadline ended the call, which is not the service's fault; drop
/// its permit.
#[inline(always)]
pub(crate) fn judge<Res, E, C>(result: &Result<Res, E>, classify: &C) -> Option<Outcome>
where
    E: CallError,
    C: Classify<Res, E>,
{
    match result {
        Ok(response) => Some(classify.classify(Ok(response))),
        Err(error) => judge_error(error, classify),
    }
}

/// Classifies an error, like [`judge`].
pub(crate) fn judge_error<Res, E, C>(error: &E, classify: &C) -> Option<Outcome>
where
    E: CallError,
    C: Classify<Res, E>,
{
    match error.rejected() {
        Some(rejected) => judge_rejection(rejected),
        None => Some(classify.classify(Err(error))),
    }
}

/// Classifies a rejection of this crate.
#[cold]
pub(crate) fn judge_rejection(rejected: &Rejected) -> Option<Outcome> {
    match rejected.reason {
        // The attempt ran and took too long: a failure of the service.
        Reason::AttemptTimeout { .. } | Reason::HeaderTimeout { .. } | Reason::BodyIdle { .. } => {
            Some(Outcome::TRANSIENT)
        }
        // Like any failed connection: nothing was sent.
        Reason::ConnectTimeout { .. } => Some(Outcome {
            executed: rejected.executed,
            ..Outcome::TRANSIENT
        }),
        // Failures of the handler or of the store, and errors of the caller.
        Reason::Key(problem) => Some(Outcome {
            executed: rejected.executed,
            retry: RetryAdvice::Never,
            wait: rejected.retry_after,
            ..match problem {
                KeyProblem::Failed | KeyProblem::NotExecuted | KeyProblem::StoreUnavailable => {
                    Outcome::TRANSIENT
                }
                KeyProblem::TooManyOperations => Outcome::OVERLOADED,
                KeyProblem::InProgress
                | KeyProblem::NotStored
                | KeyProblem::Unknown
                | KeyProblem::SecondCall => Outcome::NEUTRAL,
                _ => Outcome::PERMANENT,
            }
        }),
        // The caller's deadline passed during the call.
        Reason::Deadline if rejected.executed == Executed::Maybe => None,
        _ => Some(Outcome {
            kind: Kind::Neutral,
            wait: rejected.retry_after,
            retry: RetryAdvice::Never,
            executed: rejected.executed,
            restarts_backoff: false,
            unprocessed: None,
        }),
    }
}

/// Marks a response whose request was not executed. It never leaves the process, and only this crate sets it.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotExecuted {
    /// A layer of this crate in this process rejected the call.
    Here,
    /// A layer of this crate rejected a retry of the call: an earlier attempt may have been executed.
    HereAgain,
    /// The server reported it and is trusted.
    There,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Quota};

    fn judged(reason: Reason, executed: Executed) -> Option<Outcome> {
        let result: Result<(), Error<&str>> =
            Err(Rejected::new(reason, "x").executed(executed).into());
        // The classifier is not used for a rejection.
        judge(&result, &|_: Result<&(), &Error<&str>>| Outcome::SUCCESS)
    }

    #[test]
    fn a_classifier_never_receives_a_rejection() {
        let limit = Duration::from_secs(1);
        assert_eq!(
            judged(Reason::AttemptTimeout { limit }, Executed::Maybe),
            Some(Outcome::TRANSIENT)
        );
        assert_eq!(
            judged(Reason::HeaderTimeout { limit }, Executed::Maybe),
            Some(Outcome::TRANSIENT)
        );
        assert_eq!(
            judged(Reason::ConnectTimeout { limit }, Executed::No),
            Some(Outcome::TRANSIENT.not_executed())
        );
        let refusal = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
        assert_eq!(judged(Reason::Deadline, Executed::No), Some(refusal));
        assert_eq!(judged(Reason::Deadline, Executed::Maybe), None);
        assert_eq!(judged(Reason::CircuitOpen, Executed::No), Some(refusal));
        let quota = Reason::QuotaExceeded(Quota::new(1));
        assert_eq!(judged(quota, Executed::No), Some(refusal));
        assert_eq!(
            judged(Reason::CircuitOpen, Executed::Maybe).map(|o| o.executed),
            Some(Executed::Maybe),
            "earlier attempts are covered"
        );
    }
}

//! One vocabulary of results: every pattern asks the same question about a finished call.

use std::time::Duration;

use crate::call::Marks;
use crate::error::{CallError, Reason, Rejected};
use crate::key_problem::KeyProblem;

/// What a finished call says about the service and about trying again.
///
/// Breakers, limits and throttles read [`kind`](Outcome::kind); retry and hedge read all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// What the result says about the service.
    pub kind: Kind,
    /// How long the server asked us to wait before the next attempt.
    pub wait: Option<Duration>,
    /// Whether trying again is allowed whatever the kind says.
    pub retry: RetryAdvice,
    /// Whether the service may have acted on the call.
    pub executed: Executed,
    /// Whether the waits of later retries start over, as after a gRPC pushback.
    pub restarts_backoff: bool,
    /// How a request never reached a server that is alive. Default: `None`.
    pub unprocessed: Option<Unprocessed>,
}

/// How a request never reached a server that is alive (RFC 9113 §8.7 calls such a request unprocessed).
///
/// Both happen during an ordinary restart, so they say nothing about the server's health. Breakers and retry budgets keep an
/// allowance for each: while it lasts, such a request is repeated for free and the breaker does not count it. With none left,
/// it counts as [overloaded](Kind::Overloaded) for the breaker, and its repetition costs a retry token and a backoff.
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

/// What a result says about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The call did what it was for.
    Success,
    /// It might work if tried again.
    Transient,
    /// The service is alive, but limiting.
    Overloaded,
    /// The request's own fault; the service is fine.
    Permanent,
    /// Says nothing about the service.
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
    /// As its [`Kind`] has it: transient and overloaded ones.
    ByKind,
    /// No: it would not help, or would not be right.
    Never,
    /// No: the server said so.
    Vetoed,
    /// Yes, even though its kind would not be repeated.
    Allowed,
}

/// Whether the service may have acted on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Executed {
    /// It may have: the call was handed to the service.
    Maybe,
    /// It has not, for sure.
    No,
}

impl Outcome {
    /// The call did what it was for.
    pub const SUCCESS: Self = Self::of(Kind::Success);
    /// It might work if tried again.
    pub const TRANSIENT: Self = Self::of(Kind::Transient);
    /// The service is alive, but limiting.
    pub const OVERLOADED: Self = Self::of(Kind::Overloaded);
    /// The request's own fault; the service is fine.
    pub const PERMANENT: Self = Self::of(Kind::Permanent);
    /// Says nothing about the service.
    pub const NEUTRAL: Self = Self::of(Kind::Neutral);

    /// An outcome of this kind: no wait, repeated as the kind has it, perhaps executed.
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

    /// The outcome of a request that never reached a server that is alive: neutral, not executed, may be repeated.
    pub const fn unprocessed(how: Unprocessed) -> Self {
        let mut outcome = Self::NEUTRAL.not_executed().retry(RetryAdvice::Allowed);
        outcome.unprocessed = Some(how);
        outcome
    }

    setters! {
        wait: Option<Duration>,
        retry: RetryAdvice,
    }

    /// The same, and the service certainly did not act on the call.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.executed = Executed::No;
        self
    }

    /// The same, and the waits of later retries start over.
    #[must_use]
    pub const fn restarts_backoff(mut self) -> Self {
        self.restarts_backoff = true;
        self
    }

    /// The same, and perhaps executed if those inside the attempt say so: of two requests that one attempt sent, the result
    /// tells only about the last.
    pub(crate) const fn heeding(mut self, marks: Marks) -> Self {
        if marks.acted() {
            self.executed = Executed::Maybe;
        }
        self
    }

    /// Whether this counts as an answer the service is responsible for and gave well: a success, or an error that
    /// was the request's own fault.
    pub const fn is_good(&self) -> bool {
        matches!(self.kind, Kind::Success | Kind::Permanent)
    }
}

/// Says what a result means. Asked by every pattern; never shown a rejection of this crate's own.
///
/// Closures are classifiers; [`classify_fn`] helps the compiler with their types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what a `Result<{Res}, {E}>` means",
    label = "not a classifier for these results",
    note = "every error may pass if tried again: `buttress::ErrorIsTransient`",
    note = "HTTP: `buttress::http::ByStatus`, for responses of `http` or reqwest and errors that say what they mean; your own error: \
            `impl buttress::http::ErrorOutcome for YourError {{ fn outcome(&self) -> buttress::Outcome {{ buttress::http::error_outcome(self) }} }}`; \
            a foreign one: `.map_err(buttress::BoxError::from)` next to the service",
    note = "anything else: `buttress::classify_fn(|result: Result<&Res, &E>| …)`, with the types of your service's results"
)]
pub trait Classify<Res, E> {
    /// What this result means.
    fn classify(&self, result: Result<&Res, &E>) -> Outcome;

    /// What this error is called in traces: a word of a short list, never a text with an address in it. Default: `_OTHER`.
    ///
    /// It may be asked of a rejection, whose [reason](crate::Reason::as_str) has a name.
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

/// A closure as a classifier: the same closure, with its types pinned down.
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

/// The plainest classifier: an `Ok` is a success, an `Err` is transient.
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

/// What a result means, our own rejections included; `None` if it is no result at all: the call was cut short by a
/// deadline that is not the service's fault, and its permit is to be dropped.
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

/// What [`judge`] says of an error.
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

/// What a rejection of this crate's own means. The only place that knows.
#[cold]
pub(crate) fn judge_rejection(rejected: &Rejected) -> Option<Outcome> {
    match rejected.reason {
        // The attempt ran and took too long: a failure of the service.
        Reason::AttemptTimeout { .. } | Reason::HeaderTimeout { .. } | Reason::BodyIdle { .. } => {
            Some(Outcome::TRANSIENT)
        }
        // As any connection that failed: nothing was sent.
        Reason::ConnectTimeout { .. } => Some(Outcome {
            executed: rejected.executed,
            ..Outcome::TRANSIENT
        }),
        // The handler failed, or the store of its records; and the mistakes of a caller.
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
        // The caller's time ran out while the call was under way.
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

/// Says of a response that nobody acted on its request. It never leaves the process, and only this crate sets it.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotExecuted {
    /// A layer of ours in this process has refused the call.
    Here,
    /// It has refused a repetition of the call: an attempt before it may have been executed.
    HereAgain,
    /// The server says so, and is believed.
    There,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Quota};

    fn judged(reason: Reason, executed: Executed) -> Option<Outcome> {
        let result: Result<(), Error<&str>> =
            Err(Rejected::new(reason, "x").executed(executed).into());
        // A classifier that would call everything a success must not be asked about a rejection.
        judge(&result, &|_: Result<&(), &Error<&str>>| Outcome::SUCCESS)
    }

    #[test]
    fn our_own_rejections_are_judged_here_and_never_by_a_classifier() {
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
            "the claim is about the whole call"
        );
    }
}

//! The outcome of a status code.

use std::time::Duration;

use ::http::StatusCode;

use crate::call::Call;
use crate::outcome::{Outcome, RetryAdvice};

/// The outcome of a response with this status, whose server asks for this wait.
pub(in crate::http) fn of_status(status: StatusCode, wait: Option<Duration>) -> Outcome {
    let outcome = match status.as_u16() {
        ..400 => Outcome::SUCCESS,
        409 if wait.is_some() => Outcome::NEUTRAL.retry(RetryAdvice::Allowed),
        425 => too_early(),
        429 => Outcome::OVERLOADED,
        503 if wait.is_some() => Outcome::OVERLOADED,
        408 | 500 | 502 | 503 | 504 | 520..=527 => Outcome::TRANSIENT,
        400..500 | 501 | 505 | 511 => Outcome::PERMANENT,
        _ => Outcome::TRANSIENT.retry(RetryAdvice::Never),
    };
    outcome.wait(wait)
}

/// RFC 8470 §5.2: the server did not process the request, because it came in early data and may be a replay. A retry
/// does not, so a 425 to a retry would repeat forever and does not prove that the request was not executed.
fn too_early() -> Outcome {
    if Call::current().is_retry() {
        Outcome::PERMANENT.retry(RetryAdvice::Never)
    } else {
        Outcome::PERMANENT
            .not_executed()
            .retry(RetryAdvice::Allowed)
    }
}

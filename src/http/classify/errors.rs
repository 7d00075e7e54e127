//! The outcome of a transport error: whether the service may have executed the request, and whether it has failed.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;

use crate::error::{BoxError, Error, Rejected};
use crate::error_chain::{Link, links};
#[cfg(feature = "http2")]
use crate::http::classify::client_fault::is_users;
use crate::http::classify::client_fault::{OWN_FAULT, of_own};
use crate::http::classify::error_type::error_type;
#[cfg(feature = "hyper")]
use crate::http::classify::runtime_shutdown::{RUNTIME_GONE, is_dispatch_gone, is_runtime_gone};
#[cfg(feature = "hyper")]
use crate::outcome::Unprocessed;
use crate::outcome::{Executed, Outcome, RetryAdvice, judge_rejection};

/// An error of an HTTP client that has an [`Outcome`].
///
/// Implemented for the errors of `reqwest`, `hyper` and hyper-util's client (each behind its feature), for
/// [`std::io::Error`], [`BoxError`], [`Error<E>`](crate::Error) and `Infallible`. For an error of your own, one line is
/// enough:
///
/// ```
/// # #[derive(Debug, thiserror::Error)]
/// # #[error("transport")]
/// # struct ShopError(#[source] std::io::Error);
/// use buttress::Outcome;
/// use buttress::http::{ErrorOutcome, error_outcome};
///
/// impl ErrorOutcome for ShopError {
///     fn outcome(&self) -> Outcome {
///         // The source is the error of the same call. `error_outcome(self)` would treat it as that of another call.
///         error_outcome(&self.0)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `ErrorOutcome`, so its outcome is unknown",
    note = "the errors of reqwest, hyper and hyper-util implement it with this crate's features `reqwest` and `hyper`",
    note = "your own: `impl buttress::http::ErrorOutcome for {Self} {{ fn outcome(&self) -> buttress::Outcome {{ buttress::http::error_outcome(self) }} }}`",
    note = "a foreign one: `.map_err(buttress::BoxError::from)` next to the service",
    note = "or classify it yourself: `buttress::classify_fn(|result| …)`"
)]
pub trait ErrorOutcome {
    /// The outcome of this error.
    fn outcome(&self) -> Outcome;

    /// The value of OpenTelemetry's `error.type` in traces. Default: `_OTHER`.
    fn error_type(&self) -> &'static str {
        "_OTHER"
    }
}

/// The outcome of an error, found by walking its chain of sources down to the first known type.
///
/// | what happened | outcome |
/// |---|---|
/// | no connection: refused, unreachable, name or TLS failed, connect timeout | transient, not executed |
/// | the connection closed before the request was written (feature `hyper`) | [unprocessed](Outcome::unprocessed): neutral, not executed, may be retried |
/// | HTTP/2: refused stream, or one above the last stream of a GOAWAY without an error (feature `http2`) | unprocessed, too |
/// | HTTP/2: stream above the last one of a GOAWAY with an error | transient (`ENHANCE_YOUR_CALM`: overloaded), not executed |
/// | reset, closed before the response was complete, timeout, garbage, anything unknown | transient |
/// | a redirect that cannot be followed, an undecodable body | permanent |
/// | the request cannot be built or sent: a bad URI, an unknown version | neutral, never retried |
/// | the request's own body failed, a message is larger than tonic's encode limit | neutral, never retried |
/// | the runtime that drove the connection has shut down (feature `hyper`) | neutral, may be retried |
/// | refused by tower's `LoadShed` (feature `tower`) | neutral, not executed, never retried |
/// | the worker of tower's `Buffer` is gone (feature `tower`) | neutral, never retried |
/// | the service inside tower's `Buffer` was not ready (feature `tower`) | as its own error, not executed, never retried |
/// | a [`Rejected`] of this crate | as its reason |
///
/// # Whose error it is
///
/// The chain is followed through the errors of this crate, of reqwest, hyper-util, tonic's channels and tower's `Buffer`, each
/// behind its feature. An error below any other type, including [`io::Error`], may belong to another call, which the
/// service made on its own. Its kind still counts, but it never proves that this call was not executed, and it is retried at
/// most [by its kind](RetryAdvice::ByKind).
///
/// # Redirects
///
/// An error concerns the last request that the client sent. After a redirect, the refused connection may be the one to the
/// target of a POST's redirect. Retries therefore do not trust "not executed" where redirects may be followed: see
/// [`Redirects`](crate::http::Redirects).
pub fn error_outcome(error: &(dyn StdError + 'static)) -> Outcome {
    let mut fallback = Outcome::TRANSIENT;
    // A buffer that has failed never calls its service again.
    let mut in_failed_buffer = false;
    for link in links(error) {
        in_failed_buffer |= link.certain && is_failed_buffer(link.error);
        match of_link(link.error) {
            Some(Says::This(outcome)) => {
                fallback = weighed(outcome, link);
                break;
            }
            Some(Says::UnlessDeeper(outcome)) => fallback = weighed(outcome, link),
            None => {}
        }
    }
    if in_failed_buffer {
        return Outcome::of(fallback.kind)
            .not_executed()
            .retry(RetryAdvice::Never);
    }
    fallback
}

/// Weakens an outcome that was found below a foreign error: it may be that of another call.
fn weighed(mut outcome: Outcome, link: Link<'_>) -> Outcome {
    if !link.certain {
        outcome.executed = Executed::Maybe;
        outcome.unprocessed = None;
        if outcome.retry == RetryAdvice::Allowed {
            outcome.retry = RetryAdvice::ByKind;
        }
    }
    outcome
}

#[cfg_attr(
    not(feature = "tower"),
    expect(unused_variables, reason = "none is known")
)]
fn is_failed_buffer(error: &(dyn StdError + 'static)) -> bool {
    #[cfg(feature = "tower")]
    return error.is::<::tower::buffer::error::ServiceError>();
    #[cfg(not(feature = "tower"))]
    false
}

/// The outcome of one link of a chain.
enum Says {
    /// This, whatever is below it.
    This(Outcome),
    /// This, unless a link below knows better.
    #[cfg_attr(
        not(feature = "reqwest"),
        expect(dead_code, reason = "only reqwest's errors are that vague")
    )]
    UnlessDeeper(Outcome),
}

fn of_link(error: &(dyn StdError + 'static)) -> Option<Says> {
    if let Some(rejected) = error.downcast_ref::<Rejected>() {
        // A rejection without an outcome must at least not be retried.
        return Some(Says::This(judge_rejection(rejected).unwrap_or(OWN_FAULT)));
    }
    if let Some(outcome) = of_own(error) {
        return Some(Says::This(outcome));
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<::reqwest::Error>() {
        return of_reqwest(error);
    }
    #[cfg(feature = "hyper")]
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return of_hyper_util(error);
    }
    #[cfg(feature = "hyper")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // A source may be the error of another call, whose response is this request's body.
        return Some(Says::This(of_hyper(error)));
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // A connection that is established is never refused.
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        return refused.then_some(Says::This(NOT_CONNECTED));
    }
    #[cfg(feature = "tonic")]
    if error.is::<::tonic::ConnectError>() {
        return Some(Says::This(of_connecting(error)));
    }
    None
}

const NOT_CONNECTED: Outcome = Outcome::TRANSIENT.not_executed();

/// There was no connection, so nothing was sent.
#[cfg(feature = "hyper")]
fn of_connecting(error: &(dyn StdError + 'static)) -> Outcome {
    if is_runtime_gone(error) {
        RUNTIME_GONE.not_executed()
    } else {
        NOT_CONNECTED
    }
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &::reqwest::Error) -> Option<Says> {
    if let Some(status) = error.status() {
        return Some(Says::This(crate::http::classify::status_code::of_status(
            status, None,
        )));
    }
    if error.is_builder() {
        return Some(Says::This(OWN_FAULT));
    }
    if error.is_redirect() || error.is_upgrade() {
        return Some(Says::This(Outcome::PERMANENT));
    }
    // A body that ends too soon is reported as one that cannot be decoded.
    error
        .is_decode()
        .then_some(Says::UnlessDeeper(Outcome::PERMANENT))
}

#[cfg(feature = "hyper")]
fn of_hyper_util(error: &hyper_util::client::legacy::Error) -> Option<Says> {
    if error.is_connect() {
        return Some(Says::This(of_connecting(error)));
    }
    // Every failure of a connection has a cause. An error without a source is a request that the client refuses to
    // send: a relative URI, an unknown version or method.
    error.source().is_none().then_some(Says::This(OWN_FAULT))
}

#[cfg(feature = "hyper")]
fn of_hyper(error: &hyper::Error) -> Outcome {
    // hyper reports both for requests that were never written to their connection.
    if error.is_canceled() || error.is_closed() {
        return Outcome::unprocessed(Unprocessed::ConnectionClosing);
    }
    if is_dispatch_gone(error) {
        return RUNTIME_GONE;
    }
    if error.is_user() {
        return OWN_FAULT;
    }
    if is_runtime_gone(error) {
        return RUNTIME_GONE;
    }
    #[cfg(feature = "http2")]
    if let Some(error) = error.source().and_then(|source| source.downcast_ref()) {
        return of_h2(error);
    }
    Outcome::TRANSIENT
}

/// RFC 9113 §8.7: a refused stream, and one above the last stream of a GOAWAY, was not processed.
#[cfg(feature = "http2")]
fn of_h2(error: &h2::Error) -> Outcome {
    if is_users(error) {
        return OWN_FAULT;
    }
    if !error.is_remote() {
        return Outcome::TRANSIENT;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => {
            Outcome::unprocessed(Unprocessed::StreamRefused)
        }
        // h2 gives the error of a GOAWAY only to streams above its last one; the others may still get a response.
        Some(reason) if error.is_go_away() => match reason {
            h2::Reason::NO_ERROR => Outcome::unprocessed(Unprocessed::ConnectionClosing),
            h2::Reason::ENHANCE_YOUR_CALM => Outcome::OVERLOADED.not_executed(),
            _ => Outcome::TRANSIENT.not_executed(),
        },
        _ => Outcome::TRANSIENT,
    }
}

/// Implements [`ErrorOutcome`] by the chain of sources.
macro_rules! by_chain {
    ($error:ty) => {
        impl ErrorOutcome for $error {
            fn outcome(&self) -> Outcome {
                error_outcome(self)
            }

            fn error_type(&self) -> &'static str {
                error_type(self)
            }
        }
    };
}

#[cfg(feature = "reqwest")]
by_chain!(::reqwest::Error);
#[cfg(feature = "hyper")]
by_chain!(hyper::Error);
#[cfg(feature = "hyper")]
by_chain!(hyper_util::client::legacy::Error);
by_chain!(io::Error);
by_chain!(Rejected);
// For the error inside a `BoxError`, so that `boxed.outcome()` works. `BoxError` itself must not implement the trait: a stack
// returns it unchanged and maps every error that implements it to `Error<E>`, see `StackError`.
by_chain!(dyn StdError + Send + Sync);

/// Implements [`ErrorOutcome`] for [`Error`]: `BoxError` does not implement it, but the error inside does.
macro_rules! by_variant {
    ($error:ty $(, $param:ident)?) => {
        impl$(<$param: ErrorOutcome>)? ErrorOutcome for $error {
            fn outcome(&self) -> Outcome {
                match self {
                    Self::Rejected(rejected) => rejected.outcome(),
                    Self::Inner(error) => error.outcome(),
                }
            }

            fn error_type(&self) -> &'static str {
                match self {
                    Self::Rejected(rejected) => rejected.error_type(),
                    Self::Inner(error) => error.error_type(),
                }
            }
        }
    };
}

by_variant!(Error<BoxError>);
by_variant!(Error<E>, E);

impl ErrorOutcome for Infallible {
    fn outcome(&self) -> Outcome {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    #[test]
    fn a_refused_connection_below_a_foreign_error_may_be_that_of_another_call() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(refused().outcome(), NOT_CONNECTED);
        assert_eq!(BoxError::from(refused()).outcome(), NOT_CONNECTED);
        let lifted: BoxError = Error::Inner(refused()).into();
        assert_eq!(lifted.outcome(), NOT_CONNECTED);
        let held: BoxError = Box::new(io::Error::other(refused()));
        assert_eq!(held.outcome(), Outcome::TRANSIENT);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(reset.outcome(), Outcome::TRANSIENT);
        assert_eq!(BoxError::from("who knows").outcome(), Outcome::TRANSIENT);
    }

    #[test]
    fn a_request_that_cannot_be_built_is_neutral() {
        let uri = "http://a b/".parse::<::http::Uri>().unwrap_err();
        assert_eq!(BoxError::from(uri).outcome(), OWN_FAULT);
        let request = ::http::Request::builder().uri("http://a b/").body(());
        assert_eq!(BoxError::from(request.unwrap_err()).outcome(), OWN_FAULT);
    }

    #[cfg(feature = "tower")]
    #[test]
    fn a_refusal_by_a_foreign_layer_is_neutral() {
        let shed: BoxError = ::tower::load_shed::error::Overloaded::new().into();
        assert_eq!(shed.outcome(), OWN_FAULT.not_executed());
        let anothers: BoxError = Box::new(io::Error::other(shed));
        assert_eq!(anothers.outcome(), OWN_FAULT);
    }

    #[test]
    fn a_rejection_is_judged_by_its_reason() {
        let open = || Rejected::new(Reason::CircuitOpen, "x");
        let refusal = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
        assert_eq!(BoxError::from(open()).outcome(), refusal);
        assert_eq!(Error::<io::Error>::from(open()).outcome(), refusal);
        let anothers: BoxError = Box::new(io::Error::other(open()));
        assert_eq!(anothers.outcome(), OWN_FAULT, "perhaps of another call");
        let cut = Rejected::new(Reason::Deadline, "x").executed(crate::Executed::Maybe);
        assert_eq!(cut.outcome(), OWN_FAULT);
    }
}

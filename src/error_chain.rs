//! The chain of sources below an error, and which of its links certainly concern the call at hand.
//!
//! A rejection or a refused connection deep in a chain may belong to another call, for example one that the inner service made. Only
//! the types listed here are known to hold an error of the same call.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::iter;

use crate::error::{BoxError, CallError, Error, REJECTION, Rejected};

/// Any error that can be downcast.
pub(crate) type Dyn = dyn StdError + 'static;

/// One error of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    pub(crate) error: &'a Dyn,
    /// Whether the error certainly concerns the call at hand.
    pub(crate) certain: bool,
}

/// The errors of this chain, outermost first.
pub(crate) fn links(error: &Dyn) -> impl Iterator<Item = Link<'_>> {
    let first = Link {
        error,
        certain: true,
    };
    iter::successors(Some(first), |link| {
        let (error, same_call) = below(link.error)?;
        Some(Link {
            error,
            certain: link.certain && same_call,
        })
    })
}

impl CallError for BoxError {
    fn rejected(&self) -> Option<&Rejected> {
        links(&**self)
            .take_while(|link| link.certain)
            .find_map(|link| link.error.downcast_ref())
    }
}

/// The next error, and whether it certainly concerns the same call.
fn below(error: &Dyn) -> Option<(&Dyn, bool)> {
    if let Some(inside) = CLIENTS.iter().find_map(|inside| inside(error)) {
        return Some((inside, true));
    }
    // `io::Error::source` skips the error that it holds.
    let held = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if let Some(held) = held {
        return Some((held, false));
    }
    Some((error.source()?, is_of_client(error) || is_rejection(error)))
}

/// Whether this is an [`Error`], of any type, that is a rejection.
fn is_rejection(error: &Dyn) -> bool {
    #[expect(
        deprecated,
        reason = "there is no other way to recognize a type with any parameter"
    )]
    let description = error.description();
    description == REJECTION
}

/// Find the errors of clients in an [`Error`], whose `source` is the source of the client's error and not that error.
const CLIENTS: &[fn(&Dyn) -> Option<&Dyn>] = &[
    inside::<io::Error>,
    inside::<Infallible>,
    #[cfg(feature = "hyper")]
    inside::<hyper::Error>,
    #[cfg(feature = "hyper")]
    inside::<hyper_util::client::legacy::Error>,
    #[cfg(feature = "reqwest")]
    inside::<::reqwest::Error>,
    #[cfg(feature = "tonic")]
    inside::<::tonic::transport::Error>,
];

/// The content of an `Error<E>`, which may be wrapped in `Error` up to three times.
fn inside<E: StdError + 'static>(error: &Dyn) -> Option<&Dyn> {
    unwrapped::<E>(error)
        .or_else(|| unwrapped::<Error<E>>(error))
        .or_else(|| unwrapped::<Error<Error<E>>>(error))
}

fn unwrapped<E: StdError + 'static>(error: &Dyn) -> Option<&Dyn> {
    match error.downcast_ref()? {
        Error::<E>::Inner(error) => Some(error),
        Error::<E>::Rejected(rejected) => Some(rejected),
    }
}

/// Whether the source of this error concerns the same call. `hyper::Error` is not listed: its source may be the error of the
/// request's body, which may be the response of another call.
#[cfg_attr(
    not(any(feature = "hyper", feature = "tower")),
    expect(unused_variables, reason = "no client is known")
)]
fn is_of_client(error: &Dyn) -> bool {
    #[cfg(feature = "reqwest")]
    if error.is::<::reqwest::Error>() {
        return true;
    }
    #[cfg(feature = "hyper")]
    if error.is::<hyper_util::client::legacy::Error>() {
        return true;
    }
    #[cfg(feature = "tonic")]
    if error.is::<::tonic::transport::Error>() || error.is::<::tonic::ConnectError>() {
        return true;
    }
    #[cfg(feature = "tower")]
    if error.is::<::tower::buffer::error::ServiceError>() {
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::error::Reason;

    #[derive(Clone, Debug, thiserror::Error)]
    #[error("foreign")]
    struct Foreign(#[source] Arc<io::Error>);

    fn certain(error: &Dyn) -> Vec<bool> {
        links(error).map(|link| link.certain).collect()
    }

    #[test]
    fn the_sources_of_a_foreign_error_are_not_certain() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(certain(&refused()), [true]);
        assert_eq!(certain(&Foreign(refused().into())), [true, false]);
        assert_eq!(certain(&io::Error::other(refused())), [true, false]);
        let deep = io::Error::other(Foreign(refused().into()));
        assert_eq!(certain(&deep), [true, false, false]);
    }

    #[test]
    fn the_content_of_an_error_is_certain() {
        let inner = Error::Inner(io::Error::from(io::ErrorKind::ConnectionRefused));
        let boxed: BoxError = inner.into();
        let last = links(&*boxed).last().unwrap();
        assert!(last.certain && last.error.is::<io::Error>());
        let thrice = Error::Inner(Error::Inner(Error::Inner(io::Error::other("x"))));
        assert_eq!(certain(&thrice), [true, true, true, true, false]);
        let rejected: Error<Foreign> = Rejected::new(Reason::CircuitOpen, "x").into();
        for boxed in [
            BoxError::from(rejected.clone()),
            BoxError::from(Error::Inner(rejected)),
        ] {
            let last = links(&*boxed).last().unwrap();
            assert!(last.certain && last.error.is::<Rejected>());
        }
    }
}

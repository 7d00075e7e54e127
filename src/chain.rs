//! The chain of sources below an error, and which of its links are about the call at hand.
//!
//! A rejection or a refused connection deep in a chain may belong to another call, for instance one that a service inside
//! made on its own. Only the types that are listed here are known to hold the error of the same call.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::iter;

use crate::error::Error;

/// Any error, with a type that can be found out.
pub(crate) type Dyn = dyn StdError + 'static;

/// One error of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    pub(crate) error: &'a Dyn,
    /// Whether it is certainly about the call at hand.
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

/// The next error, and whether it is certainly about the same call.
fn below(error: &Dyn) -> Option<(&Dyn, bool)> {
    if let Some(inside) = inside_ours(error) {
        return Some((inside, true));
    }
    // An `io::Error` holds its cause without naming it as its source.
    let held = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if let Some(held) = held {
        return Some((held, false));
    }
    Some((error.source()?, is_of_client(error)))
}

/// What an [`Error`] holds, for the errors that clients have. Its `source` is that of the client's error, not the error itself.
fn inside_ours(error: &Dyn) -> Option<&Dyn> {
    inside::<io::Error>(error)
        .or_else(|| inside::<Infallible>(error))
        .or_else(|| {
            #[cfg(feature = "reqwest")]
            return inside::<::reqwest::Error>(error);
            #[cfg(not(feature = "reqwest"))]
            None
        })
        .or_else(|| {
            #[cfg(feature = "hyper")]
            return inside::<hyper::Error>(error)
                .or_else(|| inside::<hyper_util::client::legacy::Error>(error));
            #[cfg(not(feature = "hyper"))]
            None
        })
        .or_else(|| {
            #[cfg(feature = "tonic")]
            return inside::<::tonic::transport::Error>(error);
            #[cfg(not(feature = "tonic"))]
            None
        })
}

fn inside<E: StdError + 'static>(error: &Dyn) -> Option<&Dyn> {
    Some(match error.downcast_ref::<Error<E>>()? {
        Error::Rejected(rejected) => rejected,
        Error::Inner(error) => error,
    })
}

/// Whether the source of this error is about the same call. Not hyper's own: below it may be the error of the request's body,
/// which may be the response of another call.
#[cfg_attr(
    not(any(feature = "hyper", feature = "tonic", feature = "tower")),
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
    use crate::error::{BoxError, Reason, Rejected};

    #[derive(Debug, thiserror::Error)]
    #[error("foreign")]
    struct Foreign(#[source] io::Error);

    fn certain(error: &Dyn) -> Vec<bool> {
        links(error).map(|link| link.certain).collect()
    }

    #[test]
    fn what_lies_below_a_foreign_error_is_not_certain() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(certain(&refused()), [true]);
        assert_eq!(certain(&Foreign(refused())), [true, false]);
        assert_eq!(certain(&io::Error::other(refused())), [true, false]);
        let deep = io::Error::other(Foreign(refused()));
        assert_eq!(certain(&deep), [true, false, false]);
    }

    #[test]
    fn our_own_error_shows_what_it_holds() {
        let inner = Error::Inner(io::Error::from(io::ErrorKind::ConnectionRefused));
        let boxed: BoxError = inner.into();
        let last = links(&*boxed).last().unwrap();
        assert!(last.certain && last.error.is::<io::Error>());
        let rejected: Error<io::Error> = Rejected::new(Reason::CircuitOpen, "x").into();
        let boxed: BoxError = rejected.into();
        let last = links(&*boxed).last().unwrap();
        assert!(last.certain && last.error.is::<Rejected>());
    }
}

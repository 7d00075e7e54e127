//! The chain of sources below an error, and which of its links are about the call at hand.
//!
//! A rejection or a refused connection deep in a chain may belong to another call, for instance one that a service inside
//! made on its own. Only the types that are listed here are known to hold the error of the same call.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::iter;

use crate::error::{Error, REJECTION};

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
    if let Some(inside) = CLIENTS.iter().find_map(|inside| inside(error)) {
        return Some((inside, true));
    }
    // An `io::Error` holds its cause without naming it as its source.
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
        reason = "there is no other way to ask a type with a parameter"
    )]
    let description = error.description();
    description == REJECTION
}

/// Look into an [`Error`] for the errors that clients have. Its `source` is that of the client's error, not the error itself.
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

/// What an `Error<E>` holds, which may itself have been lifted once or twice.
fn inside<E: StdError + 'static>(error: &Dyn) -> Option<&Dyn> {
    lifted::<E>(error)
        .or_else(|| lifted::<Error<E>>(error))
        .or_else(|| lifted::<Error<Error<E>>>(error))
}

fn lifted<E: StdError + 'static>(error: &Dyn) -> Option<&Dyn> {
    match error.downcast_ref()? {
        Error::<E>::Inner(error) => Some(error),
        Error::<E>::Rejected(rejected) => Some(rejected),
    }
}

/// Whether the source of this error is about the same call. Not hyper's own: below it may be the error of the request's body,
/// which may be the response of another call.
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

    use crate::error::{BoxError, Reason, Rejected};

    #[derive(Clone, Debug, thiserror::Error)]
    #[error("foreign")]
    struct Foreign(#[source] Arc<io::Error>);

    fn certain(error: &Dyn) -> Vec<bool> {
        links(error).map(|link| link.certain).collect()
    }

    #[test]
    fn what_lies_below_a_foreign_error_is_not_certain() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(certain(&refused()), [true]);
        assert_eq!(certain(&Foreign(refused().into())), [true, false]);
        assert_eq!(certain(&io::Error::other(refused())), [true, false]);
        let deep = io::Error::other(Foreign(refused().into()));
        assert_eq!(certain(&deep), [true, false, false]);
    }

    #[test]
    fn our_own_error_shows_what_it_holds() {
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

//! Errors that were made on our own side, which say nothing about the server.

#[cfg(feature = "tonic")]
use std::error::Error as _;

use crate::chain::Dyn;
use crate::outcome::{Outcome, RetryAdvice};

/// The request or its body is at fault, or a setting of the client. Another attempt would fail in the same way.
pub(super) const OWN_FAULT: Outcome = Outcome::NEUTRAL.retry(RetryAdvice::Never);

/// What an error of this type means, if it was made on our own side.
pub(super) fn of_own(error: &Dyn) -> Option<Outcome> {
    #[cfg(feature = "tower")]
    if error.is::<::tower::load_shed::error::Overloaded>() {
        return Some(OWN_FAULT.not_executed());
    }
    // The worker is gone: its runtime has shut down, or the buffered service has panicked, perhaps during this very call.
    #[cfg(feature = "tower")]
    if error.is::<::tower::buffer::error::Closed>() {
        return Some(OWN_FAULT);
    }
    // What is no failure of the transport, and has no source, is a URI or a header that the channel cannot send.
    #[cfg(feature = "tonic")]
    if error
        .downcast_ref::<::tonic::transport::Error>()
        .is_some_and(|error| error.source().is_none())
    {
        return Some(OWN_FAULT);
    }
    let invalid = error.is::<::http::Error>()
        || error.is::<::http::uri::InvalidUri>()
        || error.is::<::http::uri::InvalidUriParts>();
    invalid.then_some(OWN_FAULT)
}

/// Whether our own side has caused this: hyper resets a stream whose request body has failed, and h2 refuses requests that it
/// cannot send.
#[cfg(feature = "http2")]
pub(super) fn is_users(error: &h2::Error) -> bool {
    // An error that is made of a reason alone does not say whose it is.
    let is_bare_reason = error.reason().is_some() && !error.is_reset() && !error.is_go_away();
    !(error.is_remote() || error.is_library() || error.is_io() || is_bare_reason)
}

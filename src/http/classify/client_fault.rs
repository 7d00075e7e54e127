//! Errors caused on the client's side, which are not attributed to the server.

#[cfg(feature = "tonic")]
use std::error::Error as _;

use crate::error_chain::Dyn;
use crate::outcome::{Outcome, RetryAdvice};

/// The request, its body or a setting of the client is at fault. Another attempt would fail in the same way.
pub(in crate::http) const OWN_FAULT: Outcome = Outcome::NEUTRAL.retry(RetryAdvice::Never);

/// The outcome of an error of this type, if it was caused on the client's side.
pub(in crate::http) fn of_own(error: &Dyn) -> Option<Outcome> {
    #[cfg(feature = "tower")]
    if error.is::<::tower::load_shed::error::Overloaded>() {
        return Some(OWN_FAULT.not_executed());
    }
    // The worker is gone: its runtime has shut down, or the buffered service has panicked, perhaps during this very call.
    #[cfg(feature = "tower")]
    if error.is::<::tower::buffer::error::Closed>() {
        return Some(OWN_FAULT);
    }
    // A transport error without a source is a URI or a header that the channel cannot send.
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

/// Whether the client's side has caused this: hyper resets a stream whose request body has failed, and h2 refuses requests
/// that it cannot send.
#[cfg(feature = "http2")]
pub(in crate::http) fn is_users(error: &h2::Error) -> bool {
    // An error that consists of a reason alone does not reveal its side.
    let is_bare_reason = error.reason().is_some() && !error.is_reset() && !error.is_go_away();
    !(error.is_remote() || error.is_library() || error.is_io() || is_bare_reason)
}

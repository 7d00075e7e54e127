//! Errors of a runtime that shuts down while it drives a connection.

use std::error::Error as _;
use std::io;

use crate::error_chain::{Dyn, links};
use crate::outcome::{Outcome, RetryAdvice};

/// The runtime that drove the connection has shut down. The server may have acted on the request, so only a request that is
/// safe to replay is retried.
pub(in crate::http) const RUNTIME_GONE: Outcome = Outcome::NEUTRAL.retry(RetryAdvice::Allowed);

/// Whether this error of hyper means that the task of its connection was dropped with its runtime.
///
/// Only the text distinguishes this from a panic in the task, which hyper reports as an error of the same kind.
pub(in crate::http) fn is_dispatch_gone(error: &hyper::Error) -> bool {
    let is_dropped = |source: &Dyn| source.to_string() == "runtime dropped the dispatch task";
    error.is_user() && error.source().is_some_and(is_dropped)
}

/// Whether the cause of this error is a runtime that has shut down: a socket without a running driver, or a cancelled DNS
/// lookup.
pub(in crate::http) fn is_runtime_gone(error: &Dyn) -> bool {
    links(error).any(|link| {
        let error = link.error;
        #[cfg(feature = "http2")]
        let of_h2 = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::get_io);
        #[cfg(not(feature = "http2"))]
        let of_h2 = None;
        let cancelled = error
            .downcast_ref::<tokio::task::JoinError>()
            .is_some_and(tokio::task::JoinError::is_cancelled);
        cancelled
            || error
                .downcast_ref::<io::Error>()
                .or(of_h2)
                .is_some_and(is_driver_gone)
    })
}

/// In the supported versions of tokio, only this text identifies the error.
fn is_driver_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
        && error.to_string() == "A Tokio 1.x context was found, but it is being shutdown."
}

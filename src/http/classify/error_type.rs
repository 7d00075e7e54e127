//! The value of `error.type` for an error.

use std::error::Error as StdError;
use std::io;

use crate::error::Rejected;
use crate::error_chain::links;
#[cfg(feature = "http2")]
use crate::http::classify::client_fault::is_users;
#[cfg(feature = "hyper")]
use crate::http::classify::runtime_shutdown::{is_dispatch_gone, is_runtime_gone};

/// The value of OpenTelemetry's `error.type`: one of a short list of words, never a text with an address in it.
///
/// For a rejection of this crate its [reason](crate::Reason::as_str); for an error of the operating system, hyper or reqwest,
/// `connection_refused`, `connection_reset`, `timeout`, `incomplete_message`, `refused_stream` and the like; for an error on the
/// client's side `invalid_request`, `load_shed`, `buffer_closed` or `runtime_shutdown`; found as
/// [`error_outcome`](crate::http::error_outcome) does, by walking down the chain of sources. `_OTHER` for everything else.
pub(in crate::http) fn error_type(error: &(dyn StdError + 'static)) -> &'static str {
    let mut name = "_OTHER";
    for link in links(error) {
        match of_link(link.error) {
            // A source may be an error of another call.
            Some(Name::Final(this)) => return this,
            // A deeper link is more precise.
            Some(Name::UnlessDeeper(this)) => name = this,
            None => {}
        }
    }
    name
}

/// The name of one link of a chain.
enum Name {
    /// This, whatever is below it.
    #[cfg_attr(
        not(any(feature = "hyper", feature = "tower")),
        expect(dead_code, reason = "no error of our own side is known")
    )]
    Final(&'static str),
    /// This, unless a link below has a name.
    UnlessDeeper(&'static str),
}

fn of_link(error: &(dyn StdError + 'static)) -> Option<Name> {
    #[cfg(feature = "tower")]
    if error.is::<::tower::load_shed::error::Overloaded>() {
        return Some(Name::Final("load_shed"));
    }
    #[cfg(feature = "tower")]
    if error.is::<::tower::buffer::error::Closed>() {
        return Some(Name::Final("buffer_closed"));
    }
    #[cfg(feature = "hyper")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return of_hyper(error);
    }
    of_plain_link(error).map(Name::UnlessDeeper)
}

fn of_plain_link(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(rejected) = error.downcast_ref::<Rejected>() {
        return Some(rejected.reason.as_str());
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_io(error.kind());
    }
    if error.is::<tokio::time::error::Elapsed>() {
        return Some("timeout");
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<::reqwest::Error>() {
        return of_reqwest(error);
    }
    #[cfg(feature = "hyper")]
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return error.is_connect().then_some("connect");
    }
    #[cfg(feature = "tonic")]
    if error.is::<::tonic::ConnectError>() {
        return Some("connect");
    }
    #[cfg(feature = "http2")]
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return of_h2(error);
    }
    None
}

fn of_io(kind: io::ErrorKind) -> Option<&'static str> {
    use io::ErrorKind as Kind;
    Some(match kind {
        Kind::ConnectionRefused => "connection_refused",
        Kind::ConnectionReset => "connection_reset",
        Kind::ConnectionAborted => "connection_aborted",
        Kind::HostUnreachable => "host_unreachable",
        Kind::NetworkUnreachable => "network_unreachable",
        Kind::BrokenPipe => "broken_pipe",
        Kind::TimedOut => "timeout",
        Kind::UnexpectedEof => "unexpected_eof",
        _ => return None,
    })
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &::reqwest::Error) -> Option<&'static str> {
    if error.is_timeout() {
        Some("timeout")
    } else if error.is_redirect() {
        Some("redirect")
    } else if error.is_builder() {
        Some("invalid_request")
    } else if error.is_decode() {
        Some("decode")
    } else {
        None
    }
}

#[cfg(feature = "hyper")]
fn of_hyper(error: &hyper::Error) -> Option<Name> {
    if is_dispatch_gone(error) {
        return Some(Name::Final("runtime_shutdown"));
    }
    if error.is_user() {
        return Some(Name::Final("invalid_request"));
    }
    if is_runtime_gone(error) {
        return Some(Name::Final("runtime_shutdown"));
    }
    let name = if error.is_canceled() || error.is_closed() {
        "connection_closed"
    } else if error.is_incomplete_message() {
        "incomplete_message"
    } else if error.is_timeout() {
        "timeout"
    } else if error.is_parse() {
        "invalid_response"
    } else {
        return None;
    };
    Some(Name::UnlessDeeper(name))
}

#[cfg(feature = "http2")]
fn of_h2(error: &h2::Error) -> Option<&'static str> {
    if is_users(error) {
        return Some("invalid_request");
    }
    if error.is_go_away() {
        return Some("go_away");
    }
    Some(match error.reason()? {
        h2::Reason::REFUSED_STREAM => "refused_stream",
        h2::Reason::CANCEL => "stream_cancelled",
        h2::Reason::ENHANCE_YOUR_CALM => "enhance_your_calm",
        _ => "stream_reset",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BoxError, Error, Reason};
    use crate::http::ErrorOutcome;

    #[test]
    fn the_deepest_link_that_has_a_name_gives_it() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let wrapped: BoxError = Box::new(io::Error::other(reset));
        assert_eq!(wrapped.error_type(), "connection_reset");
        let open = Rejected::new(Reason::CircuitOpen, "https://secret.example/?q");
        let rejected = Error::<io::Error>::from(open);
        assert_eq!(rejected.error_type(), "circuit_open");
        assert_eq!(BoxError::from("who knows").error_type(), "_OTHER");
    }
}

//! The outcome of a gRPC call: from the status in the head or the trailers, or mapped from the HTTP status.

use std::error::Error as StdError;

use ::http::header::CONTENT_TYPE;
use ::http::{Extensions, HeaderMap, StatusCode};

use super::status::{Code, STATUS, heeding, of_headers};
use crate::deadline::Deadline;
use crate::http::body::end::{BodyEnd, ClassifyEnd};
use crate::http::classify::client_fault::OWN_FAULT;
use crate::http::classify::error_type::error_type;
use crate::http::classify::errors::error_outcome;
use crate::http::classify::retry_after::retry_after;
use crate::http::classify::status::{REPLAYED_FAILURE, is_replayed, refused_by_server};
use crate::http::reject::retry_headers::NotExecuted;
use crate::http::request::HttpResponse;
use crate::outcome::{Classify, Kind, Outcome, RetryAdvice};

/// Classifies gRPC responses and errors, for every gRPC client and server that uses `http` responses, such as tonic's.
///
/// | status | outcome |
/// |---|---|
/// | `OK` | success |
/// | `UNAVAILABLE` | transient |
/// | `RESOURCE_EXHAUSTED` | overloaded |
/// | `DEADLINE_EXCEEDED`, `UNKNOWN`, `DATA_LOSS`, `INTERNAL` | transient, never retried |
/// | `CANCELLED` | neutral |
/// | `DEADLINE_EXCEEDED` in the last millisecond of the caller's deadline | neutral, never retried |
/// | all others | permanent |
///
/// The status is in the trailers, which a breaker sees through [`AtBodyEnd`](super::super::AtBodyEnd), or in the head of a
/// response without messages, which a retry sees too: retries end when the headers of a response arrive. A
/// response that is dropped before its trailers is neutral. A status that is missing at the end of a response or that cannot
/// be read is `UNKNOWN`; a response of gRPC-Web without trailers is neutral, because its status may be part of the body. A
/// response that is not gRPC gets the status that its HTTP status maps to
/// ([the mapping](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md)).
///
/// `grpc-retry-pushback-ms` sets the wait of a failure and restarts the backoff. If it is negative or cannot be parsed, the
/// failure is not retried. `x-should-retry: false` and `x-envoy-ratelimited` are vetoes too.
///
/// A failure with the metadata `idempotent-replayed: true` is neutral and never retried, as for [`ByStatus`](super::super::ByStatus).
///
/// An interceptor of tonic that refuses a call creates the response itself. With [`remote`](Self::remote) set, such a
/// response is neutral and never retried (feature `tonic`).
///
/// Errors are classified by [`error_outcome`](super::super::error_outcome), except for streams that were reset, whose reason
/// [maps to a status](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors) (feature `http2`).
///
/// ```
/// use buttress::http::ByGrpcStatus;
/// use buttress::{Classify, Outcome};
///
/// let unavailable = http::Response::builder().header("grpc-status", "14").body(()).unwrap();
/// let outcome = ByGrpcStatus::new().classify(Ok::<_, &std::io::Error>(&unavailable));
/// assert_eq!(outcome, Outcome::TRANSIENT);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByGrpcStatus {
    /// Whether the server is another process. Default: no. [`grpc`](super::super::grpc) sets it.
    ///
    /// If set, a response with a `tonic::Status` in its extensions is attributed to a local interceptor, not to the server.
    /// Leave it unset in front of a service of the same process: its failures carry a `tonic::Status` too.
    pub remote: bool,
}

/// The status comes later, and the call can no longer be retried.
const OPEN: Outcome = Outcome::SUCCESS.retry(RetryAdvice::Never);
/// The same in gRPC-Web, where the status may be in the body: missing trailers are not a failure.
const OPEN_WEB: Outcome = Outcome::SUCCESS.retry(RetryAdvice::Vetoed);

/// The same for a stored response, distinguished by a flag that has no meaning for a success.
const fn replayed(open: Outcome) -> Outcome {
    open.restarts_backoff()
}

/// A stored response is final, and a breaker does not count a stored failure.
fn of_replay(outcome: Outcome) -> Outcome {
    match outcome.kind {
        Kind::Success => outcome,
        _ => REPLAYED_FAILURE,
    }
}

impl ByGrpcStatus {
    /// The table above.
    pub const fn new() -> Self {
        Self { remote: false }
    }

    /// Whether the server is another process.
    #[must_use]
    pub const fn remote(mut self, remote: bool) -> Self {
        self.remote = remote;
        self
    }

    /// The outcome of this response's head.
    pub fn response<R: HttpResponse>(self, response: &R) -> Outcome {
        let headers = response.headers();
        let is_replayed = is_replayed(headers);
        let open = |open| if is_replayed { replayed(open) } else { open };
        let outcome = match of_headers(headers) {
            Some(_) if self.remote && is_made_here(response.extensions()) => OWN_FAULT,
            Some(outcome) => outcome,
            None if response.status() == StatusCode::OK && may_be(headers, GRPC_WEB) => {
                return open(OPEN_WEB);
            }
            None if response.status() == StatusCode::OK && may_be_grpc(headers) => {
                return open(OPEN);
            }
            None => {
                let code = Code::of_http(response.status());
                heeding(code.outcome().wait(retry_after(response)), headers)
            }
        };
        match response.extensions().get() {
            Some(NotExecuted::Here | NotExecuted::HereAgain) => {
                let refused = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
                refused.wait(outcome.wait)
            }
            _ if is_replayed => of_replay(outcome),
            Some(NotExecuted::There) => refused_by_server(outcome),
            None => outcome,
        }
    }

    /// The outcome of this error.
    pub fn error(self, error: &(dyn StdError + 'static)) -> Outcome {
        let outcome = error_outcome(error);
        #[cfg(feature = "http2")]
        if let (Outcome::TRANSIENT, Some(reason)) = (outcome, reset(error)) {
            return Code::of_reset(reason).outcome();
        }
        outcome
    }
}

/// Whether tonic created this response in this process.
#[cfg(feature = "tonic")]
fn is_made_here(extensions: &Extensions) -> bool {
    extensions.get::<::tonic::Status>().is_some()
}

#[cfg(not(feature = "tonic"))]
const fn is_made_here(_: &Extensions) -> bool {
    false
}

/// A response with another content type does not come from a gRPC server.
fn may_be_grpc(headers: &HeaderMap) -> bool {
    !headers.contains_key(CONTENT_TYPE) || may_be(headers, GRPC)
}

fn may_be(headers: &HeaderMap, media_type: &[u8]) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        let prefix = content_type.as_bytes().get(..media_type.len());
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(media_type))
    })
}

/// `DEADLINE_EXCEEDED` in the head.
fn is_late(headers: &HeaderMap) -> bool {
    let status = headers.get(STATUS);
    status.is_some_and(|status| status.as_bytes() == b"4")
}

const GRPC: &[u8] = b"application/grpc";
const GRPC_WEB: &[u8] = b"application/grpc-web";

/// The reason for which the server reset the stream of this call, if it did.
#[cfg(feature = "http2")]
fn reset(error: &(dyn StdError + 'static)) -> Option<h2::Reason> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error
                .reason()
                .filter(|_| error.is_reset() && error.is_remote());
        }
        link = error.source();
    }
    None
}

impl<Res: HttpResponse, E: StdError + 'static> Classify<Res, E> for ByGrpcStatus {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            // The server has the same deadline and gives up when it passes.
            Ok(response) if is_late(response.headers()) && Deadline::is_current_due() => {
                Outcome::NEUTRAL.retry(RetryAdvice::Never)
            }
            Ok(response) => self.response(response),
            Err(error) => self.error(error),
        }
    }

    fn error_type(&self, error: &E) -> &'static str {
        error_type(error)
    }
}

impl ClassifyEnd for ByGrpcStatus {
    fn end(&self, head: Outcome, end: BodyEnd<'_>) -> Outcome {
        if !self.is_open(&head) {
            return head;
        }
        let is_web = head == OPEN_WEB || head == replayed(OPEN_WEB);
        match end {
            BodyEnd::Dropped => Outcome::NEUTRAL,
            BodyEnd::Complete(None) if is_web => Outcome::NEUTRAL,
            BodyEnd::Complete(trailers) => {
                let status = trailers.and_then(of_headers);
                let outcome = status.unwrap_or_else(|| Code::UNKNOWN.outcome());
                if head.restarts_backoff {
                    of_replay(outcome)
                } else {
                    outcome
                }
            }
        }
    }

    fn is_open(&self, head: &Outcome) -> bool {
        [OPEN, OPEN_WEB]
            .into_iter()
            .any(|open| *head == open || *head == replayed(open))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use ::http::Response;

    use super::*;

    fn head(status: u16, fields: &[(&'static str, &'static str)]) -> Outcome {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let response = response.body(()).unwrap();
        ByGrpcStatus::new().classify(Ok::<_, &io::Error>(&response))
    }

    fn end(head: Outcome, trailers: &[(&'static str, &'static str)]) -> Outcome {
        let trailers = trailers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        ByGrpcStatus::new().end(head, BodyEnd::Complete(Some(&trailers)))
    }

    const NEVER: Outcome = Outcome::TRANSIENT.retry(RetryAdvice::Never);

    #[test]
    fn a_status_in_the_head_decides_whatever_http_says() {
        assert_eq!(head(200, &[("grpc-status", "14")]), Outcome::TRANSIENT);
        assert_eq!(head(503, &[("grpc-status", "0")]), Outcome::SUCCESS);
        assert_eq!(head(200, &[("grpc-status", "fourteen")]), NEVER);
    }

    #[test]
    fn a_response_without_a_status_is_mapped_from_http() {
        assert_eq!(head(503, &[]), Outcome::TRANSIENT);
        assert_eq!(head(500, &[]), NEVER);
        assert_eq!(head(404, &[]), Outcome::PERMANENT);
        let wait = Some(Duration::from_secs(7));
        assert_eq!(
            head(503, &[("retry-after", "7")]),
            Outcome::TRANSIENT.wait(wait)
        );
        assert_eq!(
            head(429, &[("x-envoy-ratelimited", "1")]),
            Outcome::TRANSIENT.retry(RetryAdvice::Vetoed)
        );
        for (content_type, outcome) in [
            ("application/grpc", OPEN),
            ("application/grpc+proto", OPEN),
            ("Application/gRPC-web", OPEN_WEB),
            ("application/grp", NEVER),
            ("text/html", NEVER),
            ("", NEVER),
        ] {
            let meaning = head(200, &[("content-type", content_type)]);
            assert_eq!(meaning, outcome, "{content_type}");
        }
    }

    #[test]
    fn the_trailers_decide_what_the_head_left_open() {
        let open = head(200, &[("content-type", "application/grpc")]);
        assert_eq!(open.kind, crate::Kind::Success);
        assert_eq!(end(open, &[("grpc-status", "0")]), Outcome::SUCCESS);
        assert_eq!(end(open, &[("grpc-status", "14")]), Outcome::TRANSIENT);
        assert_eq!(end(open, &[("grpc-status", "5")]), Outcome::PERMANENT);
        assert_eq!(end(open, &[("grpc-status", "")]), NEVER);
        assert_eq!(end(open, &[("checksum", "1")]), NEVER, "no status");
        let status = ByGrpcStatus::new();
        assert_eq!(status.end(open, BodyEnd::Complete(None)), NEVER);
        assert_eq!(status.end(open, BodyEnd::Dropped), Outcome::NEUTRAL);
    }

    #[test]
    fn a_replayed_failure_is_neutral_and_never_retried() {
        let replayed = ("idempotent-replayed", "true");
        let pushback = ("grpc-retry-pushback-ms", "1000");
        for code in ["1", "4", "8", "10", "13", "14", "fourteen"] {
            let headers = [replayed, pushback, ("grpc-status", code)];
            assert_eq!(head(200, &headers), REPLAYED_FAILURE, "{code}");
            for kind in ["application/grpc", "application/grpc-web"] {
                let open = head(200, &[replayed, ("content-type", kind)]);
                assert!(ByGrpcStatus::new().is_open(&open));
                let trailers = [pushback, ("grpc-status", code)];
                assert_eq!(end(open, &trailers), REPLAYED_FAILURE, "{kind} {code}");
                assert_eq!(end(open, &[("grpc-status", "0")]), Outcome::SUCCESS);
            }
        }
        assert_eq!(head(503, &[replayed]), REPLAYED_FAILURE);
        assert_eq!(
            head(200, &[replayed, ("grpc-status", "0")]),
            Outcome::SUCCESS
        );
    }

    #[test]
    fn a_grpc_web_body_may_hold_the_status_that_its_trailers_lack() {
        let open = head(200, &[("content-type", "application/grpc-web+proto")]);
        let status = ByGrpcStatus::new();
        assert!(status.is_open(&open));
        assert_eq!(status.end(open, BodyEnd::Complete(None)), Outcome::NEUTRAL);
        assert_eq!(status.end(open, BodyEnd::Dropped), Outcome::NEUTRAL);
        assert_eq!(end(open, &[("grpc-status", "14")]), Outcome::TRANSIENT);
        assert_eq!(end(open, &[("checksum", "1")]), NEVER);
    }

    #[test]
    fn a_successful_response_without_messages_needs_no_trailers() {
        let complete = head(200, &[("grpc-status", "0")]);
        let end = BodyEnd::Complete(None);
        assert!(!ByGrpcStatus::new().is_open(&complete));
        assert_eq!(ByGrpcStatus::new().end(complete, end), Outcome::SUCCESS);
    }

    #[cfg(feature = "tonic")]
    #[test]
    fn a_refusal_by_an_interceptor_is_not_attributed_to_a_remote_server() {
        let refusal = ::tonic::Status::unavailable("no token").into_http::<()>();
        let remote = ByGrpcStatus::new().remote(true);
        assert_eq!(remote.response(&refusal), OWN_FAULT);
        assert_eq!(ByGrpcStatus::new().response(&refusal), Outcome::TRANSIENT);
        assert_eq!(remote.response(&from_the_wire("14")), Outcome::TRANSIENT);
        assert_eq!(remote.response(&from_the_wire("0")), Outcome::SUCCESS);
    }

    #[cfg(feature = "tonic")]
    fn from_the_wire(status: &str) -> Response<()> {
        Response::builder()
            .header("grpc-status", status)
            .body(())
            .unwrap()
    }

    #[test]
    fn errors_are_classified_as_for_http() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(
            ByGrpcStatus::new().error(&refused),
            Outcome::TRANSIENT.not_executed()
        );
    }
}

//! Rejections as gRPC statuses: in place of a response, or at the end of one.

use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ::http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::status::{Code, MESSAGE, PUSHBACK, STATUS};
use crate::error::{BoxError, CallError, Reason, Rejected};
use crate::http::handle_rejections::{HandleRejectionsLayer, Respond};
use crate::key_problem::KeyProblem;

/// Puts layers of this crate around a gRPC client or server, and answers their rejections as gRPC does: by a status, not by an
/// error. What calls it, such as a client that tonic generated, then sees the right code instead of `UNKNOWN`.
///
/// Other errors of the service stay what they are.
///
/// ```
/// use std::time::Duration;
///
/// use buttress::timeout::TimeoutLayer;
/// use buttress::http::handle_grpc_rejections;
/// use tonic::transport::Endpoint;
/// use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let channel = Endpoint::from_static("http://greeter.internal:50051").connect_lazy();
/// let limit = TimeoutLayer::new("greeter", Duration::from_secs(2));
/// // For instance `GreeterClient::new(service)`.
/// let client = tonic::client::Grpc::new(handle_grpc_rejections(limit).layer(channel));
/// # let _ = client;
/// # }
/// ```
///
/// # The answers
///
/// | rejection | status |
/// |---|---|
/// | an open circuit, a policy that refused, no connection in time | `UNAVAILABLE` |
/// | attempt or header timeout, deadline, stalled body | `DEADLINE_EXCEEDED` |
/// | a quota that is used up | `RESOURCE_EXHAUSTED` |
/// | an idempotency key: the operation is under way | `ABORTED` |
/// | an idempotency key: done, but the answer is not known | `FAILED_PRECONDITION` |
/// | an idempotency key: the handler failed | `INTERNAL` |
/// | an idempotency key: missing, malformed, used for another request | `INVALID_ARGUMENT` |
/// | an idempotency key: the store cannot be used; whose it is cannot be told | `UNAVAILABLE`; `PERMISSION_DENIED` |
///
/// If the wait is known, it is told as `grpc-retry-pushback-ms`, rounded up. A response that has not begun is one of headers only. One that is cut short ends with its status in the trailers. The
/// `grpc-message` is the rejection's: it names the layer and its wait. A rejection that kept the call from being executed is
/// marked as such in the response's extensions, as with [`handle_rejections`](super::super::handle_rejections).
///
/// # Cancel safety
///
/// Dropping the future drops the call inside.
pub const fn handle_grpc_rejections<L>(layers: L) -> HandleRejectionsLayer<L, GrpcStatus> {
    HandleRejectionsLayer::new(layers, GrpcStatus)
}

/// Answers with a gRPC status.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcStatus;

impl<B> Respond<B> for GrpcStatus {
    type Body = GrpcBody<B>;

    fn respond(&self, rejected: &Rejected) -> Response<GrpcBody<B>> {
        let mut response = Response::new(GrpcBody { body: None });
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        *headers = status(rejected);
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(CONTENT_TYPE, grpc);
        response
    }

    fn pass(&self, response: Response<B>) -> Response<GrpcBody<B>> {
        response.map(|body| GrpcBody { body: Some(body) })
    }
}

/// The headers or trailers that tell of a rejection.
fn status(rejected: &Rejected) -> HeaderMap {
    let mut status = HeaderMap::with_capacity(4);
    status.insert(STATUS, u16::from(code(&rejected.reason).0).into());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&rejected.to_string())) {
        status.insert(MESSAGE, message);
    }
    if let Some(wait) = rejected.retry_after {
        status.insert(PUSHBACK, millis(wait).into());
    }
    status
}

fn code(reason: &Reason) -> Code {
    match reason {
        Reason::AttemptTimeout { .. }
        | Reason::HeaderTimeout { .. }
        | Reason::Deadline
        | Reason::BodyIdle { .. } => Code::DEADLINE_EXCEEDED,
        Reason::QuotaExceeded(_) => Code::RESOURCE_EXHAUSTED,
        Reason::Key(problem) => match problem {
            KeyProblem::InProgress => Code::ABORTED,
            KeyProblem::TooSlow => Code::DEADLINE_EXCEEDED,
            KeyProblem::Failed | KeyProblem::SecondCall => Code::INTERNAL,
            KeyProblem::NotStored | KeyProblem::Unknown => Code::FAILED_PRECONDITION,
            KeyProblem::NoTenant => Code::PERMISSION_DENIED,
            KeyProblem::StoreUnavailable
            | KeyProblem::TooManyOperations
            | KeyProblem::NotExecuted => Code::UNAVAILABLE,
            _ => Code::INVALID_ARGUMENT,
        },
        Reason::CircuitOpen
        | Reason::CircuitProbing
        | Reason::CircuitRampingUp
        | Reason::CircuitForcedOpen
        | Reason::CircuitIsolated
        | Reason::ConnectTimeout { .. }
        | Reason::Policy(_) => Code::UNAVAILABLE,
    }
}

/// Never too early, so never rounded down; the longest that fits is 24 days.
fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// As `grpc-message` has it: printable ASCII but `%` stands for itself.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            // Writing to a string does not fail.
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// The body of a response, or none; a rejection in the middle of it becomes trailers with a status. Made by [`handle_grpc_rejections`].
#[pin_project]
#[derive(Debug)]
pub struct GrpcBody<B> {
    /// `None` once it was rejected.
    #[pin]
    body: Option<B>,
}

impl<B> Body for GrpcBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut slot = self.project().body;
        let Some(body) = slot.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let error: BoxError = match ready!(body.poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => error.into(),
        };
        Poll::Ready(Some(match error.rejected() {
            Some(rejected) => {
                let trailers = status(rejected);
                slot.set(None);
                Ok(Frame::trailers(trailers))
            }
            None => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ByGrpcStatus;
    use crate::outcome::{Executed, Outcome};

    fn respond(rejected: &Rejected) -> Response<GrpcBody<String>> {
        Respond::<String>::respond(&GrpcStatus, rejected)
    }

    #[test]
    fn the_code_and_the_pushback_follow_from_the_rejection() {
        let open = Rejected::new(Reason::CircuitOpen, "greeter")
            .retry_after(Some(Duration::from_micros(1_199_001)));
        let response = respond(&open);
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-retry-pushback-ms"], "1200");
        assert_eq!(
            headers["grpc-message"],
            "circuit breaker `greeter` is open, next probe in 1.2s"
        );
        let never = respond(&open.retry_after(Some(Duration::MAX)));
        let longest = i32::MAX.to_string();
        assert_eq!(never.headers()["grpc-retry-pushback-ms"], longest);

        let limit = Duration::from_secs(1);
        for late in [
            Reason::AttemptTimeout { limit },
            Reason::BodyIdle { limit },
            Reason::Deadline,
        ] {
            let response = respond(&Rejected::new(late, "greeter").executed(Executed::Maybe));
            assert_eq!(response.headers()["grpc-status"], "4");
            assert!(!response.headers().contains_key("grpc-retry-pushback-ms"));
        }
    }

    #[test]
    fn a_message_of_any_text_is_a_header() {
        for (text, encoded) in [
            ("100 % `fine`~", "100 %25 `fine`~"),
            ("two\nlines\u{7f}\0", "two%0Alines%7F%00"),
            ("ü→", "%C3%BC%E2%86%92"),
            ("", ""),
        ] {
            assert_eq!(percent_encoded(text), encoded);
            let why = text.to_owned().into();
            let response = respond(&Rejected::new(Reason::Policy(why), "x"));
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(message.ends_with(encoded), "{message}");
        }
    }

    #[test]
    fn what_is_answered_here_means_there_what_it_was() {
        let late = Rejected::new(Reason::Deadline, "greeter").executed(Executed::Maybe);
        let meaning = ByGrpcStatus::new().response(&respond(&late));
        assert_eq!(meaning.kind, Outcome::TRANSIENT.kind);
    }
}

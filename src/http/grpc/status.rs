//! The outcome of a gRPC status, and the server's retry directives.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, StatusCode};

use crate::http::classify::status::retry_directive;
use crate::outcome::{Outcome, RetryAdvice};

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The status codes that are more than a fault of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) u8);

impl Code {
    pub(super) const OK: Self = Self(0);
    pub(super) const CANCELLED: Self = Self(1);
    pub(super) const UNKNOWN: Self = Self(2);
    pub(super) const INVALID_ARGUMENT: Self = Self(3);
    pub(super) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(super) const PERMISSION_DENIED: Self = Self(7);
    pub(super) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(super) const FAILED_PRECONDITION: Self = Self(9);
    pub(super) const ABORTED: Self = Self(10);
    const UNIMPLEMENTED: Self = Self(12);
    pub(super) const INTERNAL: Self = Self(13);
    pub(super) const UNAVAILABLE: Self = Self(14);
    const DATA_LOSS: Self = Self(15);
    const UNAUTHENTICATED: Self = Self(16);

    /// The code of these headers or trailers; `None` if they name none. What cannot be read is UNKNOWN, and so are codes that
    /// do not exist.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(STATUS).iter();
        let value = values.next()?;
        let code = match *value.as_bytes() {
            [digit @ b'0'..=b'9'] => digit - b'0',
            [b'1', digit @ b'0'..=b'6'] => 10 + digit - b'0',
            _ => return Some(Self::UNKNOWN),
        };
        // A status that occurs twice is malformed.
        Some(values.next().map_or(Self(code), |_| Self::UNKNOWN))
    }

    /// The code of a response without a status, sent by a proxy or a server that does not speak gRPC.
    ///
    /// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
    pub(super) const fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The code of a stream that was reset.
    ///
    /// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>
    #[cfg(feature = "http2")]
    pub(super) fn of_reset(reason: h2::Reason) -> Self {
        match reason {
            h2::Reason::CANCEL => Self::CANCELLED,
            h2::Reason::REFUSED_STREAM => Self::UNAVAILABLE,
            h2::Reason::ENHANCE_YOUR_CALM => Self::RESOURCE_EXHAUSTED,
            h2::Reason::INADEQUATE_SECURITY => Self::PERMISSION_DENIED,
            h2::Reason::HTTP_1_1_REQUIRED => Self::UNKNOWN,
            _ => Self::INTERNAL,
        }
    }

    /// The outcome of the code alone.
    pub(super) const fn outcome(self) -> Outcome {
        match self {
            Self::OK => Outcome::SUCCESS,
            Self::CANCELLED => Outcome::NEUTRAL,
            Self::UNAVAILABLE => Outcome::TRANSIENT,
            Self::RESOURCE_EXHAUSTED => Outcome::OVERLOADED,
            // The deadline of a call is that of all its attempts; after the others, whether the call was executed is unknown.
            Self::DEADLINE_EXCEEDED | Self::UNKNOWN | Self::INTERNAL | Self::DATA_LOSS => {
                Outcome::TRANSIENT.retry(RetryAdvice::Never)
            }
            _ => Outcome::PERMANENT,
        }
    }
}

/// The outcome of headers or trailers that name a status; `None` if they name none.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<Outcome> {
    Code::of(headers).map(|code| heeding(code.outcome(), headers))
}

/// The same outcome with the server's retry directives applied.
pub(super) fn heeding(outcome: Outcome, headers: &HeaderMap) -> Outcome {
    if outcome == Outcome::SUCCESS {
        return outcome;
    }
    if retry_directive(headers) == Some(false) {
        return outcome.retry(RetryAdvice::Vetoed);
    }
    match Pushback::of(headers) {
        None => outcome,
        Some(Pushback::Wait(wait)) => outcome.wait(Some(wait)).restarts_backoff(),
        Some(Pushback::Stop) => outcome.retry(RetryAdvice::Vetoed),
    }
}

/// The value of `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushback {
    /// Retry after this time.
    Wait(Duration),
    /// Do not retry.
    Stop,
}

impl Pushback {
    /// A signed integer of 32 bits without unnecessary zeros; a value that cannot be parsed stops retries.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(PUSHBACK).iter();
        let value = values.next()?.as_bytes();
        let plain = match value {
            [b'0'] => true,
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        if !plain || values.next().is_some() {
            return Some(Self::Stop);
        }
        let millis = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse::<i32>().ok());
        Some(match millis.and_then(|millis| u64::try_from(millis).ok()) {
            Some(millis) => Self::Wait(Duration::from_millis(millis)),
            None => Self::Stop,
        })
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Kind;

    fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn every_code_has_its_outcome() {
        let never = Outcome::TRANSIENT.retry(RetryAdvice::Never);
        let permanent = Outcome::PERMANENT;
        for (code, outcome) in [
            ("0", Outcome::SUCCESS),
            ("1", Outcome::NEUTRAL),
            ("2", never),
            ("3", permanent),
            ("4", never),
            ("5", permanent),
            ("6", permanent),
            ("7", permanent),
            ("8", Outcome::OVERLOADED),
            ("9", permanent),
            ("10", permanent),
            ("11", permanent),
            ("12", permanent),
            ("13", never),
            ("14", Outcome::TRANSIENT),
            ("15", never),
            ("16", permanent),
        ] {
            let headers = headers(&[("grpc-status", code.as_bytes())]);
            assert_eq!(of_headers(&headers), Some(outcome), "{code}");
        }
    }

    #[test]
    fn a_status_that_cannot_be_read_is_unknown() {
        let unreadable: &[&[u8]] = &[
            b"",
            b" ",
            b"17",
            b"99",
            b"100",
            b"014",
            b"00",
            b"-1",
            b"+1",
            b" 0",
            b"0 ",
            b"0, 0",
            b"1.0",
            b"0x0",
            b"OK",
            b"UNAVAILABLE",
            b"4294967296",
            b"99999999999999999999999999",
            b"\xff",
        ];
        for value in unreadable {
            let headers = headers(&[("grpc-status", value)]);
            assert_eq!(Code::of(&headers), Some(Code::UNKNOWN), "{value:?}");
        }
        let twice = headers(&[("grpc-status", b"0"), ("grpc-status", b"0")]);
        assert_eq!(Code::of(&twice), Some(Code::UNKNOWN));
        assert_eq!(Code::of(&headers(&[("grpc-message", b"fine")])), None);
    }

    #[test]
    fn an_http_status_stands_for_one_that_is_missing() {
        for (status, code) in [
            (200, 2),
            (204, 2),
            (302, 2),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (408, 2),
            (418, 2),
            (429, 14),
            (500, 2),
            (501, 2),
            (502, 14),
            (503, 14),
            (504, 14),
            (505, 2),
            (999, 2),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Code::of_http(status), Code(code), "{status}");
        }
    }

    #[cfg(feature = "http2")]
    #[test]
    fn a_reset_stands_for_a_status() {
        for (reason, code) in [
            (h2::Reason::NO_ERROR, 13),
            (h2::Reason::PROTOCOL_ERROR, 13),
            (h2::Reason::INTERNAL_ERROR, 13),
            (h2::Reason::REFUSED_STREAM, 14),
            (h2::Reason::CANCEL, 1),
            (h2::Reason::ENHANCE_YOUR_CALM, 8),
            (h2::Reason::INADEQUATE_SECURITY, 7),
            (h2::Reason::HTTP_1_1_REQUIRED, 2),
            (h2::Reason::from(u32::MAX), 13),
        ] {
            assert_eq!(Code::of_reset(reason), Code(code), "{reason:?}");
        }
    }

    #[test]
    fn a_pushback_is_a_wait_or_a_stop() {
        let wait = |millis| Some(Pushback::Wait(Duration::from_millis(millis)));
        let stop = Some(Pushback::Stop);
        let rows: &[(&[u8], Option<Pushback>)] = &[
            (b"0", wait(0)),
            (b"1", wait(1)),
            (b"123", wait(123)),
            (b"2147483647", wait(2_147_483_647)),
            (b"2147483648", stop),
            (b"99999999999999999999999999", stop),
            (b"-1", stop),
            (b"-0", stop),
            (b"-2147483648", stop),
            (b"", stop),
            (b" ", stop),
            (b" 5", stop),
            (b"5 ", stop),
            (b"+5", stop),
            (b"007", stop),
            (b"00", stop),
            (b"1.5", stop),
            (b"1e3", stop),
            (b"5ms", stop),
            (b"5, 6", stop),
            (b"0x10", stop),
            (b"soon", stop),
            (b"\xff5", stop),
            ("٣".as_bytes(), stop),
        ];
        for (value, pushback) in rows {
            let headers = headers(&[("grpc-retry-pushback-ms", value)]);
            assert_eq!(Pushback::of(&headers), *pushback, "{value:?}");
        }
        let twice = [
            ("grpc-retry-pushback-ms", b"5".as_slice()),
            ("grpc-retry-pushback-ms", b"5"),
        ];
        assert_eq!(Pushback::of(&headers(&twice)), stop);
        assert_eq!(Pushback::of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_pushback_changes_the_wait_and_the_advice_but_not_the_kind() {
        let meaning = |code: &[u8], pushback: &[u8]| {
            let fields = [("grpc-status", code), ("grpc-retry-pushback-ms", pushback)];
            of_headers(&headers(&fields)).unwrap()
        };
        let wait = Some(Duration::from_millis(20));
        for (code, outcome) in [
            (b"14".as_slice(), Outcome::TRANSIENT),
            (b"8", Outcome::OVERLOADED),
            (b"13", Outcome::TRANSIENT.retry(RetryAdvice::Never)),
            (b"5", Outcome::PERMANENT),
        ] {
            let pushed = outcome.wait(wait).restarts_backoff();
            assert_eq!(meaning(code, b"20"), pushed);
            assert_eq!(meaning(code, b"-1"), outcome.retry(RetryAdvice::Vetoed));
            assert_eq!(meaning(code, b"?"), outcome.retry(RetryAdvice::Vetoed));
        }
        assert_eq!(meaning(b"0", b"-1"), Outcome::SUCCESS);
    }

    #[test]
    fn retry_directives_of_a_proxy_apply_to_grpc() {
        let limited = headers(&[("grpc-status", b"14"), ("x-envoy-ratelimited", b"true")]);
        let vetoed = Outcome::TRANSIENT.retry(RetryAdvice::Vetoed);
        assert_eq!(of_headers(&limited), Some(vetoed));
        let retry = headers(&[("grpc-status", b"13"), ("x-should-retry", b"true")]);
        assert_eq!(of_headers(&retry).unwrap().retry, RetryAdvice::Never);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            status in proptest::collection::vec(any::<u8>(), 0..12),
            pushback in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [(STATUS, &status), (PUSHBACK, &pushback)] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    headers.insert(name, value);
                }
            }
            if let Some(outcome) = of_headers(&headers) {
                prop_assert!(outcome.kind == Kind::Success || !headers.contains_key(PUSHBACK)
                    || outcome.wait.is_some() || outcome.retry == RetryAdvice::Vetoed);
            }
        }
    }
}

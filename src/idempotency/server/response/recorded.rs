//! The format of a record: version, kind, and the response in the syntax of HTTP/1.1.
//!
//! ```text
//! 1A                       version 1; A response, N not stored, U unknown, F failed
//! HTTP/1.1 201 ↵           status and headers
//! content-type: text/plain ↵
//! ↵
//! ↵                        trailers
//! paid                     the body, to the end
//! ```

use std::fmt;

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use ::http::{Response, StatusCode};
use bytes::Bytes;

use crate::idempotency::record::ByLength;
use crate::idempotency::server::lookup::OperationState;
use crate::idempotency::server::response::body::StoredBody;
use crate::idempotency::store::StoreError;
use crate::key_problem::KeyProblem;

/// The first byte of each record. If you change the format, change it, and still read records of the old version.
const VERSION: u8 = b'1';

/// A response in a record.
#[derive(Clone)]
pub(in crate::idempotency::server) struct StoredResponse {
    pub(in crate::idempotency::server) status: StatusCode,
    pub(in crate::idempotency::server) headers: HeaderMap,
    pub(in crate::idempotency::server) trailers: HeaderMap,
    pub(in crate::idempotency::server) body: Bytes,
}

/// The content of a completed record.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made"
)]
pub(in crate::idempotency::server) enum Recorded {
    Response(StoredResponse),
    /// No response was stored.
    Problem(KeyProblem),
}

/// The state of a record and the status of its response, from the whole record or its first 16 bytes.
pub(in crate::idempotency::server) fn peek(record: &[u8]) -> (OperationState, Option<StatusCode>) {
    let state = match record {
        b"1N" => OperationState::NotStored,
        b"1F" => OperationState::Failed,
        b"1U" => OperationState::Unknown,
        [VERSION, b'A', line @ ..] => {
            let status = line
                .strip_prefix(b"HTTP/1.1 ")
                .and_then(|code| code.get(..3))
                .and_then(|code| StatusCode::from_bytes(code).ok());
            return match status {
                Some(_) => (OperationState::Stored, status),
                None => (OperationState::Unreadable, None),
            };
        }
        _ => OperationState::Unreadable,
    };
    (state, None)
}

/// Without the headers and the body, which may be confidential.
impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("body", &ByLength(&self.body))
            .finish_non_exhaustive()
    }
}

/// The record of an operation without a response.
pub(in crate::idempotency::server) fn problem_record(problem: KeyProblem) -> Bytes {
    Bytes::from_static(match problem {
        KeyProblem::NotStored => b"1N",
        KeyProblem::Failed => b"1F",
        _ => b"1U",
    })
}

impl StoredResponse {
    pub(in crate::idempotency::server) fn encode(&self) -> Bytes {
        let mut text = vec![VERSION, b'A'];
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(self.status.as_str().as_bytes());
        text.extend_from_slice(b" \r\n");
        for map in [&self.headers, &self.trailers] {
            for (name, value) in map {
                text.extend_from_slice(name.as_str().as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(value.as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(&self.body);
        text.into()
    }

    /// The response to send again.
    pub(in crate::idempotency::server) fn into_response<B>(self) -> Response<StoredBody<B>> {
        let trailers = Some(self.trailers).filter(|trailers| !trailers.is_empty());
        let mut response = Response::new(StoredBody::whole(self.body, trailers));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl Recorded {
    pub(in crate::idempotency::server) fn decode(record: &Bytes) -> Result<Self, StoreError> {
        match &record[..] {
            b"1N" => Ok(Self::Problem(KeyProblem::NotStored)),
            b"1F" => Ok(Self::Problem(KeyProblem::Failed)),
            b"1U" => Ok(Self::Problem(KeyProblem::Unknown)),
            [VERSION, b'A', ..] => decode_response(record, 2)
                .map(Self::Response)
                .ok_or_else(|| unreadable("its response is damaged")),
            [version @ (b'2'..=b'9'), ..] => Err(unreadable(&format!(
                "it has format version {}, which only a newer version of buttress reads",
                char::from(*version)
            ))),
            _ => Err(unreadable("it is not a record of buttress")),
        }
    }
}

fn unreadable(why: &str) -> StoreError {
    StoreError::Unreadable(why.into())
}

fn decode_response(record: &Bytes, mut at: usize) -> Option<StoredResponse> {
    let line = record.get(at..)?;
    let end = line.windows(2).position(|two| two == b"\r\n")?;
    let status = line.get(..end)?.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    at += end + 2;
    let headers = fields(record, &mut at)?;
    let trailers = fields(record, &mut at)?;
    Some(StoredResponse {
        status,
        headers,
        trailers,
        body: record.slice(at..),
    })
}

/// Header lines up to an empty one. An HTTP parser would trim the values, which have to stay unchanged.
fn fields(record: &Bytes, at: &mut usize) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    loop {
        let rest = record.get(*at..)?;
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = &rest[..end];
        *at += end + 2;
        if line.is_empty() {
            return Some(map);
        }
        let colon = line.windows(2).position(|two| two == b": ")?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(&line[colon + 2..]).ok()?;
        map.try_append(name, value).ok()?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(record: &[u8]) -> StoredResponse {
        match Recorded::decode(&Bytes::copy_from_slice(record)).unwrap() {
            Recorded::Response(stored) => stored,
            Recorded::Problem(problem) => panic!("{problem:?}"),
        }
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let stored = decoded(
            b"1AHTTP/1.1 201 \r\ncontent-type: text/plain\r\nx: \xe9\r\nx: 2\r\n\r\ngrpc-status: 0\r\n\r\npaid\r\n\0\xff",
        );
        assert_eq!(stored.status, 201);
        assert_eq!(stored.headers["content-type"], "text/plain");
        let both: Vec<_> = stored.headers.get_all("x").iter().collect();
        assert_eq!(both, [&b"\xe9"[..], b"2"]);
        assert_eq!(stored.trailers["grpc-status"], "0");
        assert_eq!(&stored.body[..], b"paid\r\n\0\xff");
        for problem in [
            KeyProblem::NotStored,
            KeyProblem::Failed,
            KeyProblem::Unknown,
        ] {
            match Recorded::decode(&problem_record(problem)).unwrap() {
                Recorded::Problem(read) => assert_eq!(read, problem),
                Recorded::Response(stored) => panic!("{stored:?}"),
            }
        }
    }

    #[test]
    fn a_damaged_foreign_or_newer_record_is_an_error() {
        for (record, why) in [
            (&b""[..], "not a record of buttress"),
            (b"garbage", "not a record of buttress"),
            (b"1", "not a record of buttress"),
            (b"1X", "not a record of buttress"),
            (b"2AHTTP/1.1 200 \r\n\r\n\r\n", "format version 2"),
            (b"1A", "damaged"),
            (b"1AHTTP/1.1 200 \r\n", "damaged"),
            (b"1AHTTP/1.1 200 \r\n\r\n", "damaged"),
            (b"1AHTTP/1.1 xx0 \r\n\r\n\r\n", "damaged"),
            (b"1AHTTP/1.1 200 \r\nno colon\r\n\r\n\r\n", "damaged"),
            (b"1AHTTP/1.1 200 \r\na: \x01\r\n\r\n\r\n", "damaged"),
        ] {
            let error = Recorded::decode(&Bytes::from_static(record)).unwrap_err();
            assert!(error.to_string().contains(why), "{record:?}: {error}");
        }
    }

    #[test]
    fn the_first_sixteen_bytes_show_the_state_of_a_record() {
        let stored = decoded(b"1AHTTP/1.1 201 \r\nx: secret\r\n\r\n\r\nsecret");
        let record = stored.encode();
        let expected = (OperationState::Stored, Some(StatusCode::CREATED));
        assert_eq!((peek(&record), peek(&record[..16])), (expected, expected));
        for (problem, expected) in [
            (KeyProblem::NotStored, OperationState::NotStored),
            (KeyProblem::Failed, OperationState::Failed),
            (KeyProblem::Unknown, OperationState::Unknown),
        ] {
            assert_eq!(peek(&problem_record(problem)), (expected, None));
        }
        for record in [
            &b""[..],
            b"1",
            b"1A",
            b"1AHTTP/1.1 2",
            b"2AHTTP/1.1 200 ",
            b"1NN",
            b"1X",
        ] {
            assert_eq!(
                peek(record),
                (OperationState::Unreadable, None),
                "{record:?}"
            );
        }
        let shown = format!("{stored:?} {:?}", Recorded::Response(stored.clone()));
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("6 bytes"), "{shown}");
    }

    proptest! {
        #[test]
        fn an_encoded_response_is_decoded(
            status in 100_u16..1000,
            fields in proptest::collection::vec(("[a-z0-9!#$%&'*+.^_`|~-]{1,20}", "[ -~é\t]{0,32}"), 0..150),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            let stored = StoredResponse {
                status: StatusCode::from_u16(status).unwrap(),
                trailers: headers.clone(),
                headers,
                body: body.into(),
            };
            let read = decoded(&stored.encode());
            prop_assert_eq!(read.status, stored.status);
            prop_assert_eq!(read.headers, stored.headers);
            prop_assert_eq!(read.trailers, stored.trailers);
            prop_assert_eq!(read.body, stored.body);
        }

        #[test]
        fn no_record_makes_the_decoder_panic(record in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Recorded::decode(&record.clone().into());
            let ours = [&b"1AHTTP/1.1 200 \r\n"[..], &record].concat();
            let _ = Recorded::decode(&ours.into());
        }
    }
}

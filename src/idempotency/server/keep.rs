//! What is kept of a response.

use ::http::header::{self, HeaderMap, HeaderName};
use ::http::{Response, StatusCode};

use super::config::{HeaderPolicy, StoragePolicy};

/// About one connection or one exchange, or about the caller of the first request alone.
const NEVER: [HeaderName; 20] = [
    header::CONNECTION,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("b3"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("traceresponse"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("uber-trace-id"),
    HeaderName::from_static("x-amzn-trace-id"),
    HeaderName::from_static("x-buttress-not-executed"),
];

/// The same for people.
pub(super) const NEVER_IN_WORDS: &str = "those about one connection or one exchange (such as `Connection`, `Date`, `Set-Cookie`, quotas and traces)";

const NEVER_BEGINNING_WITH: [&str; 5] = [
    "ratelimit-",
    "x-ratelimit-",
    "x-rate-limit-",
    "x-b3-",
    "x-cloud-trace-",
];

/// The headers that are given again. With trailers, the one that announces them, without which HTTP/1.1 has none.
pub(super) fn headers(of: &HeaderMap, policy: &HeaderPolicy, has_trailers: bool) -> HeaderMap {
    let listed: Vec<&str> = of
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .collect();
    let mut kept = HeaderMap::with_capacity(of.keys_len());
    for (name, value) in of {
        let text = name.as_str();
        let is_allowed = match policy {
            HeaderPolicy::All => true,
            HeaderPolicy::Only(names) => names.iter().any(|only| only.eq_ignore_ascii_case(text)),
        };
        let is_passing = NEVER.contains(name)
            || (name == header::TRAILER && !has_trailers)
            || NEVER_BEGINNING_WITH
                .iter()
                .any(|start| text.starts_with(start))
            || listed.iter().any(|other| other.eq_ignore_ascii_case(text));
        if is_allowed && !is_passing {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// Whether an answer with this status is kept.
pub(super) fn keeps(policy: StoragePolicy, status: StatusCode, grpc: Option<u8>) -> bool {
    let code = status.as_u16();
    let asks_to_come_again = match grpc {
        // RESOURCE_EXHAUSTED, ABORTED.
        Some(code) => matches!(code, 8 | 10),
        None => matches!(code, 408 | 409 | 425 | 429),
    };
    let failed = match grpc {
        // UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS.
        Some(code) => matches!(code, 2 | 13..=15),
        None => code >= 500,
    };
    let succeeded = match grpc {
        Some(code) => code == 0,
        None => code < 400,
    };
    match policy {
        StoragePolicy::Definitive => !asks_to_come_again,
        StoragePolicy::DeleteOnError => !asks_to_come_again && !failed,
        StoragePolicy::SuccessOnly => succeeded,
    }
}

/// gRPC's code for a success.
pub(super) const OK: u8 = 0;
/// What a client takes a response for that ends without a code.
pub(super) const UNKNOWN: u8 = 2;

/// The code of a gRPC response, in the trailers or, without a body, in the headers, or else this one; `None` if it is no gRPC,
/// or gRPC-Web, whose code is in the body.
pub(super) fn grpc_status<B>(
    response: &Response<B>,
    trailers: Option<&HeaderMap>,
    unsaid: u8,
) -> Option<u8> {
    let kind = response.headers().get(header::CONTENT_TYPE)?.as_bytes();
    let rest = kind.strip_prefix(b"application/grpc")?;
    if response.status() != StatusCode::OK || !matches!(rest.first(), None | Some(b'+' | b';')) {
        return None;
    }
    let status = trailers
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| response.headers().get("grpc-status"));
    let code = status.map_or(Some(unsaid), |status| status.to_str().ok()?.parse().ok());
    Some(code.unwrap_or(UNKNOWN))
}

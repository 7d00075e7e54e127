//! Which responses are stored, and which of their headers.

use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName};
use ::http::response::Parts;

/// Which responses are stored, to be replayed.
///
/// Without a stored response, it is unknown whether the operation happened. [`AfterCrash`](crate::idempotency::server::AfterCrash) decides about the next request with
/// the key: by default it runs the operation again, as the next [run](crate::idempotency::server::Operation::run).
///
/// Whatever the policy:
///
/// - After [`Operation::happened`](crate::idempotency::server::Operation::happened), every response is stored.
/// - The key is released, and the next request is a first run, if nothing happened for certain: the handler called
///   [`did_not_happen`](crate::idempotency::server::Operation::did_not_happen), a layer of this crate rejected the request, or the response came before
///   a handler [took its operation](crate::idempotency::server::IdempotencyConfig::handlers_take_operation).
/// - 408 means that a time limit inside has cut the handler off. The outcome is stored as unknown, as after
///   [`max_run`](crate::idempotency::server::IdempotencyConfig::max_run).
/// - [`store_when`](crate::idempotency::server::IdempotencyLayer::store_when) takes precedence over the policy and over the rule for 408.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum StoragePolicy {
    /// All but 401, 407, 425, 429, and 503 with `Retry-After`, after which clients retry; of gRPC all but `ABORTED` and
    /// `RESOURCE_EXHAUSTED`. A 500 is stored, and a handler's panic or error is stored as 500, because the handler may have
    /// acted before it failed. Stripe does the same.
    #[default]
    Definitive,
    /// Only successes: below 400, or gRPC's `OK`. A handler that failed may have had a part of its effect, which a retry then repeats.
    SuccessOnly,
    /// As `Definitive`, except for a status of 500 and above, a panic or an error; of gRPC except for `UNKNOWN`, `INTERNAL`,
    /// `UNAVAILABLE` and `DATA_LOSS`. For handlers that roll back when they fail.
    DeleteOnError,
}

/// Which headers of a response are stored.
///
/// Headers about one connection or one exchange are never stored (`Connection` and what it lists, `Keep-Alive`,
/// `Transfer-Encoding`, `Date` …), `Set-Cookie`, quotas (`RateLimit…`) and traces (`traceparent` …).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum HeaderPolicy {
    /// All other headers.
    #[default]
    All,
    /// Only these of the other headers; header names.
    Only(Vec<String>),
}

/// Headers about one connection or one exchange, or about the first caller.
const NEVER_STORED: [HeaderName; 24] = [
    header::AGE,
    header::CONNECTION,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("b3"),
    HeaderName::from_static("idempotent-replayed"),
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
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-request-id"),
];

const NEVER_STORED_PREFIXES: [&str; 6] = [
    "access-control-",
    "ratelimit-",
    "x-ratelimit-",
    "x-rate-limit-",
    "x-b3-",
    "x-cloud-trace-",
];

/// The headers that are stored. `Trailer` only with trailers: HTTP/1.1 cannot send trailers without it.
pub(in crate::idempotency::server) fn headers(
    of: &HeaderMap,
    policy: &HeaderPolicy,
    has_trailers: bool,
) -> HeaderMap {
    let listed: Vec<&str> = of
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .collect();
    let mut stored = HeaderMap::with_capacity(of.keys_len());
    for (name, value) in of {
        let text = name.as_str();
        let is_allowed = match policy {
            HeaderPolicy::All => true,
            HeaderPolicy::Only(names) => names.iter().any(|only| only.eq_ignore_ascii_case(text)),
        };
        let is_passing = NEVER_STORED.contains(name)
            || (name == header::TRAILER && !has_trailers)
            || NEVER_STORED_PREFIXES
                .iter()
                .any(|start| text.starts_with(start))
            || listed.iter().any(|other| other.eq_ignore_ascii_case(text));
        if is_allowed && !is_passing {
            stored.append(name, value.clone());
        }
    }
    stored
}

/// The rule of [`store_when`](crate::idempotency::IdempotencyLayer::store_when).
pub(in crate::idempotency::server) type StoreWhen = dyn Fn(&Parts) -> Option<bool> + Send + Sync;

/// Which record a response leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::idempotency::server) enum Stored {
    Response,
    /// The outcome is unknown: a time limit inside has cut off the handler (408), which may have acted.
    Unknown,
    Nothing,
}

/// The record for a response with this head.
pub(in crate::idempotency::server) fn stored(
    policy: StoragePolicy,
    store_when: Option<&StoreWhen>,
    head: &Parts,
    grpc: Option<u8>,
) -> Stored {
    let is_stored = match store_when.and_then(|store_when| store_when(head)) {
        Some(is_stored) => is_stored,
        None if grpc.is_none() && head.status == StatusCode::REQUEST_TIMEOUT => {
            return Stored::Unknown;
        }
        None => stores(policy, head, grpc),
    };
    if is_stored {
        Stored::Response
    } else {
        Stored::Nothing
    }
}

fn stores(policy: StoragePolicy, head: &Parts, grpc: Option<u8>) -> bool {
    let code = head.status.as_u16();
    // Not a result of the operation: the client authenticates or waits, and retries with the same key.
    let invites_retry = match grpc {
        // RESOURCE_EXHAUSTED, ABORTED.
        Some(code) => matches!(code, 8 | 10),
        None => {
            matches!(code, 401 | 407 | 425 | 429)
                || (code == 503 && head.headers.contains_key(header::RETRY_AFTER))
        }
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
        StoragePolicy::Definitive => !invites_retry,
        StoragePolicy::DeleteOnError => !invites_retry && !failed,
        StoragePolicy::SuccessOnly => succeeded,
    }
}

/// The header with the time at which a record expires.
pub(in crate::idempotency::server) const EXPIRES: HeaderName =
    HeaderName::from_static("idempotency-expires");

/// gRPC's code for a success.
pub(in crate::idempotency::server) const OK: u8 = 0;
/// The code that clients assume for a response without one.
pub(in crate::idempotency::server) const UNKNOWN: u8 = 2;

/// The code of a gRPC response, from its trailers or headers, or else `default`. `None` if it is not gRPC, or gRPC-Web,
/// whose code is in the body.
pub(in crate::idempotency::server) fn grpc_status(
    head: &Parts,
    trailers: Option<&HeaderMap>,
    default: u8,
) -> Option<u8> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.as_bytes();
    let rest = kind.strip_prefix(b"application/grpc")?;
    if head.status != StatusCode::OK || !matches!(rest.first(), None | Some(b'+' | b';')) {
        return None;
    }
    let status = trailers
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| head.headers.get("grpc-status"));
    let code = status.map_or(Some(default), |status| status.to_str().ok()?.parse().ok());
    Some(code.unwrap_or(UNKNOWN))
}

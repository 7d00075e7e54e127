//! The idempotency key that a caller put into a request. For a client, an invalid key must not make a POST retryable; a server
//! must accept exactly the strings of RFC 9651.
#![no_main]

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use buttress::http::Replay;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope, StoredBody};
use buttress::retry::ReplayPolicy;
use buttress::{Error, KeyProblem, Outcome, Reason};
use buttress_fuzz::lines;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use libfuzzer_sys::fuzz_target;
use sfv::{BareItemFromInput, Parser};
use tower::util::{ServiceFn, service_fn};
use tower::{Layer, ServiceExt};

type Asked = Empty<bytes::Bytes>;
type Answered = Full<bytes::Bytes>;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in lines(data).take(3) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append("idempotency-key", value);
    }
    client(data, headers.clone());
    server(data, headers);
});

fn client(data: &[u8], headers: HeaderMap) {
    let mut request = Request::post("https://h/").body(()).unwrap();
    let count = headers.len();
    *request.headers_mut() = headers;
    let replay = Replay::new();
    let saved = replay
        .first(request)
        .1
        .expect("a request that can be copied");
    if !replay.is_safe(&saved, &Outcome::TRANSIENT) {
        return;
    }
    assert_eq!(count, 1);
    let text = data.trim_ascii();
    assert!(text.is_ascii() && !text.is_empty());
    if text.starts_with(b"\"") {
        assert!(string(text).is_some_and(|key| !key.is_empty()));
    }
}

/// The key as the handler sees it, or the refusal.
fn server(data: &[u8], headers: HeaderMap) {
    let one_line = headers.len() == 1;
    let mut request = Request::post("https://h/").body(Asked::new()).unwrap();
    *request.headers_mut() = headers;
    let expected = string(data).filter(|key| one_line && (1..=255).contains(&key.len()));
    let seen = SERVER.with(|(runtime, service)| {
        runtime.block_on(async {
            let response = service.clone().oneshot(request).await?;
            let body = response.into_body().collect().await;
            Ok(body.expect("a body that cannot fail").to_bytes())
        })
    });
    match (seen, expected) {
        (Ok(seen), Some(key)) => assert_eq!(seen, key),
        (Err(Error::Rejected(refused)), None) => {
            assert!(matches!(
                refused.reason,
                Reason::Key(KeyProblem::Malformed(_))
            ));
        }
        (seen, expected) => panic!("{seen:?}, {expected:?}"),
    }
}

fn string(text: &[u8]) -> Option<String> {
    match Parser::new(text).parse_item::<BareItemFromInput>() {
        Ok(BareItemFromInput::String(key)) => Some(key.as_str().to_owned()),
        _ => None,
    }
}

type Handled = std::future::Ready<Result<Response<Answered>, Error<Infallible>>>;
type Handler = fn(Request<StoredBody<Asked>>) -> Handled;
type Server = <IdempotencyLayer as Layer<ServiceFn<Handler>>>::Service;

thread_local! {
    static SERVER: (tokio::runtime::Runtime, Server) = {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let config = IdempotencyConfig::default().min_key_len(1).ttl(Duration::from_millis(1));
        let layer = IdempotencyLayer::new("fuzz", MemoryStore::new(), Scope::Global, config).unwrap();
        (runtime, layer.layer(service_fn(handler as Handler)))
    };
}

/// Responds with the key.
fn handler(request: Request<StoredBody<Asked>>) -> Handled {
    let operation = Operation::take(request.extensions());
    let key = operation
        .expect("an operation that has not ended")
        .expect("a guarded request")
        .key()
        .to_owned();
    ready(Ok(Response::new(Full::from(key))))
}

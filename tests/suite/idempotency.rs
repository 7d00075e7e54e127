//! The layer that generates idempotency keys.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use buttress::http::{IdempotencyKeys, Replay};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::ReplayPolicy;
use buttress::{CallOptions, Error, Executed, Outcome, Reason};
use http::{HeaderMap, HeaderValue, Request};
use tower::{Layer, Service, ServiceExt};

type Sent = Request<&'static str>;

/// Records the requests that it receives.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Sent>>>);

impl Service<Sent> for Notes {
    type Response = ();
    type Error = Error<Infallible>;
    type Future = Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Sent) -> Self::Future {
        self.0.lock().unwrap().push(request);
        ready(Ok(()))
    }
}

impl Notes {
    fn last(&self) -> Sent {
        self.0.lock().unwrap().pop().expect("a call")
    }
}

fn request(method: &str) -> Sent {
    Request::builder().method(method).body("").unwrap()
}

async fn sent(layer: &IdempotencyKeyLayer, request: Sent) -> Sent {
    let notes = Notes::default();
    layer.layer(notes.clone()).oneshot(request).await.unwrap();
    notes.last()
}

fn key(headers: &HeaderMap) -> &str {
    headers["idempotency-key"].to_str().unwrap()
}

#[tokio::test]
async fn only_methods_that_are_not_idempotent_get_a_key() {
    let layer = IdempotencyKeyLayer::new();
    for method in ["POST", "PATCH"] {
        let sent = sent(&layer, request(method)).await;
        assert_eq!(key(sent.headers()).len(), 38, "a quoted UUID");
        assert!(sent.headers()["idempotency-key"].is_sensitive());
    }
    for method in [
        "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "CONNECT", "REPORT",
    ] {
        let sent = sent(&layer, request(method)).await;
        assert!(sent.headers().is_empty(), "{method}");
    }
}

#[tokio::test]
async fn calls_have_different_keys_and_attempts_have_the_same() {
    let layer = IdempotencyKeyLayer::new();
    let first = sent(&layer, request("POST")).await;
    let other = sent(&layer, request("POST")).await;
    assert_ne!(key(first.headers()), key(other.headers()));
    let (attempt, saved) = Replay::new().first(first);
    let mut saved = saved.unwrap();
    for _ in 0..3 {
        let again = ReplayPolicy::<Sent>::again(&Replay::new(), &mut saved).unwrap();
        assert_eq!(key(again.headers()), key(attempt.headers()));
    }
}

#[tokio::test]
async fn a_key_in_the_request_is_not_replaced() {
    let mut own = request("POST");
    own.headers_mut().insert(
        "idempotency-key",
        HeaderValue::from_static("mine, badly formed"),
    );
    let sent = sent(&IdempotencyKeyLayer::new(), own).await;
    assert_eq!(key(sent.headers()), "mine, badly formed");
    assert_eq!(sent.headers().get_all("idempotency-key").iter().count(), 1);
}

#[tokio::test]
async fn header_and_form_are_configurable() {
    let layer = IdempotencyKeyLayer::new()
        .header("PayPal-Request-Id")
        .unwrap()
        .unquoted();
    let sent = sent(&layer, request("POST")).await;
    let key = sent.headers()["paypal-request-id"].to_str().unwrap();
    assert_eq!((key.len(), key.as_bytes()[14]), (36, b'4'));
    let error = IdempotencyKeyLayer::new().header("no header").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`header` is \"no header\", but it must be a header name"
    );
}

#[tokio::test]
async fn the_key_of_the_call_options_is_used() {
    let layer = IdempotencyKeyLayer::new();
    let options = CallOptions::new().idempotency_key("order \"7\"");
    let with_key = options.scope(sent(&layer, request("POST"))).await;
    assert_eq!(key(with_key.headers()), r#""order \"7\"""#);
}

#[tokio::test]
async fn a_key_that_cannot_be_sent_is_rejected_before_the_service_is_called() {
    let notes = Notes::default();
    for (layer, bad) in [
        (IdempotencyKeyLayer::new(), ""),
        (IdempotencyKeyLayer::new(), "größe-xyz"),
        (IdempotencyKeyLayer::new().unquoted(), "with space-xyz"),
    ] {
        let call = layer.layer(notes.clone()).oneshot(request("POST"));
        match CallOptions::new().idempotency_key(bad).scope(call).await {
            Err(Error::Rejected(rejected)) => {
                assert!(matches!(rejected.reason, Reason::Policy(_)));
                assert_eq!(rejected.executed, Executed::No);
                assert!(
                    !rejected.to_string().contains("xyz"),
                    "a key is never shown"
                );
            }
            other => panic!("not rejected: {other:?}"),
        }
    }
    assert!(notes.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_generated_key_makes_a_request_safe_only_if_it_is_honored() {
    let is_safe = |replay: &Replay, request: Sent| {
        let (_, saved) = replay.first(request);
        ReplayPolicy::<Sent>::is_safe(replay, &saved.unwrap(), &Outcome::TRANSIENT)
    };
    let layer = IdempotencyKeyLayer::new();
    let generated = sent(&layer, request("POST")).await;
    assert!(!is_safe(&Replay::new(), generated.clone()));
    assert!(is_safe(
        &Replay::new().idempotency_keys(IdempotencyKeys::Honored),
        generated
    ));
    // A request that crosses a buffer is called in another task and is still marked.
    let notes = Notes::default();
    let buffered = tower::buffer::Buffer::new(notes.clone(), 1);
    let layered = layer.layer(tower::util::MapErr::new(
        buffered,
        |error| -> buttress::BoxError { error },
    ));
    layered.oneshot(request("POST")).await.unwrap();
    assert!(!is_safe(&Replay::new(), notes.last()));
}

#[tokio::test]
async fn the_debug_output_of_options_has_no_key() {
    let options = CallOptions::new().idempotency_key("order-4711");
    let shown = format!("{options:?}");
    assert!(!shown.contains("4711"), "{shown}");
    let scope = options.scope(std::future::ready(()));
    let shown = format!("{scope:?}");
    assert!(!shown.contains("4711"), "{shown}");
    scope.await;
}

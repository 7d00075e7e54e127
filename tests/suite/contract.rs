//! Every layer follows tower's contract, over a strict service and over services that have revealed bugs of layers.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Breaker, BreakerLayer, BreakerState};
use buttress::gate::{KeyBy, Keyed, KeyedConfig, by};
use buttress::http::deadline::{ExtractDeadlineConfig, ExtractDeadlineLayer, Trust};
use buttress::http::{
    AttemptSpanLayer, ByStatus, ClientConfig, ConnectTimeoutLayer, HeaderTimeoutLayer,
    ServerConfig, client, handle_rejections, server,
};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyKeyLayer, IdempotencyLayer, Scope};
use buttress::reqwest::SendThrough;
use buttress::retry::{RetryConfig, RetryLayer, by_clone, by_clone_if};
use buttress::telemetry::{ObserveLayer, Observed};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{BoxError, CallOptions, Deadline, Error, ErrorIsTransient};
use bytes::Bytes;
use http_body_util::Full;
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{
    Failure, Inner, SECOND, bad, breaker, good, poll, poll_ready, rejection, three_in_a_row,
};

fn keyed() -> BreakerLayer<ErrorIsTransient, Keyed<u32, impl KeyBy<(), Key = u32> + use<>, Breaker>>
{
    let keys = KeyedConfig::default();
    let keyed = Breaker::keyed("contract", three_in_a_row(), keys, by(|(): &()| 7));
    BreakerLayer::new(keyed.unwrap(), ErrorIsTransient)
}

fn single() -> BreakerLayer<ErrorIsTransient> {
    BreakerLayer::new(breaker("contract", three_in_a_row()), ErrorIsTransient)
}

fn observe() -> ObserveLayer<ErrorIsTransient> {
    ObserveLayer::new(Observed::new("contract"), ErrorIsTransient)
}

/// At once, as often as the budget pays.
fn retry() -> RetryLayer {
    let at_once = Backoff::constant(std::time::Duration::ZERO).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(at_once);
    RetryLayer::new("contract", config, by_clone()).unwrap()
}

/// `clones`: how often a call clones the service.
async fn follows_the_contract<L>(layer: L, clones: usize)
where
    L: Layer<Inner> + Clone,
    L::Service: Service<(), Response = &'static str, Error = Failure> + Clone,
{
    let inner: Inner = Inner::new(|_| good());
    let mut service = layer.layer(inner.clone());
    // Polled ready before each call, or the strict service panics.
    for _ in 0..3 {
        assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    }
    assert_eq!(inner.calls(), 3);
    // What was polled ready can be called although it was cloned meanwhile; the clone is polled by itself.
    service.ready().await.unwrap();
    let cloned = service.clone();
    assert_eq!(service.call(()).await, Ok("good"));
    assert_eq!(cloned.oneshot(()).await, Ok("good"));
    // Readiness is the inner service's: waited for, and its errors are passed on.
    inner.pend_once();
    assert!(poll_ready(&mut service).is_pending());
    inner.fail_ready_once(Error::Inner("gone"));
    let gone = Poll::Ready(Err(Error::Inner("gone")));
    assert_eq!(poll_ready(&mut service), gone);
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    // The service is not cloned needlessly.
    let before = inner.clones();
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok("good"));
    assert_eq!(inner.clones() - before, clones);
    assert_eq!(inner.live(), 0);
    // A failure of the service comes out as it went in.
    let failing = layer.clone().layer(Inner::new(|_| bad()));
    assert_eq!(failing.oneshot(()).await, Err(Error::Inner("bad")));
}

#[tokio::test(start_paused = true)]
async fn every_layer_and_the_whole_stack_follow_the_contract() {
    follows_the_contract(DeadlineLayer::new("contract", SECOND), 0).await;
    follows_the_contract(TimeoutLayer::new("contract", SECOND), 0).await;
    follows_the_contract(single(), 0).await;
    follows_the_contract(keyed(), 0).await;
    follows_the_contract(observe(), 0).await;
    follows_the_contract(retry(), 1).await;
    let stack = ServiceBuilder::new()
        .layer(observe())
        .layer(DeadlineLayer::new("contract", 3 * SECOND))
        .layer(retry())
        .layer(single())
        .layer(keyed())
        .layer(TimeoutLayer::new("contract", SECOND))
        .layer(observe())
        .into_inner();
    follows_the_contract(stack, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_follows_the_contract() {
    let inner: Inner<http::Request<()>> = Inner::new(|_| good());
    let mut service = IdempotencyKeyLayer::new().layer(inner.clone());
    for _ in 0..3 {
        let request = http::Request::post("/").body(()).unwrap();
        assert_eq!(
            service.ready().await.unwrap().call(request).await,
            Ok("good")
        );
    }
    inner.fail_ready_once(Error::Inner("gone"));
    assert!(service.ready().await.is_err());
    let request = http::Request::get("/").body(()).unwrap();
    assert_eq!(service.clone().oneshot(request).await, Ok("good"));
    let requests = inner.take_requests();
    let keys: Vec<_> = requests
        .iter()
        .map(|request| request.headers().get("idempotency-key"))
        .collect();
    assert!(keys[0].is_some() && keys[0] != keys[1] && keys[3].is_none());
    assert_eq!(inner.clones(), 2, "one was ours");
}

#[tokio::test(start_paused = true)]
async fn over_a_concurrency_limit_of_one_the_whole_stack_works() {
    let inner: Inner = Inner::new(|call| if call % 3 == 2 { good() } else { bad() });
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("limited", 60 * SECOND))
        .layer(retry().without_budget())
        .layer(single())
        .layer(TimeoutLayer::new("limited", SECOND))
        .service(ConcurrencyLimit::new(inner.clone(), 1));
    let calls = (0..10).map(|_| tokio::spawn(stack.clone().oneshot(())));
    for call in calls.collect::<Vec<_>>() {
        let result = call.await.unwrap();
        assert!(
            matches!(result, Ok("good") | Err(Error::Inner("bad"))),
            "{result:?}"
        );
    }
    assert!(inner.calls() >= 10);
    assert_eq!(inner.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn over_a_buffer_the_whole_stack_works_and_its_errors_are_boxed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |(): ()| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<(), _>(std::io::Error::other("bad")))
    });
    let handle = breaker("buffered", three_in_a_row());
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("buffered", 60 * SECOND))
        .layer(retry())
        .layer(BreakerLayer::new(handle.clone(), ErrorIsTransient))
        .layer(TimeoutLayer::new("buffered", SECOND))
        .service(Buffer::new(service, 1));
    let error: BoxError = stack.clone().oneshot(()).await.unwrap_err();
    assert!(
        error.is::<std::io::Error>(),
        "the service's own error: {error}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(handle.state(), BreakerState::Open);
    let error = stack.oneshot(()).await.unwrap_err();
    let error: &buttress::Rejected = error.downcast_ref().expect("our own refusal");
    assert_eq!(&*error.name, "buffered");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_borrow_and_need_not_be_send() {
    let counter = Rc::new(Cell::new(0));
    let text = String::from("borrowed");
    let service = service_fn(async |(counter, text): (Rc<Cell<u32>>, &str)| {
        tokio::time::sleep(SECOND / 10).await;
        counter.set(counter.get() + 1);
        if counter.get() < 3 {
            return Err(Error::Inner("bad"));
        }
        Ok(text.len())
    });
    let stack = ServiceBuilder::new()
        .layer(observe())
        .layer(DeadlineLayer::new("local", 3 * SECOND))
        .layer(retry())
        .layer(single())
        .layer(TimeoutLayer::new("local", SECOND))
        .service(service);
    assert_eq!(stack.oneshot((Rc::clone(&counter), &text[..])).await, Ok(8));
    assert_eq!(counter.get(), 3);
}

// ── axum ──

/// A router whose handler always fails, and how often it was called.
fn failing_router() -> (axum::Router, Arc<AtomicUsize>) {
    let called = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&called);
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(http::StatusCode::INTERNAL_SERVER_ERROR)
    };
    let router = axum::Router::new()
        .route("/a", axum::routing::get(handler.clone()))
        .route("/b", axum::routing::get(handler));
    (router, called)
}

async fn get(router: &axum::Router, path: &str) -> axum::response::Response {
    let request = http::Request::get(path)
        .body(axum::body::Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_breaker_in_axums_router_layer_really_opens() {
    let (router, called) = failing_router();
    let handle = breaker("axum", three_in_a_row());
    let layer = BreakerLayer::new(handle.clone(), ByStatus::new());
    let router = router.layer(handle_rejections(layer));
    for number in 0..40 {
        let response = get(&router, ["/a", "/b"][number % 2]).await;
        let expected = if number < 3 { 500 } else { 503 };
        assert_eq!(response.status(), expected, "request {number}");
        let wait = response.headers().get(http::header::RETRY_AFTER);
        assert_eq!(wait.is_some_and(|wait| wait == "2"), number >= 3);
    }
    assert_eq!(called.load(Ordering::SeqCst), 3);
    assert_eq!(handle.state(), BreakerState::Open);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(get(&router, "/a").await.status(), 500, "a probe");
    assert_eq!(get(&router, "/b").await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn every_layer_goes_into_axums_router_layer() {
    let (router, called) = failing_router();
    let layers = ServiceBuilder::new()
        .layer(ObserveLayer::new(
            Observed::new("axum-all"),
            ByStatus::new(),
        ))
        .layer(DeadlineLayer::new("axum-all", 3 * SECOND))
        .layer(BreakerLayer::new(
            breaker("axum-all", three_in_a_row()),
            ByStatus::new(),
        ))
        .layer(TimeoutLayer::new("axum-all", SECOND))
        .into_inner();
    let router = router
        .route("/hang", axum::routing::get(std::future::pending::<()>))
        .layer(handle_rejections(layers));
    assert_eq!(get(&router, "/hang").await.status(), 504);
    for _ in 0..40 {
        get(&router, "/a").await;
    }
    assert_eq!(
        called.load(Ordering::SeqCst),
        2,
        "the timeout was the first failure"
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_outside_releases_the_readiness_it_has_used() {
    // What a call has taken of the limit is free again when the call is over, though the stack lives on.
    let limited = ConcurrencyLimit::new(Inner::new(|_| good()), 1);
    let mut stack = retry().layer(single().layer(limited.clone()));
    assert_eq!(stack.ready().await.unwrap().call(()).await, Ok("good"));
    let mut other = limited;
    assert!(poll_ready::<(), _>(&mut other).is_ready());
}

// ── futures that are polled again ──

/// A service whose futures are ready at every poll, however often they were ready before.
fn always_ready() -> impl Service<(), Response = &'static str, Error = Failure, Future: Send> + Clone
{
    service_fn(|()| std::future::poll_fn(|_| Poll::Ready(Ok("good"))))
}

/// A service whose futures are never ready.
fn never_ready() -> impl Service<(), Response = &'static str, Error = Failure, Future: Send> + Clone
{
    service_fn(|()| std::future::pending())
}

/// Whether this future panics when it is polled once more after its result, with a message that says so.
async fn panics_after_completion<F: Future>(name: &str, future: F) {
    let mut future = Box::pin(future);
    let _ = future.as_mut().await;
    let again = AssertUnwindSafe(|| poll(future.as_mut()).is_ready());
    let payload = match catch_unwind(again) {
        Ok(ready) => panic!("{name}: polled again, it is ready: {ready}"),
        Err(payload) => payload,
    };
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    assert!(
        text.is_some_and(|text| text.contains("after completion")),
        "{name}: {text:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_future_polled_after_completion_panics() {
    let open = || {
        let handle = breaker("again", three_in_a_row());
        handle.isolate();
        BreakerLayer::new(handle, ErrorIsTransient)
    };
    let deadline = || DeadlineLayer::new("again", SECOND);
    let timeout = || TimeoutLayer::new("again", SECOND);
    let over = Deadline::after(std::time::Duration::ZERO);
    let ready = always_ready;
    let hangs = never_ready;

    panics_after_completion("gate", single().layer(ready()).call(())).await;
    panics_after_completion("gate, keyed", keyed().layer(ready()).call(())).await;
    panics_after_completion("gate, refused", open().layer(ready()).call(())).await;
    panics_after_completion("observer", observe().layer(ready()).call(())).await;
    panics_after_completion("timeout", timeout().layer(ready()).call(())).await;
    panics_after_completion("timeout, passed", timeout().layer(hangs()).call(())).await;
    panics_after_completion("deadline", deadline().layer(ready()).call(())).await;
    panics_after_completion("deadline, passed", deadline().layer(hangs()).call(())).await;
    let mut late = deadline().layer(ready());
    let call = over.scope(std::future::poll_fn(|_| Poll::Ready(late.call(()))));
    panics_after_completion("deadline, over", call.await).await;
    panics_after_completion("retry", retry().layer(ready()).call(())).await;
    let failing = || service_fn(|()| std::future::poll_fn(|_| Poll::Ready(bad_result())));
    panics_after_completion("retry, failed", retry().layer(failing()).call(())).await;
    let once = RetryLayer::new("again", RetryConfig::new(), by_clone_if(|(): &()| false));
    panics_after_completion("retry, once", once.unwrap().layer(failing()).call(())).await;
    let hour = std::time::Duration::from_secs(3600);
    panics_after_completion("scope", Deadline::after(hour).scope(ready().call(()))).await;
    let options = CallOptions::new().idempotency_key("k");
    panics_after_completion("options", options.scope(ready().call(()))).await;
}

fn bad_result() -> Result<&'static str, Failure> {
    Err(Error::Inner("bad"))
}

/// A service whose futures are ready with a response at every poll.
fn always_responds<Req, B: Default, E>()
-> impl Service<Req, Response = http::Response<B>, Error = E, Future: Send> + Clone
where
    http::Response<B>: Send,
    E: Send,
{
    service_fn(|_: Req| {
        std::future::poll_fn(|_| Poll::Ready(Ok(http::Response::new(B::default()))))
    })
}

/// A service that never responds.
fn never_responds<Req, E>()
-> impl Service<Req, Response = http::Response<String>, Error = Error<E>, Future: Send> + Clone
where
    E: Send,
{
    service_fn(|_: Req| std::future::pending())
}

fn post() -> http::Request<String> {
    let request = http::Request::post("http://api.example.com/livez");
    request.body("one".to_owned()).unwrap()
}

/// A request with this key, if it is one.
fn guarded(key: &'static str) -> http::Request<Full<Bytes>> {
    let mut request = post().map(Full::from);
    if !key.is_empty() {
        let key = http::HeaderValue::from_static(key);
        request.headers_mut().insert("idempotency-key", key);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn a_future_of_a_client_polled_after_completion_panics() {
    type Own = Error<std::io::Error>;
    let late = HeaderTimeoutLayer::new("again", SECOND);
    let call = late.layer(always_responds::<_, String, Own>()).call(post());
    panics_after_completion("head", call).await;
    let call = late.layer(never_responds::<_, ()>()).call(post());
    panics_after_completion("head, passed", call).await;
    let key = IdempotencyKeyLayer::new();
    let call = key.layer(always_responds::<_, String, Own>()).call(post());
    panics_after_completion("key", call).await;
    let mut refusing = key.layer(always_responds::<_, String, Own>());
    let call = std::future::poll_fn(|_| Poll::Ready(refusing.call(post())));
    let call = CallOptions::new().idempotency_key("").scope(call).await;
    panics_after_completion("key, refused", call).await;
    let span = AttemptSpanLayer::new();
    let call = span.layer(always_responds::<_, String, Own>()).call(post());
    panics_after_completion("span", call).await;
    let connect = ConnectTimeoutLayer::new("again").limit(SECOND);
    let call = connect
        .layer(always_responds::<_, String, BoxError>())
        .call(post());
    panics_after_completion("connect", call).await;
    let hangs = service_fn(|()| std::future::pending::<Result<(), BoxError>>());
    let call = connect.layer(hangs).call(());
    panics_after_completion("connect, passed", call).await;
    let stack = client("again", ClientConfig::default()).unwrap();
    let call = stack
        .layer(always_responds::<_, String, std::io::Error>())
        .call(post());
    panics_after_completion("client", call).await;
    let unbuilt = reqwest::Client::new().get("not a url");
    let call = unbuilt.send_through(
        &ServiceBuilder::new()
            .map_err(Error::Inner)
            .service(reqwest::Client::new()),
    );
    panics_after_completion("reqwest", call).await;
}

#[tokio::test(start_paused = true)]
async fn a_future_of_a_server_polled_after_completion_panics() {
    let layer = handle_rejections(TimeoutLayer::new("again", SECOND));
    let call = layer
        .layer(always_responds::<_, String, Infallible>())
        .call(post());
    panics_after_completion("response", call).await;
    let handle = breaker("again.http", three_in_a_row());
    handle.isolate();
    let refusing = handle_rejections(BreakerLayer::new(handle, ByStatus::new()));
    let mut refused = refusing.layer(always_responds::<_, String, Infallible>());
    let refused = refused.ready().await.unwrap().call(post());
    panics_after_completion("response, rejected", refused).await;
    for bypass in [vec![], vec!["/livez"]] {
        let config = ServerConfig::default().bypass(bypass);
        let stack = server("again", config).unwrap();
        let mut stack = stack.layer(always_responds::<_, Full<Bytes>, Infallible>());
        panics_after_completion("server", stack.call(guarded(""))).await;
    }
    let config = IdempotencyConfig::default().required(false);
    let once = IdempotencyLayer::new("again", MemoryStore::new(), Scope::Global, config).unwrap();
    for key in ["", "\"a-key-of-more-than-16\"", "\"short\""] {
        let mut service = once.layer(always_responds::<_, Full<Bytes>, Failure>());
        panics_after_completion(key, service.call(guarded(key))).await;
    }
}

// ── readiness that is not used ──

/// Over a limit of one: a call that this refuses leaves the place free for another.
async fn gives_the_place_back<L, Req>(
    name: &str,
    layer: L,
    request: fn() -> Req,
    refuse: impl FnOnce(),
) where
    L: Layer<ConcurrencyLimit<Inner<Req>>>,
    L::Service: Service<Req, Error = Failure>,
    Req: 'static,
{
    let limited = ConcurrencyLimit::new(Inner::new(|_| good()), 1);
    let mut service = layer.layer(limited.clone());
    // Twice ready: what is refused after that was polled before.
    for _ in 0..2 {
        assert!(service.ready().await.is_ok(), "{name}");
    }
    refuse();
    let refused = service.call(request()).await;
    assert!(matches!(refused, Err(Error::Rejected(_))), "{name}");
    let other = tokio::time::timeout(SECOND, limited.oneshot(request()));
    assert_eq!(other.await, Ok(Ok("good")), "{name}: the place is not free");
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_rejects_a_call_holds_no_place_of_the_inner_service() {
    let open = |handle: &Breaker| crate::common::settle(handle, 3, buttress::Outcome::TRANSIENT);
    let handle = breaker("place", three_in_a_row());
    let gate = BreakerLayer::new(handle.clone(), ErrorIsTransient);
    gives_the_place_back("gate", gate.clone(), || (), || open(&handle)).await;
    let outer = ServiceBuilder::new()
        .layer(observe())
        .layer(retry())
        .layer(TimeoutLayer::new("place", SECOND))
        .layer(gate)
        .into_inner();
    handle.reset();
    gives_the_place_back("stack", outer, || (), || open(&handle)).await;

    let gate = keyed();
    let failing = gate.layer(Inner::new(|_| bad()));
    for _ in 0..3 {
        let _ = failing.clone().oneshot(()).await;
    }
    gives_the_place_back("keyed gate", gate, || (), || ()).await;

    let late = DeadlineLayer::new("place", SECOND);
    let over = Deadline::after(std::time::Duration::ZERO);
    let call = gives_the_place_back("deadline", late, || (), || ());
    // The time is over for the call and not for the other one, which has no deadline layer.
    over.scope(call).await;

    let key = IdempotencyKeyLayer::new();
    let call = gives_the_place_back("key", key, post, || ());
    CallOptions::new().idempotency_key("").scope(call).await;

    let trusting = ExtractDeadlineConfig::new().trust(Trust::Everyone);
    let extract = ExtractDeadlineLayer::new("place", trusting).unwrap();
    let late = || {
        let mut request = post();
        let none = http::HeaderValue::from_static("0n");
        request.headers_mut().insert("grpc-timeout", none);
        request
    };
    gives_the_place_back("deadline of the request", extract, late, || ()).await;
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opens_between_two_polls_releases_a_place_and_a_pending_one() {
    let handle = breaker("between", three_in_a_row());
    let layer = BreakerLayer::new(handle.clone(), ErrorIsTransient);
    let limited = ConcurrencyLimit::new(Inner::new(|_| good()), 1);
    let mut ready = layer.layer(limited.clone());
    let mut waiting = layer.layer(limited.clone());
    ready.ready().await.unwrap();
    assert!(poll_ready(&mut waiting).is_pending());
    handle.isolate();
    for service in [&mut ready, &mut waiting] {
        assert!(poll_ready(service).is_ready(), "to be refused");
    }
    let other = tokio::time::timeout(SECOND, limited.oneshot(()));
    assert_eq!(other.await, Ok(Ok("good")));
    rejection(ready.call(()).await);
    rejection(waiting.call(()).await);
}

#[tokio::test(start_paused = true)]
async fn the_standard_stacks_hold_no_place_for_a_call_that_they_reject() {
    type Io = Error<std::io::Error>;
    let responds = always_responds::<http::Request<Full<Bytes>>, Full<Bytes>, Infallible>();
    let limited = ConcurrencyLimit::new(responds, 1);
    let trusting = ExtractDeadlineConfig::new().trust(Trust::Everyone);
    let config = ServerConfig::default().bypass(["/none"]).deadline(trusting);
    let mut stack = server("place", config).unwrap().layer(limited.clone());
    let mut late = guarded("");
    let none = http::HeaderValue::from_static("0n");
    late.headers_mut().insert("grpc-timeout", none);
    let refused = stack.ready().await.unwrap().call(late).await.unwrap();
    assert_eq!(refused.status(), 504);
    let other = tokio::time::timeout(SECOND, limited.oneshot(guarded(""))).await;
    assert!(other.is_ok(), "the server holds it");

    let responds = always_responds::<http::Request<String>, String, std::io::Error>();
    let limited = ConcurrencyLimit::new(responds, 1);
    let stack = client("place", ClientConfig::default()).unwrap();
    let breakers = stack.breakers().unwrap().clone();
    let mut stack = stack.layer(limited.clone());
    let mut call = async |request: http::Request<String>| {
        let ready = ServiceExt::<http::Request<String>>::ready(&mut stack).await;
        ready.unwrap().call(request).await
    };
    assert!(call(post()).await.is_ok());
    breakers.entries()[0].1.isolate();
    let refused = call(post()).await;
    assert!(matches!(refused, Err(Io::Rejected(_))));
    let other = tokio::time::timeout(SECOND, limited.clone().oneshot(post())).await;
    assert!(other.is_ok(), "the keyed breaker holds it");
    breakers.entries()[0].1.release();
    let mut late = post();
    late.extensions_mut()
        .insert(Deadline::after(std::time::Duration::ZERO));
    let refused = call(late).await;
    assert!(matches!(refused, Err(Io::Rejected(_))));
    let other = tokio::time::timeout(SECOND, limited.oneshot(post())).await;
    assert!(other.is_ok(), "the deadline holds it");
}

#[tokio::test(start_paused = true)]
async fn a_service_is_not_cloned_when_an_open_circuit_rejects() {
    let inner: Inner = Inner::new(|_| good());
    let handle = breaker("cloned", three_in_a_row());
    let mut service = BreakerLayer::new(handle.clone(), ErrorIsTransient).layer(inner.clone());
    service.ready().await.unwrap().call(()).await.unwrap();
    assert_eq!(inner.clones(), 1, "by the test itself");
    handle.isolate();
    for _ in 0..9 {
        rejection(service.ready().await.unwrap().call(()).await);
    }
    assert_eq!(inner.clones(), 1, "the inner service was not polled");
}

#[tokio::test(start_paused = true)]
async fn an_infallible_service_keeps_its_error_type() {
    let hangs = service_fn(async |_: http::Request<String>| {
        std::future::pending::<()>().await;
        Ok::<http::Response<String>, Infallible>(http::Response::default())
    });
    let stack = handle_rejections(TimeoutLayer::new("infallible", SECOND)).layer(hangs);
    let Ok(response) = stack.oneshot(post()).await;
    assert_eq!(response.status(), 504);
}

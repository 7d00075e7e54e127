//! The layer with others: limits around it, gates, queues and retries inside and outside.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::clock::Now;
use buttress::gate::{GateLayer, Permit, Policy};
use buttress::http::handle_rejections;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope, StoredBody};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::testing::{Step, Strict};
use buttress::timeout::TimeoutLayer;
use buttress::{BoxError, Error, ErrorIsTransient, Outcome, Reason, Rejected};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::shop::{Flow, Shop, at, payment, reply, send_to, settle};
use crate::common::poll;

const SECOND: Duration = Duration::from_secs(1);
type Inside = Request<StoredBody<Flow>>;
type Counting = BoxCloneSyncService<Inside, Response<String>, &'static str>;

fn layer(name: &str) -> IdempotencyLayer {
    let config = IdempotencyConfig::default();
    IdempotencyLayer::new(name, MemoryStore::new(), Scope::Global, config).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_around_bounds_the_wait_and_not_the_work() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let limit = TimeoutLayer::new("shop", 2 * SECOND);
    let limited = handle_rejections((limit, shop.layer.clone())).layer(shop.handler.clone());
    let start = Instant::now();
    let sent = send_to(limited.clone(), payment("10 EUR"));
    let called = shop.called().await;
    // Its own deadline, not its caller's.
    assert_eq!(called.left, Some(600 * SECOND));
    let late = sent.await.unwrap();
    assert_eq!((late.status, start.elapsed()), (504, 2 * SECOND));
    sleep(10 * SECOND).await;
    called.responds(reply(201, "paid"));
    settle().await;
    let again = send_to(limited, payment("10 EUR")).await.unwrap();
    assert_eq!(again.of(), (201, true, "paid"));
}

/// Rejects the calls with these numbers, from 0.
#[derive(Clone)]
struct Refuses(Arc<AtomicUsize>, &'static [usize]);

fn refuses(calls: &'static [usize]) -> GateLayer<Refuses, ErrorIsTransient> {
    GateLayer::new(Refuses(Arc::default(), calls), ErrorIsTransient)
}

struct Passed;

impl Permit for Passed {
    fn settle(self, _: Outcome, _: &Now) {}
}

impl<Req> Policy<Req> for Refuses {
    type Permit = Passed;

    fn admit(&self, _: &Req, _: &Now) -> Result<Passed, Rejected> {
        if self.1.contains(&self.0.fetch_add(1, Ordering::SeqCst)) {
            return Err(Rejected::new(Reason::Policy("full".into()), "door"));
        }
        Ok(Passed)
    }
}

/// Counts its calls, and responds with their number. The first response has this status.
fn counting(first: u16) -> (Arc<AtomicUsize>, Counting) {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let handler = service_fn(move |_: Inside| {
        let run = count.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(format!("run {run}"));
        if run == 0 {
            *response.status_mut() = first.try_into().unwrap();
        }
        ready(Ok(response))
    });
    (runs, BoxCloneSyncService::new(handler))
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_gate_inside_is_not_stored() {
    // As an error, and as a response.
    for inner_answer in [false, true] {
        let (runs, handler) = counting(201);
        let service = if inner_answer {
            let inner = handle_rejections(refuses(&[0])).layer(handler);
            BoxCloneSyncService::new(
                handle_rejections(layer("gate"))
                    .layer(inner)
                    .map_response(boxed),
            )
        } else {
            let service = handle_rejections((layer("gate"), refuses(&[0]))).layer(handler);
            BoxCloneSyncService::new(service.map_response(boxed))
        };
        let ask = || send_to(service.clone(), payment("10 EUR"));
        assert_eq!(ask().await.unwrap().status, 503);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        assert_eq!(ask().await.unwrap().of(), (201, false, "run 0"));
        assert_eq!(ask().await.unwrap().of(), (201, true, "run 0"));
    }
}

fn boxed<B>(response: Response<B>) -> Response<Flow>
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

#[derive(Clone)]
struct Replays;

impl buttress::retry::ReplayPolicy<Inside> for Replays {
    type Attempt = Inside;
    type Saved = ();

    fn first(&self, request: Inside) -> (Inside, Option<()>) {
        (request, Some(()))
    }

    fn again(&self, (): &mut ()) -> Option<Inside> {
        Some(Request::new(StoredBody::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_retry_does_not_release_the_key() {
    // The first attempt runs and fails, the second is rejected.
    for inside in [false, true] {
        let (runs, handler) = counting(503);
        let config = RetryConfig::new()
            .max_attempts(2)
            .backoff(Backoff::constant(SECOND).jitter(Jitter::None));
        let again =
            buttress::classify_fn(|result: Result<&Response<String>, &Error<&'static str>>| {
                match result {
                    Ok(response) if response.status().is_success() => Outcome::SUCCESS,
                    _ => Outcome::TRANSIENT,
                }
            });
        let retry = RetryLayer::new("again", config, Replays).unwrap();
        let retry = retry.classify(again);
        let service = if inside {
            let inner = handle_rejections(refuses(&[1])).layer(handler);
            let service = handle_rejections((layer("retried"), retry)).layer(inner);
            BoxCloneSyncService::new(service.map_response(boxed))
        } else {
            let layers = (layer("retried"), retry, refuses(&[1]));
            let service = handle_rejections(layers).layer(handler);
            BoxCloneSyncService::new(service.map_response(boxed))
        };
        for _ in 0..2 {
            let seen = send_to(service.clone(), payment("10 EUR")).await.unwrap();
            assert_ne!(seen.status, 200);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "inside: {inside}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_releases_the_key() {
    let strict: Strict<Inside, Response<String>, &'static str> =
        Strict::new(|_| Step::Answer(Ok(Response::new("paid".to_owned()))));
    let service = handle_rejections(layer("unready")).layer(strict.clone());
    let mut ready = service.clone();
    ready.ready().await.unwrap();
    // The task's own clone never becomes ready.
    for _ in 0..100 {
        strict.pend_once();
    }
    let late = ready.call(payment("10 EUR")).await.unwrap();
    assert_eq!((late.status().as_u16(), strict.calls()), (504, 0));
    // Use up the rest of the script.
    let mut rest = strict.clone();
    while poll(std::pin::pin!(std::future::poll_fn(
        |cx| rest.poll_ready(cx)
    )))
    .is_pending()
    {}
    let again = send_to(service.clone(), payment("10 EUR")).await.unwrap();
    assert_eq!(again.of(), (200, false, "paid"));
    // A service whose readiness fails was not called either.
    let other = at(payment("10 EUR"), "POST", "/other");
    let mut ready = service.clone();
    ready.ready().await.unwrap();
    strict.fail_ready_once("gone");
    assert_eq!(ready.call(other).await.unwrap_err(), "gone");
    let other = at(payment("10 EUR"), "POST", "/other");
    assert_eq!(
        send_to(service, other).await.unwrap().of(),
        (200, false, "paid")
    );
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_a_request_is_read_or_rejected() {
    let (_, handler) = counting(201);
    let limited = ConcurrencyLimit::new(handler, 1);
    let service = handle_rejections(layer("place")).layer(limited.clone());
    let (_more, body) = http_body_util::channel::Channel::<bytes::Bytes, BoxError>::new(1);
    let body = body.boxed_unsync();
    let mut reads = service.clone();
    let reading = reads.ready().await.unwrap();
    let mut reading = Box::pin(reading.call(payment("").map(|_| body)));
    assert!(poll(reading.as_mut()).is_pending());
    let mut refused = service.clone();
    let request = Request::post("/").body(super::shop::flow("")).unwrap();
    let refused = refused.ready().await.unwrap().call(request);
    // The permit is free, although both futures still exist.
    let paid = send_to(service, payment("10 EUR")).await.unwrap();
    assert_eq!(paid.of(), (201, false, "run 0"));
    drop((reading, refused));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_one_inside_and_outside_does_not_deadlock() {
    let (runs, handler) = counting(201);
    let inside = ConcurrencyLimit::new(handler, 1);
    let inside = Buffer::new(inside.map_err(BoxError::from), 1);
    let stack = handle_rejections(layer("queue")).layer(inside);
    let stack = Buffer::new(ConcurrencyLimit::new(stack, 1), 1);
    let sends: Vec<_> = (0..20)
        .map(|_| {
            let stack = stack.clone().map_err(|_| "gone");
            send_to(stack, payment("10 EUR"))
        })
        .collect();
    for sent in sends {
        let seen = sent.await.unwrap();
        assert_eq!((seen.status, seen.text()), (201, "run 0"));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_service_inside_is_polled_ready_before_each_call() {
    let strict: Strict<Inside, Response<String>, Error<&'static str>> =
        Strict::new(|_| Step::Answer(Ok(Response::new("paid".to_owned()))));
    let service = layer("strict").layer(strict.clone());
    let mut service = ServiceBuilder::new().service(service);
    for path in ["/a", "/b", "/a", "/b"] {
        let request = at(payment("10 EUR"), "POST", path);
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!((strict.calls(), strict.live()), (2, 0));
}

#[test]
fn a_runtime_shutdown_ends_operations_without_a_panic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let layer = layer("ends");
    let begun = Arc::new(Notify::new());
    let notify = Arc::clone(&begun);
    let handler = service_fn(move |_: Inside| {
        notify.notify_one();
        pending::<Result<Response<String>, &'static str>>()
    });
    let service = handle_rejections(layer.clone()).layer(handler);
    let mut call = Box::pin(service.oneshot(payment("10 EUR")));
    runtime.block_on(async {
        assert!(poll(call.as_mut()).is_pending());
        begun.notified().await;
    });
    drop(runtime);
    assert_eq!(layer.running(), 0);
    let std::task::Poll::Ready(Ok(response)) = poll(call.as_mut()) else {
        panic!("no response");
    };
    assert_eq!(response.status(), 409);
}

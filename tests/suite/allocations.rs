//! The success path allocates nothing.

use std::convert::Infallible;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, Window};
use buttress::gate::{KeyedConfig, by_str};
use buttress::http::{AtBodyEnd, ByStatus, ClientConfig, client, grpc};
use buttress::http::{ServerConfig, handle_rejections, server};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope, StoredBody};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::telemetry::{ObserveLayer, Observed};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{Error, ErrorIsTransient, Outcome};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tracing::subscriber::NoSubscriber;

use crate::common::poll;

fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it does not wait"),
    }
}

/// How often this allocates on this thread, after it has run once. The subscriber of other tests allocates: here it is none.
fn allocations(mut run: impl FnMut()) -> u64 {
    tracing::subscriber::with_default(NoSubscriber::new(), || {
        run();
        allocation_counter::measure(run).count_total
    })
}

/// A call by each of these keys.
fn calls<S>(mut service: S) -> impl FnMut()
where
    S: Service<&'static str, Error = Error<&'static str>>,
{
    move || {
        for key in ["a", "b", "c", "a"] {
            let ready = now(std::future::poll_fn(|cx| service.poll_ready(cx)));
            assert!(ready.is_ok() && now(service.call(key)).is_ok());
        }
    }
}

#[test]
fn a_call_that_succeeds_allocates_nothing() {
    let inner = || service_fn(|key: &'static str| std::future::ready(Ok(key)));
    let minute = Duration::from_secs(60);
    let config = BreakerConfig::default();
    let single = Breaker::new("single", config).unwrap();
    let slow = Breaker::new("slow", config.slow_rate(Some(0.5))).unwrap();
    let keys = KeyedConfig::default();
    let keyed = Breaker::keyed("keyed", config, keys, by_str(|key: &&'static str| key)).unwrap();
    let single = BreakerLayer::new(single, ErrorIsTransient);
    let slow = BreakerLayer::new(slow, ErrorIsTransient);
    let keyed = BreakerLayer::new(keyed, ErrorIsTransient);
    let retry = RetryLayer::new("retry", RetryConfig::new(), by_clone()).unwrap();
    let timeout = TimeoutLayer::new("timeout", minute);
    let deadline = DeadlineLayer::new("deadline", minute);
    let observe = ObserveLayer::new(Observed::new("observe"), ErrorIsTransient);
    assert_eq!(allocations(calls(single.layer(inner()))), 0, "breaker");
    assert_eq!(allocations(calls(slow.layer(inner()))), 0, "slow rule");
    assert_eq!(allocations(calls(keyed.layer(inner()))), 0, "a known key");
    assert_eq!(allocations(calls(retry.layer(inner()))), 0, "retry");
    assert_eq!(allocations(calls(timeout.layer(inner()))), 0, "timeout");
    assert_eq!(allocations(calls(deadline.layer(inner()))), 0, "deadline");
    assert_eq!(allocations(calls(observe.layer(inner()))), 0, "observe");
    let all = ServiceBuilder::new()
        .layer(observe)
        .layer(deadline)
        .layer(retry)
        .layer(single)
        .layer(keyed)
        .layer(timeout)
        .service(inner());
    assert_eq!(allocations(calls(all)), 0, "all of them");
}

#[test]
fn a_call_that_is_served_allocates_nothing() {
    let handler = service_fn(|_: ::http::Request<()>| {
        std::future::ready(Ok::<_, Infallible>(::http::Response::new(String::new())))
    });
    let layer = server("allocations", ServerConfig::default()).unwrap();
    let mut service = layer.layer(handler);
    let call = || {
        let ready = now(std::future::poll_fn(|cx| service.poll_ready(cx)));
        assert!(ready.is_ok());
        let response = now(service.call(::http::Request::new(())));
        assert_eq!(response.unwrap().status(), 200);
    };
    assert_eq!(allocations(call), 0);
}

#[test]
fn a_request_that_is_not_guarded_allocates_nothing() {
    let handler = service_fn(|_: Request<StoredBody<String>>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("allocations", MemoryStore::new(), Scope::Global, config);
    let layer = layer.unwrap().guard(|parts| parts.uri.path() != "/");
    let mut service = handle_rejections(layer).layer(handler);
    for method in [Method::GET, Method::POST] {
        let call = || {
            let ready = now(std::future::poll_fn(|cx| service.poll_ready(cx)));
            assert!(ready.is_ok());
            let mut request = Request::new(String::new());
            *request.method_mut() = method.clone();
            let response = now(service.call(request));
            assert_eq!(response.unwrap().status(), 200);
        };
        assert_eq!(allocations(call), 0, "{method}");
    }
}

#[test]
fn an_event_with_subscribers_allocates_nothing() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let seen = Arc::new(AtomicUsize::new(0));
    let subscriptions = [(); 3].map(|()| {
        let seen = Arc::clone(&seen);
        buttress::event::subscribe(move |event: &buttress::event::Event<'_>| {
            if &**event.source().name() == "subscribed" {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let observed = Observed::new("subscribed");
    // Of this handle only.
    let own = Arc::clone(&seen);
    observed.observe_with(move |_: &buttress::event::Event<'_>| {
        own.fetch_add(1, Ordering::Relaxed);
    });
    let observe = ObserveLayer::new(observed, ErrorIsTransient);
    let inner = service_fn(|key: &'static str| std::future::ready(Ok(key)));
    // Other tests subscribe meanwhile, and then this thread takes the new list over once.
    let fewest = (0..20)
        .map(|_| allocations(calls(observe.layer(inner))))
        .min();
    assert_eq!(fewest, Some(0));
    assert_eq!(seen.load(Ordering::Relaxed), 20 * 2 * 4 * 4);
    drop(subscriptions);
    allocations(calls(observe.layer(inner)));
    assert_eq!(seen.load(Ordering::Relaxed), 20 * 2 * 4 * 4 + 2 * 4);
}

#[test]
fn a_window_takes_constant_memory() {
    let minute = Duration::from_secs(60);
    for window in [Window::Time(minute), Window::Calls(10_000)] {
        let config = BreakerConfig::default()
            .consecutive_failures(None)
            .failure_rate(Some(1.0))
            .window(window);
        let breaker = Breaker::new("window", config).unwrap();
        let many = || {
            for call in 0..100_000 {
                let failed = call % 2 == 0;
                let outcome = if failed {
                    Outcome::TRANSIENT
                } else {
                    Outcome::SUCCESS
                };
                breaker.try_acquire().unwrap().settle(outcome);
            }
        };
        assert_eq!(allocations(many), 0, "{window:?}");
    }
}

#[test]
fn a_call_of_the_standard_client_allocates_what_the_copy_of_its_request_does() {
    let request = || {
        let request = Request::get("https://api.example.com/v1/orders?of=7");
        let request = request.header("accept", "application/json");
        request.body(String::new()).unwrap()
    };
    let server = service_fn(|_: Request<String>| {
        std::future::ready(Ok::<_, std::io::Error>(Response::new(String::new())))
    });
    let config = ClientConfig::default().observe(true);
    let mut client = client("allocations", config).unwrap().layer(server);
    let mut requests = vec![request(), request()];
    let call = || {
        let call = client.call(requests.pop().unwrap());
        assert!(now(call).is_ok());
    };
    let calls = allocations(call);
    // Fresh ones, too: the first copy of a URI costs more than later ones.
    let fresh = [request(), request()];
    let mut fresh = fresh.iter();
    assert_eq!(calls, allocations(|| drop(fresh.next().unwrap().clone())));
}

/// A body of nothing but the trailers of a gRPC response.
struct Trailers(bool);

impl http_body::Body for Trailers {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Infallible>>> {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let first = std::mem::replace(&mut self.0, false);
        Poll::Ready(first.then(|| Ok(http_body::Frame::trailers(trailers))))
    }
}

#[test]
fn a_grpc_call_with_its_status_in_the_trailers_allocates_a_slot_for_it() {
    let allocated = |header: &'static str| {
        let server = service_fn(move |_: Request<()>| {
            let mut response = Response::new(Trailers(true));
            let headers = response.headers_mut();
            let grpc = http::HeaderValue::from_static("application/grpc");
            headers.insert("content-type", grpc);
            headers.insert(header, http::HeaderValue::from_static("0"));
            std::future::ready(Ok::<_, std::io::Error>(response))
        });
        let layer = grpc("allocations-grpc", ClientConfig::default()).unwrap();
        let mut stack = layer.replay(|_| by_clone()).layer(server);
        allocations(|| {
            let mut body = now(stack.call(Request::new(()))).unwrap().into_body();
            assert!(poll(pin!(body.frame())).is_ready());
        })
    };
    let at_the_head = allocated("grpc-status");
    let at_the_trailers = allocated("grpc-another");
    // The slot, its list, and three for the first entry in the extensions.
    assert_eq!(at_the_trailers, at_the_head + 5);
}

#[tokio::test(start_paused = true)]
async fn a_body_allocates_its_timer_when_a_frame_is_first_awaited() {
    let breaker = Breaker::new("body", BreakerConfig::default()).unwrap();
    let gate = BreakerLayer::new(breaker, ByStatus::new())
        .finish(AtBodyEnd::new("body", Duration::from_secs(10)));
    let polls = |channel: bool| {
        let server = service_fn(move |(): ()| {
            let (sender, body) = http_body_util::channel::Channel::<&[u8], std::io::Error>::new(1);
            std::mem::forget(sender);
            let body = if channel {
                body.boxed()
            } else {
                http_body_util::Empty::new()
                    .map_err(|never| match never {})
                    .boxed()
            };
            std::future::ready(Ok::<_, Error<std::io::Error>>(Response::new(body)))
        });
        let mut service = gate.layer(server);
        let mut bodies: Vec<_> = (0..2)
            .map(|_| now(service.call(())).unwrap().into_body())
            .collect();
        allocations(move || {
            let mut body = bodies.pop().unwrap();
            for _ in 0..3 {
                let _ = poll(pin!(body.frame()));
            }
            std::mem::forget(body);
        })
    };
    assert_eq!((polls(false), polls(true)), (0, 1));
}

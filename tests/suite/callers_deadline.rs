//! A limit set by the caller ends the call as abandoned.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tonic::body::Body as TonicBody;
use ::tonic::transport::Endpoint;
use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::BreakerState;
use buttress::gate::Keyed;
use buttress::http::deadline::DeadlineHeader;
use buttress::http::{
    Authority, ByAuthority, ClientConfig, ClientLayer, client, grpc, handle_grpc_rejections,
};
use buttress::reqwest::SendThrough;
use buttress::retry::RetryConfig;
use buttress::{CallOptions, Deadline, Error, Executed, Reason, Rejected};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Listener, MS, Reported};
use crate::text::Text;

type Breakers = Keyed<Authority, ByAuthority, buttress::breaker::Breaker>;

const LIMIT: Duration = Duration::from_millis(100);

fn left_ms() -> DeadlineHeader {
    "x-left-ms".parse().unwrap()
}

fn config() -> ClientConfig {
    let wait = Backoff::constant(10 * MS).jitter(Jitter::None);
    ClientConfig::default()
        .retry(RetryConfig::new().backoff(wait).max_attempts(9))
        .deadline_header(left_ms())
}

fn get() -> Request<String> {
    let request = Request::get("http://api.example.com/orders");
    request.body(String::new()).unwrap()
}

/// The rejection of a call that a deadline ended.
fn deadline<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, Error<E>>) -> Rejected {
    match result {
        Err(Error::Rejected(rejected)) => {
            assert_eq!(rejected.reason, Reason::Deadline);
            rejected
        }
        other => panic!("not rejected: {other:?}"),
    }
}

/// The breakers are closed and have counted no result.
fn nothing_counted(breakers: &Breakers) {
    for (authority, breaker) in breakers.entries() {
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.state, BreakerState::Closed, "{authority}");
        assert_eq!((snapshot.total, snapshot.failed), (0, 0), "{authority}");
    }
}

/// The events of the calls and attempts of one stack.
struct Heard {
    calls: Listener,
    attempts: Listener,
}

impl Heard {
    fn new(call: &'static str, attempt: &'static str) -> Self {
        Self {
            calls: Listener::new(call),
            attempts: Listener::new(attempt),
        }
    }

    /// Since the last check, this number of calls and attempts ended, all of them as abandoned.
    fn abandoned(&self, calls: usize) {
        for listener in [&self.calls, &self.attempts] {
            let reported = listener.take();
            let abandoned = |reported: &&Reported| matches!(reported, Reported::Finished(None, _));
            assert_eq!(
                reported.iter().filter(abandoned).count(),
                reported.len(),
                "{reported:?}"
            );
            assert_eq!(reported.len(), calls);
        }
    }
}

// ── in memory, on paused time ──

#[tokio::test(start_paused = true)]
async fn every_kind_of_limit_of_the_caller_ends_the_call_as_abandoned() {
    let layer = client("callers.ways", config()).unwrap();
    let heard = Heard::new("callers.ways.call", "callers.ways.attempt");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let stack = layer.layer(service_fn(move |_: Request<String>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<Response<String>, std::io::Error>>()
    }));
    for way in [
        "scope",
        "extension",
        "header",
        "options",
        "options in the extensions",
    ] {
        let mut request = get();
        let options = CallOptions::new().timeout(LIMIT);
        match way {
            "extension" => drop(request.extensions_mut().insert(Deadline::after(LIMIT))),
            "header" => drop(request.headers_mut().insert("x-left-ms", 100.into())),
            "options in the extensions" => drop(request.extensions_mut().insert(options.clone())),
            _ => {}
        }
        let started = Instant::now();
        let call = stack.clone().oneshot(request);
        let result = match way {
            "scope" => Deadline::after(LIMIT).scope(call).await,
            "options" => options.scope(call).await,
            _ => call.await,
        };
        assert_eq!(deadline(result).executed, Executed::Maybe, "{way}");
        assert_eq!(started.elapsed(), LIMIT, "{way}");
        assert_eq!(calls.swap(0, Ordering::SeqCst), 1, "{way}");
        heard.abandoned(1);
        nothing_counted(layer.breakers().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_caller_shortens_the_total_and_options_replace_it() {
    let layer = client(
        "callers.total",
        config().attempt(10 * LIMIT).total(10 * LIMIT),
    )
    .unwrap();
    let stack = layer.layer(service_fn(move |_: Request<String>| {
        std::future::pending::<Result<Response<String>, std::io::Error>>()
    }));
    let unlimited = CallOptions::new().attempt_timeout(Duration::MAX);
    for (options, header, ends) in [
        (unlimited.clone(), Some(5000), 10 * LIMIT),
        (unlimited.clone().timeout(30 * LIMIT), None, 30 * LIMIT),
        (
            unlimited.clone().timeout(30 * LIMIT),
            Some(2000),
            20 * LIMIT,
        ),
        (unlimited.timeout(5 * LIMIT), Some(2000), 5 * LIMIT),
    ] {
        let mut request = get();
        if let Some(left) = header {
            request.headers_mut().insert("x-left-ms", left.into());
        }
        let started = Instant::now();
        deadline(options.scope(stack.clone().oneshot(request)).await);
        assert_eq!(started.elapsed(), ends);
    }
    // An outer deadline is never extended.
    let patient = CallOptions::new().timeout(Duration::MAX);
    let started = Instant::now();
    let call = patient.scope(stack.oneshot(get()));
    deadline(Deadline::after(LIMIT).scope(call).await);
    assert_eq!(started.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_has_passed_rejects_the_call_before_it_is_sent() {
    let layer = client("callers.over", config()).unwrap();
    let stack = layer.layer(service_fn(async |_: Request<String>| {
        panic!("it was sent");
        #[expect(unreachable_code, reason = "the type of the result")]
        Ok::<Response<String>, std::io::Error>(Response::default())
    }));
    let mut request = get();
    request.headers_mut().insert("x-left-ms", 0.into());
    let rejected = deadline(stack.clone().oneshot(request).await);
    assert_eq!(rejected.executed, Executed::No);
    let none = CallOptions::new().timeout(Duration::ZERO);
    assert!(none.scope(stack.oneshot(get())).await.is_err());
    nothing_counted(layer.breakers().unwrap());
}

/// A service that fails twice after 20 ms and then hangs, and a record of its requests, made by `seen`.
fn failing<Req, T: Send + 'static, Res: Send + 'static, E: Send + 'static>(
    seen: impl Fn(&Req) -> T + Clone + Send + 'static,
    unavailable: impl Fn() -> Res + Clone + Send + 'static,
) -> (
    impl Service<Req, Response = Res, Error = E, Future: Send> + Clone,
    Arc<Mutex<Vec<T>>>,
) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&sent);
    let service = service_fn(move |request: Req| {
        let number = {
            let mut sent = record.lock().unwrap();
            sent.push(seen(&request));
            sent.len()
        };
        let unavailable = unavailable.clone();
        async move {
            sleep(20 * MS).await;
            if number > 2 {
                std::future::pending::<()>().await;
            }
            Ok(unavailable())
        }
    });
    (service, sent)
}

fn status_503<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_sent_with_the_remaining_time_in_both_headers() {
    for header in [DeadlineHeader::GrpcTimeout, left_ms()] {
        let own = header.clone();
        let seen = move |request: &Request<String>| {
            let headers = request.headers();
            let own = own.read(headers).unwrap();
            (own, DeadlineHeader::GrpcTimeout.read(headers).unwrap())
        };
        let (server, sent) = failing::<_, _, _, std::io::Error>(seen, status_503::<String>);
        let layer = grpc("callers.grpc", config().deadline_header(header)).unwrap();
        let stack = layer.idempotent(["/shop.Orders/"]).unwrap().layer(server);
        let request = Request::post("http://api.example.com/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "100m");
        let started = Instant::now();
        deadline(stack.oneshot(request.body(String::new()).unwrap()).await);
        assert_eq!(started.elapsed(), LIMIT);
        let left = [100, 70, 40].map(|left| (left * MS, left * MS));
        assert_eq!(*sent.lock().unwrap(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_reqwest_request_applies_to_all_attempts_together() {
    let seen = |request: &reqwest::Request| request.timeout().copied();
    let (server, sent) =
        failing::<_, _, _, reqwest::Error>(
            seen,
            || reqwest::Response::from(status_503::<String>()),
        );
    let layer = client("callers.reqwest", config()).unwrap();
    let stack = layer.layer(server);
    let send = || reqwest::Client::new().get("http://api.example.com/orders");
    let started = Instant::now();
    deadline(send().timeout(LIMIT).send_through(&stack).await);
    assert_eq!(started.elapsed(), LIMIT);
    let left = [100, 70, 40].map(|left| Some(left * MS));
    assert_eq!(*sent.lock().unwrap(), left);
    sent.lock().unwrap().clear();
    // The timeout of a streaming call still applies to the body.
    let options = CallOptions::new().streams(true).retry(false);
    let streams = send().timeout(300 * LIMIT);
    let response = streams.send_through_with(&stack, options).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(*sent.lock().unwrap(), [Some(300 * LIMIT)]);
    sent.lock().unwrap().clear();
    let no_retry = CallOptions::new().retry(false);
    send().send_through_with(&stack, no_retry).await.unwrap();
    assert_eq!(*sent.lock().unwrap(), [None], "no timeout is added");
}

#[tokio::test(start_paused = true)]
async fn callers_with_short_limits_do_not_open_a_circuit() {
    let layer = grpc("callers.impatient", ClientConfig::default()).unwrap();
    let stack = layer.layer(service_fn(async |_: Request<String>| {
        sleep(60 * MS).await;
        Ok::<_, std::io::Error>(Response::new(String::new()))
    }));
    let calls = (0..12).map(|_| {
        let request = Request::post("http://api.example.com/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "30m");
        tokio::spawn(stack.clone().oneshot(request.body(String::new()).unwrap()))
    });
    for call in calls.collect::<Vec<_>>() {
        deadline(call.await.unwrap());
    }
    nothing_counted(layer.breakers().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_transport_at_the_deadline_counts_as_the_deadline() {
    // The client gives up by itself at the deadline in its header.
    let gives_up = service_fn(async |request: Request<String>| {
        let left = left_ms().read(request.headers()).unwrap();
        sleep(left).await;
        Err::<Response<String>, _>(std::io::Error::other("timeout expired"))
    });
    let layer = client("callers.transport", config()).unwrap();
    let stack = layer.layer(gives_up);
    for left in [0, 1, 2, 30] {
        let within = Deadline::after(left * MS);
        deadline(within.scope(stack.clone().oneshot(get())).await);
    }
    // Less than a millisecond is left: the header says 0.
    let within = Deadline::after(Duration::from_micros(300));
    deadline(within.scope(stack.oneshot(get())).await);
    nothing_counted(layer.breakers().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_gives_up_at_the_callers_deadline_has_not_failed() {
    let gives_up = |early: Duration| {
        service_fn(move |request: Request<String>| async move {
            let left = DeadlineHeader::GrpcTimeout.read(request.headers()).unwrap();
            sleep(left.saturating_sub(early)).await;
            let response = Response::builder().header("grpc-status", "4");
            Ok::<_, std::io::Error>(response.body(String::new()).unwrap())
        })
    };
    for (early, failed) in [(Duration::ZERO, 0), (5 * MS, 1)] {
        let layer = grpc("callers.server", config().deadline_header(None)).unwrap();
        let request = Request::post("http://api.example.com/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "100m");
        let request = request.body(String::new()).unwrap();
        let _ = layer.layer(gives_up(early)).oneshot(request).await;
        let entries = layer.breakers().unwrap().entries();
        assert_eq!(entries[0].1.snapshot().failed, failed, "{early:?}");
    }
}

// ── real clients, real servers ──

/// A server that reads requests and never responds.
async fn hangs(http2: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let io = TokioIo::new(stream);
            let never = hyper::service::service_fn(|_: Request<Incoming>| {
                std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
            if http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(io, never));
            } else {
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(io, never));
            }
        }
    });
    address
}

/// How often each way is tried: an error of the transport may come a moment before the deadline or after it.
const TIMES: usize = 10;
const SHORT: Duration = Duration::from_millis(60);

#[tokio::test]
async fn over_hyper_a_limit_of_the_caller_makes_one_abandoned_attempt() {
    let heard = Heard::new("callers.hyper.call", "callers.hyper.attempt");
    for http2 in [false, true] {
        let address = hangs(http2).await;
        let layer: ClientLayer = client("callers.hyper", config()).unwrap();
        let hyper = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<String>();
        let stack = layer.layer(hyper);
        for number in 0..TIMES {
            let mut request = Request::get(format!("http://{address}/"))
                .body(String::new())
                .unwrap();
            let options = CallOptions::new().timeout(SHORT);
            let result = match number % 4 {
                0 => {
                    Deadline::after(SHORT)
                        .scope(stack.clone().oneshot(request))
                        .await
                }
                1 => {
                    request.extensions_mut().insert(Deadline::after(SHORT));
                    stack.clone().oneshot(request).await
                }
                2 => {
                    request.headers_mut().insert("x-left-ms", 60.into());
                    stack.clone().oneshot(request).await
                }
                _ => options.scope(stack.clone().oneshot(request)).await,
            };
            deadline(result);
        }
        heard.abandoned(TIMES);
        nothing_counted(layer.breakers().unwrap());
    }
}

#[tokio::test]
async fn over_reqwest_a_limit_of_the_caller_makes_one_abandoned_attempt() {
    let heard = Heard::new("callers.real.call", "callers.real.attempt");
    for http2 in [false, true] {
        let address = hangs(http2).await;
        let layer: ClientLayer = client("callers.real", config()).unwrap();
        let mut builder = reqwest::Client::builder()
            .retry(reqwest::retry::never())
            .no_proxy();
        if http2 {
            builder = builder.http2_prior_knowledge();
        }
        let reqwest = builder.build().unwrap();
        let stack = layer.layer(reqwest.clone());
        for number in 0..TIMES {
            let request = reqwest.get(format!("http://{address}/"));
            let result = match number % 3 {
                0 | 1 => request.timeout(SHORT).send_through(&stack).await,
                _ => {
                    let options = CallOptions::new().timeout(SHORT);
                    request.send_through_with(&stack, options).await
                }
            };
            deadline(result);
        }
        heard.abandoned(TIMES);
        nothing_counted(layer.breakers().unwrap());
    }
}

#[tokio::test]
async fn over_tonic_a_limit_of_the_caller_makes_one_abandoned_attempt() {
    let heard = Heard::new("callers.tonic.call", "callers.tonic.attempt");
    let address = hangs(true).await;
    let layer = grpc("callers.tonic", config().deadline_header(None))
        .unwrap()
        .idempotent(["/test.Greeter/"])
        .unwrap()
        .map_request_body(TonicBody::new);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let stack = handle_grpc_rejections(layer.clone()).layer(endpoint.connect_lazy());
    for number in 0..TIMES {
        let mut request = ::tonic::Request::new("hello".to_owned());
        let mut client = ::tonic::client::Grpc::new(stack.clone());
        let call = async {
            client.ready().await.unwrap();
            let path = http::uri::PathAndQuery::from_static("/test.Greeter/Say");
            if number % 2 == 0 {
                request.set_timeout(SHORT);
                client.unary(request, path, Text).await
            } else {
                let options = CallOptions::new().timeout(SHORT);
                options.scope(client.unary(request, path, Text)).await
            }
        };
        let status = call.await.unwrap_err();
        assert_eq!(status.code(), ::tonic::Code::DeadlineExceeded, "{status:?}");
    }
    heard.abandoned(TIMES);
    nothing_counted(layer.breakers().unwrap());
}

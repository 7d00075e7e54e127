//! Clients of a server that restarts again and again, over real HTTP on loopback: no call is lost, none is executed twice.
//!
//! The restarts take `RESTART_SECONDS`, 3 by default; `scripts/test.sh` runs them for longer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tonic::transport::Endpoint;
use buttress::breaker::{Breaker, BreakerState};
use buttress::event::RetryStop;
use buttress::gate::Keyed;
use buttress::http::{Authority, ByAuthority, ClientConfig, client, error_outcome, grpc};
use buttress::{Error, Executed};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

use crate::common::{Listener, MS, Reported, SECOND};
use crate::http::{
    DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, accept_http2, frame, next_frame,
};

/// How long a server lives.
const LIFE: Duration = Duration::from_millis(200);
/// How many requests it executes at least, which takes longer on a busy machine: a server that stops before it has done
/// anything is an outage, not a restart.
const WORK: usize = 150;
/// How long a stopped server reads from its connections before it closes them.
const LINGER: Duration = SECOND;
const CALLERS: usize = 100;

fn restarts_for() -> Duration {
    let seconds = env::var("RESTART_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// How often each request was executed, by its path.
type Executions = Arc<Mutex<HashMap<String, usize>>>;

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

/// A server on a thread of its own that hands its listening socket to its successor every [`LIFE`].
struct Restarting {
    address: SocketAddr,
    executions: Executions,
    restarts: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Restarting {
    fn start(protocol: Protocol) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let executions = Executions::default();
        let restarts = Arc::new(AtomicUsize::new(0));
        let (all, count) = (Arc::clone(&executions), Arc::clone(&restarts));
        runtime.spawn(async move {
            loop {
                let (stop, stopped) = watch::channel(());
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        stream.set_nodelay(true).unwrap();
                        tokio::spawn(serve(protocol, stream, stopped.clone(), Arc::clone(&all)));
                    }
                };
                let before = executed(&all);
                let life = async {
                    sleep(LIFE).await;
                    while executed(&all) < before + WORK {
                        sleep(10 * MS).await;
                    }
                };
                tokio::select! {
                    () = accept => {}
                    () = life => {}
                }
                stop.send_replace(());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            address,
            executions,
            restarts,
            _runtime: runtime,
        }
    }

    /// The requests that were executed more than once.
    fn executed_twice(&self) -> Vec<String> {
        let executions = self.executions.lock().unwrap();
        let twice = executions.iter().filter(|(_, times)| **times > 1);
        twice.map(|(path, _)| path.clone()).collect()
    }
}

fn executed(executions: &Executions) -> usize {
    executions.lock().unwrap().values().sum()
}

/// Serves a connection until its server is stopped, ends in good order, and then reads on for a while before it closes: a
/// close with bytes unread would be a reset, and responses on their way would be lost.
async fn serve(
    protocol: Protocol,
    stream: TcpStream,
    mut stopped: watch::Receiver<()>,
    executions: Executions,
) {
    let (local, far) = tokio::io::duplex(64 * 1024);
    let service = service_fn(move |request: Request<Incoming>| {
        let executions = Arc::clone(&executions);
        async move { Ok::<_, Infallible>(execute(request, &executions).await) }
    });
    let pumped = tokio::spawn(pump(stream, local));
    macro_rules! until_stopped {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }};
    }
    match protocol {
        Protocol::Http1 => until_stopped!(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service)
        ),
        Protocol::Http2 => until_stopped!(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(far), service)
        ),
    }
    pumped.await.unwrap();
}

async fn execute(request: Request<Incoming>, executions: &Executions) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.into_body().collect().await.is_err() {
        return Response::new(Full::default());
    }
    *executions.lock().unwrap().entry(path).or_default() += 1;
    // Work, so that a server is stopped with calls under way.
    sleep(20 * MS).await;
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("grpc-status", "0".parse().unwrap());
    response
}

/// Carries bytes between a socket and a connection. When the connection has ended, what still comes is read and dropped.
async fn pump(stream: TcpStream, local: tokio::io::DuplexStream) {
    let (mut from_client, mut to_client) = stream.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(local);
    let ended = tokio::sync::Notify::new();
    let out = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        ended.notify_one();
        let _ = to_client.shutdown().await;
    };
    let into = async {
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            () = ended.notified() => {}
        }
        let _ = to_server.shutdown().await;
        let mut sink = tokio::io::sink();
        let rest = tokio::io::copy(&mut from_client, &mut sink);
        let _ = timeout(LINGER, rest).await;
    };
    tokio::join!(out, into);
}

fn hyper(protocol: Protocol) -> Client<HttpConnector, Full<Bytes>> {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(protocol == Protocol::Http2)
        .http2_keep_alive_interval(10 * SECOND)
        .http2_keep_alive_timeout(5 * SECOND)
        .http2_keep_alive_while_idle(true);
    builder.build_http()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The results of the calls of all callers.
#[derive(Default)]
struct Outcomes {
    succeeded: usize,
    /// The path of each call that failed, its method, and whether it may have been executed.
    failed: Vec<(String, Method, Executed, String)>,
}

/// Many callers, each of which makes one call after the other until the time is over.
async fn call_until<F>(
    end: Instant,
    call: impl Fn(Method, String) -> F + Clone + Send + 'static,
) -> Outcomes
where
    F: Future<Output = Result<StatusCode, (Executed, String)>> + Send,
{
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (call, outcomes) = (call.clone(), Arc::clone(&outcomes));
        callers.spawn(async move {
            // Callers do not start in step.
            sleep(Duration::from_millis(caller as u64 * 2)).await;
            for number in 0.. {
                if Instant::now() >= end {
                    break;
                }
                let method = if number % 2 == 0 {
                    Method::POST
                } else {
                    Method::GET
                };
                let path = format!("/{caller}/{number}");
                let result = call(method.clone(), path.clone()).await;
                {
                    let mut outcomes = outcomes.lock().unwrap();
                    match result {
                        Ok(StatusCode::OK) => outcomes.succeeded += 1,
                        Ok(status) => panic!("{status}"),
                        Err((executed, error)) => {
                            outcomes.failed.push((path, method, executed, error));
                        }
                    }
                }
                sleep(100 * MS).await;
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    std::mem::take(&mut *outcomes.lock().unwrap())
}

fn verdict<B, E>(result: Result<Response<B>, Error<E>>) -> Result<StatusCode, (Executed, String)>
where
    E: std::error::Error + 'static,
{
    match result {
        Ok(response) => Ok(response.status()),
        Err(Error::Rejected(rejected)) => Err((rejected.executed, rejected.to_string())),
        Err(Error::Inner(error)) => Err((error_outcome(&error).executed, format!("{error:?}"))),
    }
}

fn over_hyper(name: &'static str, protocol: Protocol, runtime: &Runtime) {
    let server = Restarting::start(protocol);
    let listener = Listener::new(name);
    let layer = client(name, ClientConfig::default()).unwrap();
    let stack = layer.layer(hyper(protocol));
    let address = server.address;
    let outcomes = runtime.block_on(call_until(
        Instant::now() + restarts_for(),
        move |method, path| {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{address}{path}"))
                .body(Full::new(Bytes::from("two apples")))
                .unwrap();
            let call = stack.clone().oneshot(request);
            async move { verdict(call.await) }
        },
    ));
    assert_eq!(state(layer.breakers()), [BreakerState::Closed], "{name}");
    judge(name, protocol, &server, &listener, &outcomes);
}

fn over_tonic(name: &'static str, runtime: &Runtime) {
    let server = Restarting::start(Protocol::Http2);
    let listener = Listener::new(name);
    let layer = grpc(name, ClientConfig::default())
        .unwrap()
        .map_request_body(::tonic::body::Body::new);
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let outcomes = runtime.block_on(async {
        let channel = endpoint
            .http2_keep_alive_interval(10 * SECOND)
            .keep_alive_timeout(5 * SECOND)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let stack = layer.layer(channel);
        let call = move |_, path: String| {
            let request = Request::builder()
                .method(Method::POST)
                .uri(path)
                .header("content-type", "application/grpc")
                .body(::tonic::body::Body::new(Full::new(Bytes::from("apples"))))
                .unwrap();
            let mut stack = stack.clone();
            async move {
                let called = async { stack.ready().await?.call(request).await };
                verdict(called.await)
            }
        };
        call_until(Instant::now() + restarts_for(), call).await
    });
    judge(name, Protocol::Http2, &server, &listener, &outcomes);
}

fn judge(
    name: &str,
    protocol: Protocol,
    server: &Restarting,
    listener: &Listener,
    outcomes: &Outcomes,
) {
    let reported = listener.take();
    let failed = &outcomes.failed;
    let transitions: Vec<_> = reported
        .iter()
        .filter(|reported| matches!(reported, Reported::Transition(..)))
        .collect();
    let repeated = reported
        .iter()
        .filter(|reported| matches!(reported, Reported::Retry(..)));
    let stopped = |by| {
        let stopped = Reported::RetryStopped(by);
        reported
            .iter()
            .filter(|reported| **reported == stopped)
            .count()
    };
    let no_budget = stopped(RetryStop::BudgetExhausted);
    // On a busy machine three attempts in a row may find their connection closed.
    let no_attempts = stopped(RetryStop::AttemptsUsed);
    println!(
        "{name}: {} restarts, {} calls succeeded, {} failed, {} repetitions, {no_budget} refused \
         by the budget, {no_attempts} with all attempts used",
        server.restarts.load(Ordering::Relaxed),
        outcomes.succeeded,
        failed.len(),
        repeated.count(),
    );
    assert!(
        outcomes.succeeded > CALLERS,
        "{name}: hardly a call succeeded"
    );
    assert!(server.restarts.load(Ordering::Relaxed) > 1, "{name}");
    assert_eq!(server.executed_twice(), Vec::<String>::new(), "{name}");
    assert!(
        transitions.is_empty(),
        "{name}: state transitions: {transitions:?}"
    );
    if protocol == Protocol::Http2 {
        assert!(failed.is_empty(), "{name}: {failed:?}");
        return;
    }
    // Over HTTP/1 a server may close a connection just as a request comes: whether it was executed is unknown.
    let mut gets = 0;
    for (path, method, executed, error) in failed {
        println!("    {method} {path}: {error}");
        if *method == Method::POST {
            assert_eq!(*executed, Executed::Maybe, "{name}: POST {path}: {error}");
        } else {
            gets += 1;
        }
    }
    assert!(
        gets <= no_budget + no_attempts,
        "{name}: {gets} GETs failed: {failed:?}"
    );
}

#[test]
fn rolling_restarts_lose_no_call_over_http2() {
    over_hyper("restart-h2-current", Protocol::Http2, &current_thread());
    over_hyper("restart-h2-multi", Protocol::Http2, &multi_thread());
}

#[test]
fn rolling_restarts_lose_only_ambiguous_calls_over_http1() {
    over_hyper("restart-h1-current", Protocol::Http1, &current_thread());
    over_hyper("restart-h1-multi", Protocol::Http1, &multi_thread());
}

#[test]
fn rolling_restarts_lose_no_call_over_tonic() {
    over_tonic("restart-tonic-current", &current_thread());
    over_tonic("restart-tonic-multi", &multi_thread());
}

/// What a server does with the streams of its connections, by the number of the connection and of the stream on it, from 0.
type Script = Arc<dyn Fn(usize, usize) -> Does + Send + Sync>;

#[derive(Clone, Copy, PartialEq)]
enum Does {
    Serve,
    /// Resets the stream with `REFUSED_STREAM`.
    Refuse,
    /// Serves it, then sends GOAWAY with this error code and serves no stream above the last one it has served. It still
    /// reads incoming frames.
    GoAway(u32),
}

/// An HTTP/2 server that follows a script.
struct Scripted {
    address: SocketAddr,
    /// The body of each stream that was served, and how often.
    executions: Executions,
    /// Streams that arrived, served or not.
    arrived: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(script: impl Fn(usize, usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (executions, arrived) = (Executions::default(), Arc::default());
        let script: Script = Arc::new(script);
        let (all, count) = (Arc::clone(&executions), Arc::clone(&arrived));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).unwrap();
                let script = Arc::clone(&script);
                let does = move |stream| script(connection, stream);
                tokio::spawn(follow(stream, does, Arc::clone(&all), Arc::clone(&count)));
            }
        });
        Self {
            address,
            executions,
            arrived,
        }
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    fn executed_twice(&self) -> usize {
        let executions = self.executions.lock().unwrap();
        executions.values().filter(|times| **times > 1).count()
    }
}

/// Serves each stream when its body has ended. The body identifies the request.
async fn follow(
    mut stream: TcpStream,
    does: impl Fn(usize) -> Does,
    executions: Executions,
    arrived: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    accept_http2(&mut stream).await?;
    let mut texts: HashMap<u32, Vec<u8>> = HashMap::new();
    let (mut number, mut served, mut last) = (0, 0, u32::MAX);
    loop {
        let Frame {
            kind,
            flags,
            id,
            payload,
        } = next_frame(&mut stream).await?;
        match kind {
            HEADERS | DATA if id <= last => {
                let text = texts.entry(id).or_default();
                if kind == DATA {
                    text.extend(payload);
                }
                if flags & END_STREAM == 0 {
                    continue;
                }
                arrived.fetch_add(1, Ordering::SeqCst);
                let text = String::from_utf8(texts.remove(&id).unwrap()).unwrap();
                let does = does(number);
                number += 1;
                if does == Does::Refuse {
                    stream
                        .write_all(&frame(RST_STREAM, id, &7_u32.to_be_bytes()))
                        .await?;
                    continue;
                }
                served = id.max(served);
                *executions.lock().unwrap().entry(text).or_default() += 1;
                // `:status: 200` is the eighth entry of the static table; `grpc-status: 0` a literal.
                let head = [b"\x88\x00\x0bgrpc-status\x010".as_slice()].concat();
                let mut response = frame(HEADERS, id, &head);
                response[4] = 1 | 4;
                stream.write_all(&response).await?;
                if let Does::GoAway(code) = does {
                    last = served;
                    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                    stream.write_all(&frame(GOAWAY, 0, &payload)).await?;
                }
            }
            _ => {}
        }
    }
}

/// Sends `size` POSTs at once, and returns whether each succeeded.
async fn burst<S, B>(stack: &S, address: SocketAddr, name: &str, size: usize) -> Vec<bool>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: std::fmt::Debug + Send,
    B: Send + 'static,
{
    let results = errors_of_burst(stack, address, name, size).await;
    results.iter().map(|(_, error)| error.is_none()).collect()
}

/// Sends `size` POSTs at once, and returns the body and the error of each.
async fn errors_of_burst<S, B>(
    stack: &S,
    address: SocketAddr,
    name: &str,
    size: usize,
) -> Vec<(String, Option<String>)>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: std::fmt::Debug + Send,
    B: Send + 'static,
{
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..size {
        let text = format!("{name}/{number}");
        let request = Request::post(format!("http://{address}/orders"))
            .body(Full::new(Bytes::from(text.clone())))
            .unwrap();
        let call = stack.clone().oneshot(request);
        calls.spawn(async move {
            let error = call.await.err().map(|error| format!("{error:?}"));
            (text, error)
        });
    }
    calls.join_all().await
}

const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

fn state(breakers: Option<&Keyed<Authority, ByAuthority, Breaker>>) -> Vec<BreakerState> {
    let breakers = breakers.unwrap().entries();
    breakers.iter().map(|(_, one)| one.state()).collect()
}

/// Fifteen bursts of forty requests; in each, the server sends one GOAWAY when it has served a few of them.
///
/// On a multi-threaded runtime, hyper-util's client (0.1.21) sometimes leaves requests waiting when a GOAWAY arrives, with or
/// without this crate: rarely with one GOAWAY a burst, often with several. Up to `hung` requests may
/// therefore run into the limit of their attempt, if they never reached the server.
async fn bursts_over_goaways<S, B>(hung: usize, stack: impl FnOnce(SocketAddr) -> S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: std::fmt::Debug + Send,
    B: Send + 'static,
{
    let armed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&armed);
    let server = Scripted::start(move |_, stream| match stream {
        4.. if flag.swap(false, Ordering::SeqCst) => Does::GoAway(NO_ERROR),
        _ => Does::Serve,
    })
    .await;
    let stack = stack(server.address);
    let mut failed = Vec::new();
    for round in 0..15 {
        armed.store(true, Ordering::SeqCst);
        let results = errors_of_burst(&stack, server.address, &format!("{round}"), 40).await;
        failed.extend(
            results
                .into_iter()
                .filter_map(|(text, error)| Some((text, error?))),
        );
        assert!(!armed.load(Ordering::SeqCst), "there was no GOAWAY");
    }
    let executions = server.executions.lock().unwrap().clone();
    let (waited, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(text, error)| {
        error.contains("AttemptTimeout") && !executions.contains_key(text)
    });
    for (text, error) in &waited {
        println!("request {text} never left hyper-util: {error}");
    }
    assert_eq!((failed, server.executed_twice()), (Vec::new(), 0));
    assert!(waited.len() <= hung, "{waited:?}");
}

#[test]
fn bursts_that_meet_a_goaway_lose_no_call_and_leave_the_circuit_closed() {
    for (name, hung, runtime) in [
        ("goaway-current", 0, current_thread()),
        ("goaway-multi", 6, multi_thread()),
    ] {
        // By default, hyper-util's client retries requests that were never written.
        for hyper_resends in [true, false] {
            let layer = client(name, ClientConfig::default()).unwrap();
            let client = Client::builder(TokioExecutor::new())
                .http2_only(true)
                .retry_canceled_requests(hyper_resends)
                .build_http();
            runtime.block_on(bursts_over_goaways(hung, |_| layer.layer(client)));
            assert_eq!(state(layer.breakers()), [BreakerState::Closed], "{name}");
        }
    }
}

#[test]
fn bursts_over_tonic_that_meet_a_goaway_lose_no_call_and_leave_the_circuit_closed() {
    for (name, runtime) in [
        ("goaway-tonic-current", current_thread()),
        ("goaway-tonic-multi", multi_thread()),
    ] {
        let layer = grpc(name, ClientConfig::default()).unwrap();
        let wrapping = layer.clone().map_request_body(::tonic::body::Body::new);
        runtime.block_on(bursts_over_goaways(0, |address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            wrapping.layer(endpoint.connect_lazy())
        }));
        assert_eq!(state(layer.breakers()), [BreakerState::Closed], "{name}");
    }
}

#[tokio::test]
async fn a_goaway_with_enhance_your_calm_counts_as_overload_and_is_retried_after_a_wait() {
    let server = Scripted::start(|_, stream| match stream {
        0 => Does::GoAway(ENHANCE_YOUR_CALM),
        _ => Does::Serve,
    })
    .await;
    let name = "goaway-calm";
    let listener = Listener::new(name);
    let layer = client(
        name,
        ClientConfig::default()
            .total(SECOND / 2)
            .attempt(SECOND / 2),
    )
    .unwrap();
    let stack = layer.layer(hyper(Protocol::Http2));
    let results = burst(&stack, server.address, "burst", 10).await;
    assert!(
        results.contains(&false),
        "an overloaded server gets a second"
    );
    let reported = listener.take();
    let waits = reported.iter().filter_map(|reported| match reported {
        Reported::Retry(_, wait) => Some(*wait),
        _ => None,
    });
    assert_eq!(waits.filter(Duration::is_zero).count(), 0);
}

const CALLS: usize = 1000;

/// How many attempts reach a server that refuses this share of its streams, and how many of them were free.
async fn attempts_over_refusals(name: &'static str, refused: usize) -> (usize, usize) {
    let server = Scripted::start(move |_, stream| {
        if stream * 37 % 100 < refused {
            Does::Refuse
        } else {
            Does::Serve
        }
    })
    .await;
    let listener = Listener::new(name);
    let layer = client(name, ClientConfig::default().breaker(None)).unwrap();
    let stack = layer.layer(hyper(Protocol::Http2));
    // What the allowance, the budget's first tokens and the calls under way cost is over after these.
    let _ = burst(&stack, server.address, "before", 100).await;
    let (arrived, _) = (server.arrived(), listener.take());
    for round in 0..CALLS / 20 {
        let _ = burst(&stack, server.address, &format!("{round}"), 20).await;
    }
    let attempts = server.arrived() - arrived;
    let reported = listener.take();
    let paid = reported
        .iter()
        .filter(|reported| **reported == Reported::Budget)
        .count();
    assert_eq!(server.executed_twice(), 0);
    (attempts, attempts.saturating_sub(CALLS + paid))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_retries_of_refused_streams_add_at_most_a_tenth_to_the_load() {
    for (name, refused) in [
        ("refused-30", 30),
        ("refused-50", 50),
        ("refused-80", 80),
        ("refused-100", 100),
    ] {
        let (attempts, free) = attempts_over_refusals(name, refused).await;
        println!("{refused} % refused, {CALLS} calls: {attempts} attempts, {free} of them free");
        // What was restored before may be taken, too.
        assert!(free <= CALLS / 10 + 10, "{refused} %: {free}");
        if refused == 100 {
            assert!(attempts <= CALLS * 11 / 10, "{attempts}");
        }
    }
}

/// Passes bytes on to a server, until its connections are frozen: then it passes nothing on and closes nothing.
struct Relay {
    address: SocketAddr,
    frozen: watch::Sender<usize>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (frozen, freezes) = watch::channel(0);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut local, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let mut freezes = freezes.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let freeze =
                        async { freezes.wait_for(|frozen| number < *frozen).await.is_ok() };
                    let is_frozen = tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut local, &mut far) => false,
                        is_frozen = freeze => is_frozen,
                    };
                    if is_frozen {
                        // Both stay open and unread.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            address,
            frozen,
            connections,
        }
    }

    /// Freezes the connections made so far.
    fn freeze(&self) {
        self.frozen
            .send_replace(self.connections.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn an_http2_connection_that_died_silently_is_found_by_keep_alive() {
    let server = Scripted::start(|_, _| Does::Serve).await;
    let config = ClientConfig::default()
        .attempt(200 * MS)
        .total(200 * MS)
        .breaker(None);

    let relay = Relay::start(server.address).await;
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .http2_only(true)
        .http2_keep_alive_interval(100 * MS)
        .http2_keep_alive_timeout(500 * MS)
        .http2_keep_alive_while_idle(true);
    let stack = client("silent", config).unwrap();
    let stack = stack.layer(builder.build_http());
    assert_eq!(burst(&stack, relay.address, "before", 1).await, [true]);
    relay.freeze();
    let mut lost = 0;
    while burst(&stack, relay.address, &format!("{lost}"), 1).await != [true] {
        lost += 1;
        assert!(lost < 50, "the dead connection is still in use");
    }
    assert_eq!(relay.connections.load(Ordering::SeqCst), 2);
}

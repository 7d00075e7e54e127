//! Marks on the responses of failed calls, and the clients that trust them.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use buttress::clock::Now;
use buttress::gate::{GateLayer, Permit, Policy};
use buttress::http::{
    Authority, ByStatus, ClientConfig, Replay, ServerConfig, TrustNotExecutedLayer,
    handle_rejections, server,
};
use buttress::retry::{RetryConfig, RetryLayer, by_clone_if};
use buttress::{Error, Executed, Kind, Outcome, Reason, Rejected, RetryAdvice};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{Failure, SECOND, three_in_a_row};

const MARK: &str = "x-buttress-not-executed";
const SHOULD_RETRY: &str = "x-should-retry";

/// Rejects the calls of these numbers.
#[derive(Clone)]
struct Refuses(Range<u32>, Arc<AtomicU32>);

fn refuses(calls: Range<u32>) -> GateLayer<Refuses, ByStatus> {
    GateLayer::new(Refuses(calls, Arc::default()), ByStatus::new())
}

struct Passed;

impl Permit for Passed {
    fn settle(self, _: Outcome, _: &Now) {}
}

impl<Req> Policy<Req> for Refuses {
    type Permit = Passed;

    fn admit(&self, _: &Req, _: &Now) -> Result<Passed, Rejected> {
        let call = self.1.fetch_add(1, Ordering::Relaxed);
        if self.0.contains(&call) {
            return Err(Rejected::new(Reason::Policy("full".into()), "door"));
        }
        Ok(Passed)
    }
}

type Server = BoxCloneSyncService<Request, Response, Infallible>;

/// A handler that responds with this status and these headers, and counts its calls.
fn handler(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> (Server, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let service = service_fn(move |_: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Body::empty()).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    (BoxCloneSyncService::new(service), runs)
}

fn post() -> Request {
    Request::post("http://orders.internal:8080/")
        .body(Body::empty())
        .unwrap()
}

fn orders() -> Authority {
    "http://orders.internal:8080".parse().unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

async fn ask<L, S>(layers: L, server: S) -> Response
where
    L: Layer<S, Service: tower::Service<Request, Response = Response, Error = Infallible>>,
{
    layers.layer(server).oneshot(post()).await.unwrap()
}

#[tokio::test]
async fn a_rejection_carries_the_not_executed_header_by_setting() {
    let (server, runs) = handler(200, &[]);
    let silent = ask(handle_rejections(refuses(0..1)), server.clone()).await;
    assert_eq!(
        (silent.status().as_u16(), header(&silent, MARK)),
        (503, None)
    );
    let layers = handle_rejections(refuses(0..1)).not_executed_header(true);
    let marked = ask(layers.clone(), server.clone()).await;
    assert_eq!(
        (marked.status().as_u16(), header(&marked, MARK)),
        (503, Some("1"))
    );
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    let run = ask(layers, server).await;
    assert_eq!((run.status().as_u16(), header(&run, MARK)), (200, None));
}

#[tokio::test]
async fn the_mark_of_an_upstream_is_not_passed_on() {
    let (proxy, _) = handler(503, &[(MARK, "1")]);
    for tells in [false, true] {
        let layers = handle_rejections(refuses(0..0)).not_executed_header(tells);
        assert_eq!(header(&ask(layers, proxy.clone()).await, MARK), None);
    }
}

#[tokio::test]
async fn a_handler_that_forwards_our_own_rejection_passes_no_mark_on_unless_the_layer_marks() {
    // The response to the rejected call of the handler's own client, extensions included.
    let (server, _) = handler(200, &[]);
    let refused = handle_rejections(refuses(0..1)).not_executed_header(true);
    let refused = ask(refused, server).await;
    let refused = Arc::new(std::sync::Mutex::new(Some(refused)));
    let proxy = service_fn(move |_: Request| {
        let refused = refused.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, Infallible>(refused))
    });
    let silent = handle_rejections(refuses(0..0));
    assert_eq!(header(&ask(silent, proxy).await, MARK), None);
}

#[tokio::test]
async fn the_mark_of_an_upstream_is_removed_on_bypassed_paths() {
    let (proxy, _) = handler(503, &[(MARK, "1")]);
    for tells in [false, true] {
        let config = ServerConfig::default()
            .bypass(["/"])
            .not_executed_header(tells);
        let stack = server("marks.bypass", config).unwrap();
        let response = stack.layer(proxy.clone()).oneshot(post()).await.unwrap();
        assert!(!response.headers().contains_key(MARK), "{tells}");
    }
}

#[tokio::test]
async fn the_mark_of_an_inner_layer_is_passed_on() {
    let (server, _) = handler(200, &[]);
    let inner = handle_rejections(refuses(0..1))
        .not_executed_header(true)
        .layer(server);
    let outer = handle_rejections(refuses(0..0)).not_executed_header(true);
    assert_eq!(header(&ask(outer, inner).await, MARK), Some("1"));
}

/// Retries everything but successes.
#[derive(Clone, Copy)]
struct Again503;

impl<E> buttress::Classify<Response, E> for Again503 {
    fn classify(&self, result: Result<&Response, &E>) -> Outcome {
        match result {
            Ok(response) if response.status().is_success() => Outcome::SUCCESS,
            _ => Outcome::TRANSIENT,
        }
    }
}

#[derive(Clone)]
struct Plain;

impl buttress::retry::ReplayPolicy<Request> for Plain {
    type Attempt = Request;
    type Saved = ();

    fn first(&self, request: Request) -> (Request, Option<()>) {
        (request, Some(()))
    }

    fn again(&self, (): &mut ()) -> Option<Request> {
        Some(post())
    }
}

fn retry<R: Clone>(name: &str, replay: R) -> RetryLayer<R, Again503> {
    let config = RetryConfig::new().max_attempts(2);
    RetryLayer::new(name, config, replay)
        .unwrap()
        .classify(Again503)
}

#[tokio::test(start_paused = true)]
async fn a_rejected_retry_is_not_marked_because_of_the_attempt_before_it() {
    // The first attempt runs and fails, the second is rejected.
    let (server, runs) = handler(500, &[]);
    let inner = handle_rejections(refuses(1..2))
        .not_executed_header(true)
        .layer(server);
    let outer = handle_rejections(retry("repeated refusal", Plain)).not_executed_header(true);
    let response = ask(outer, inner).await;
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(
        (response.status().as_u16(), header(&response, MARK)),
        (503, None)
    );
    // The rejected attempt itself was certainly not executed.
    let refused = Outcome::NEUTRAL.not_executed().retry(RetryAdvice::Never);
    assert_eq!(ByStatus::new().response(&response), refused);
}

/// The response to a client that trusts these servers, and its outcome.
async fn call(trusted: Vec<Authority>, server: Server) -> (Response, Outcome) {
    let config = RetryConfig::new();
    let retry = RetryLayer::new("trusts", config, Replay::new()).unwrap();
    let client = ServiceBuilder::new()
        .layer(retry.classify(ByStatus::new()))
        .layer(TrustNotExecutedLayer::new(trusted))
        .map_err(Error::Inner)
        .map_request(|request: http::Request<_>| request.map(Body::new))
        .service(server);
    let request = post().map(|_| String::new());
    let response = client.oneshot(request).await.unwrap();
    let outcome = ByStatus::new().response(&response);
    (response, outcome)
}

/// A server that rejects the first call with a mark.
fn refusing() -> (Server, Arc<AtomicU32>) {
    let (server, runs) = handler(201, &[]);
    let layers = handle_rejections(refuses(0..1)).not_executed_header(true);
    // As over the wire: without the extensions.
    let over_the_wire = |mut response: Response| {
        *response.extensions_mut() = http::Extensions::new();
        response
    };
    let server = layers.layer(server).map_response(over_the_wire);
    (BoxCloneSyncService::new(server), runs)
}

#[tokio::test(start_paused = true)]
async fn a_post_is_retried_if_a_trusted_server_did_not_execute_it() {
    let (server, runs) = refusing();
    let (response, _) = call(vec![orders()], server).await;
    assert_eq!(
        (response.status().as_u16(), runs.load(Ordering::Relaxed)),
        (201, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_mark_of_any_other_server_is_ignored_and_removed() {
    for trusted in [vec![], vec!["http://orders.internal:8081".parse().unwrap()]] {
        let (server, runs) = refusing();
        let (response, outcome) = call(trusted, server).await;
        assert_eq!(
            (response.status().as_u16(), runs.load(Ordering::Relaxed)),
            (503, 0)
        );
        assert_eq!(header(&response, MARK), None);
        assert_eq!(outcome, Outcome::TRANSIENT);
    }
}

#[tokio::test]
async fn a_trusted_server_is_alive_but_limiting() {
    let meaning = async |status, headers| {
        let (server, _) = handler(status, headers);
        let client = TrustNotExecutedLayer::new([orders()]).layer(server);
        let response = client.oneshot(post()).await.unwrap();
        assert_eq!(header(&response, MARK), None);
        ByStatus::new().response(&response)
    };
    let refused = Outcome::OVERLOADED.not_executed();
    assert_eq!(meaning(503, &[(MARK, "1")]).await, refused);
    assert_eq!(meaning(429, &[(MARK, "1")]).await, refused);
    let veto = meaning(503, &[(MARK, "1"), (SHOULD_RETRY, "false")]).await;
    assert_eq!(veto, refused.retry(RetryAdvice::Vetoed));
    let permanent = meaning(400, &[(MARK, "1")]).await;
    assert_eq!(
        (permanent.kind, permanent.executed),
        (Kind::Permanent, Executed::No)
    );
    assert_eq!(meaning(200, &[(MARK, "1")]).await, Outcome::SUCCESS);
    for unclear in [&[(MARK, "yes")][..], &[(MARK, "1"), (MARK, "1")]] {
        assert_eq!(meaning(503, unclear).await, Outcome::TRANSIENT);
    }
}

/// A handler that calls another service through a retry layer, and responds with this if that fails.
fn caller(
    name: &'static str,
    then: u16,
    headers: &'static [(&'static str, &'static str)],
    repeats: bool,
) -> Server {
    let (inner, _) = handler(then, headers);
    let service = service_fn(move |request: Request| {
        let inner = inner.clone();
        async move {
            let failing =
                service_fn(|_: u8| std::future::ready(Err::<(), Failure>(Error::Inner("down"))));
            let config = RetryConfig::new().max_attempts(2);
            let retry = RetryLayer::new(name, config, by_clone_if(move |_: &u8| repeats)).unwrap();
            retry.layer(failing).oneshot(7).await.unwrap_err();
            inner.oneshot(request).await
        }
    });
    BoxCloneSyncService::new(service)
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_retries_are_spent_vetoes_retries_by_setting() {
    let layers = || handle_rejections(refuses(0..0)).should_retry_header(true);
    let spent = |status, headers| caller("spent", status, headers, true);
    let says = async |server| header(&ask(layers(), server).await, SHOULD_RETRY).map(str::to_owned);
    assert_eq!(says(spent(502, &[])).await.as_deref(), Some("false"));
    assert_eq!(says(spent(200, &[])).await, None, "it found another way");
    let own = says(spent(502, &[(SHOULD_RETRY, "true")])).await;
    assert_eq!(own.as_deref(), Some("true"), "the handler's own header");
    let once = caller("not spent", 502, &[], false);
    assert_eq!(says(once).await, None, "nothing was retried");
    let silent = ask(handle_rejections(refuses(0..0)), spent(502, &[])).await;
    assert_eq!(header(&silent, SHOULD_RETRY), None);
}

#[tokio::test(start_paused = true)]
async fn an_outer_retry_layer_is_notified_of_spent_retries() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let spent = caller("spent below", 502, &[], true).map_request(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        request
    });
    let inner = handle_rejections(refuses(0..0))
        .should_retry_header(true)
        .layer(spent);
    let response = ask(handle_rejections(retry("outer", Plain)), inner).await;
    assert_eq!(response.status(), 502);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

// ── the server's wait as the open time of a circuit ──

/// The open time of a circuit that two of these responses have opened.
async fn open_time(
    max_server_wait: Option<Duration>,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> Duration {
    let two_of_two = three_in_a_row()
        .consecutive_failures(None)
        .failure_rate(Some(0.5))
        .min_calls(2)
        .max_server_wait(max_server_wait);
    let config = ClientConfig::default()
        .breaker(two_of_two)
        .retry(None)
        .count_429(true);
    let server = handler(status, headers)
        .0
        .map_request(|request: http::Request<String>| request.map(Body::from));
    let client = buttress::http::client("waits", config)
        .unwrap()
        .layer(server);
    let send = || client.clone().oneshot(post().map(|_| String::new()));
    for _ in 0..2 {
        assert_eq!(send().await.unwrap().status().as_u16(), status);
    }
    let Err(Error::Rejected(rejected)) = send().await else {
        panic!("the circuit is closed")
    };
    assert_eq!(rejected.reason, Reason::CircuitOpen);
    let wait = rejected.retry_after.unwrap();
    let moment = Duration::from_nanos(1);
    tokio::time::advance(wait.saturating_sub(moment)).await;
    let early = send().await.unwrap_err();
    assert!(matches!(early, Error::Rejected(_)));
    tokio::time::advance(moment).await;
    assert_eq!(send().await.unwrap().status().as_u16(), status, "a probe");
    wait
}

#[tokio::test(start_paused = true)]
async fn a_circuit_stays_open_for_the_servers_wait_within_bounds() {
    let half_a_minute = Some(30 * SECOND);
    for (max, status, headers, seconds) in [
        (half_a_minute, 503, &[("retry-after", "7")][..], 7),
        (half_a_minute, 500, &[("retry-after-ms", "7000")], 7),
        (
            half_a_minute,
            429,
            &[("ratelimit", r#""default";r=0;t=9"#)],
            9,
        ),
        (
            half_a_minute,
            503,
            &[("ratelimit", r#""a";r=0;t=9, "b";r=5;t=20"#)],
            9,
        ),
        (
            half_a_minute,
            503,
            &[("ratelimit", r#""a";r=0;t=9"#), ("retry-after", "12")],
            12,
        ),
        // Bounded, and never shorter than `open_for`.
        (half_a_minute, 503, &[("retry-after", "3600")], 30),
        (half_a_minute, 503, &[("retry-after", "1")], 2),
        (half_a_minute, 503, &[("retry-after", "soon")], 2),
        // Off by default.
        (None, 503, &[("retry-after", "7")], 2),
    ] {
        let open = open_time(max, status, headers).await;
        assert_eq!(open, seconds * SECOND, "{status} {headers:?}");
    }
}

//! The options of a call: which layer applies them, and which are hidden from inner layers.

use std::convert::Infallible;
use std::time::Duration;

use buttress::gate::GateLayer;
use buttress::http::{
    AtBodyEnd, ByStatus, ClientConfig, IdempotencyKeys, ServerConfig, client, server,
};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::telemetry::Observed;
use buttress::testing::{Step, Strict};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{CallOptions, Error, Executed, KeyProblem, Outcome, Reason, Rejected, classify_fn};
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tower::buffer::Buffer;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::client::Broken;
use crate::common::{Failure, MS, SECOND};

type Server = Strict<Request<String>, Response<String>, Broken>;

fn get() -> Request<String> {
    let request = Request::get("http://api.example.com/orders");
    request.body(String::new()).unwrap()
}

fn post() -> Request<String> {
    let request = Request::post("http://api.example.com/orders");
    request.body(String::new()).unwrap()
}

fn status(status: u16) -> Step<Response<String>, Broken> {
    let response = Response::builder().status(status).body(String::new());
    Step::Answer(Ok(response.unwrap()))
}

fn config() -> ClientConfig {
    ClientConfig::default().breaker(None)
}

// ── which call they apply to ──

/// The duration of a call that the service inside `outer` makes through its own layers.
async fn inner_call(
    options: CallOptions,
    outer: impl Layer<Slow, Service = impl tower::Service<()>>,
) -> Duration {
    let started = Instant::now();
    let _ = options.scope(outer.layer(slow()).oneshot(())).await;
    started.elapsed()
}

type Slow = tower::util::BoxCloneSyncService<(), &'static str, Failure>;

/// A service that calls a hanging service with limits of 1 s for an attempt and 2 s in total, and retries at once.
fn slow() -> Slow {
    let hangs = service_fn(|()| std::future::pending::<Result<&'static str, Failure>>());
    let retry = RetryLayer::new("options.inner", RetryConfig::new(), by_clone()).unwrap();
    let inner = ServiceBuilder::new()
        .layer(DeadlineLayer::new("options.inner", 2 * SECOND))
        .layer(retry)
        .layer(TimeoutLayer::new("options.inner", SECOND))
        .service(hangs);
    Slow::new(service_fn(move |()| {
        let inner = inner.clone();
        async move { inner.oneshot(()).await }
    }))
}

#[tokio::test(start_paused = true)]
async fn the_outermost_layer_applies_an_option_and_inner_services_do_not() {
    let hour = 3600 * SECOND;
    let all = || {
        CallOptions::new()
            .timeout(hour)
            .attempt_timeout(hour)
            .retry(false)
    };
    let retry = RetryLayer::new("options.outer", RetryConfig::new(), by_clone()).unwrap();
    let never_again = classify_fn(|_: Result<&&'static str, &Failure>| Outcome::PERMANENT);
    let outer = ServiceBuilder::new()
        .layer(DeadlineLayer::new("options.outer", 60 * SECOND))
        .layer(retry.classify(never_again))
        .layer(TimeoutLayer::new("options.outer", 60 * SECOND))
        .into_inner();
    assert_eq!(inner_call(all(), outer).await, 2 * SECOND);
    // Without such an outer layer, it applies to the inner call.
    let none = tower::layer::util::Identity::new();
    assert_eq!(inner_call(all(), none).await, hour);
    let outer = DeadlineLayer::new("options.outer", 60 * SECOND);
    assert_eq!(
        inner_call(all(), outer).await,
        2 * SECOND,
        "its attempt may last"
    );
    let outer = TimeoutLayer::new("options.outer", 60 * SECOND);
    assert_eq!(
        inner_call(CallOptions::new().attempt_timeout(hour), outer).await,
        2 * SECOND
    );
}

#[tokio::test(start_paused = true)]
async fn no_option_of_a_client_reaches_the_calls_of_its_server() {
    let seen = service_fn(|_: Request<String>| async {
        // The server's own call, through its own stack.
        let hangs = service_fn(|_: Request<String>| {
            std::future::pending::<Result<Response<String>, Broken>>()
        });
        let own = client("options.own", config().attempt(SECOND).total(2 * SECOND)).unwrap();
        let started = Instant::now();
        let _ = own.layer(hangs).oneshot(get()).await;
        let server: Server = Strict::new(|_| status(200));
        let stack = client(
            "options.own",
            config().idempotency_keys(IdempotencyKeys::Honored),
        )
        .unwrap();
        stack.layer(server.clone()).oneshot(post()).await.unwrap();
        let key = server.take_requests()[0].headers()["idempotency-key"].clone();
        let text = format!("{:?} {}", started.elapsed(), key.to_str().unwrap().len());
        Ok::<_, Broken>(Response::new(text))
    });
    let stack = client("options.client", config()).unwrap().layer(seen);
    let hour = 3600 * SECOND;
    let options = CallOptions::new()
        .timeout(hour)
        .attempt_timeout(hour)
        .retry(false)
        .streams(true)
        .idempotency_key("order-7");
    let in_scope = options.clone().scope(stack.clone().oneshot(post())).await;
    let mut carrying = post();
    carrying.extensions_mut().insert(options);
    let carried = stack.oneshot(carrying).await;
    for response in [in_scope, carried] {
        let body = http_body_util::BodyExt::collect(response.unwrap().into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "2s 38");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_stack_clears_the_options_of_a_caller_in_the_same_process() {
    let seen = service_fn(|request: Request<String>| async move {
        assert!(request.extensions().get::<CallOptions>().is_none());
        // The options would apply here if the caller's scope were still in force.
        let short = TimeoutLayer::new("options.handler", SECOND);
        let hangs = async || std::future::pending::<Result<(), Rejected>>().await;
        let ended = short.run(hangs).await.unwrap_err();
        Ok::<_, Infallible>(Response::new(format!("{:?}", ended.reason)))
    });
    let hour = 3600 * SECOND;
    for path in ["/orders", "/livez"] {
        let service = server("options.server", ServerConfig::default()).unwrap();
        let service = service.layer(seen.map_response(|response: Response<String>| {
            response.map(http_body_util::Full::<bytes::Bytes>::from)
        }));
        let options = CallOptions::new().timeout(hour).attempt_timeout(hour);
        let mut request = Request::get(path).body(String::new()).unwrap();
        request.extensions_mut().insert(options.clone());
        let response = options.scope(service.oneshot(request)).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "AttemptTimeout { limit: 1s }");
    }
}

#[tokio::test(start_paused = true)]
async fn options_in_the_extensions_replace_those_of_a_scope_and_reach_through_a_buffer() {
    let server: Server = Strict::new(|_| Step::Hang);
    let stack = client("options.buffer", config()).unwrap();
    let stack = Buffer::new(stack.layer(server), 1);
    let mut request = get();
    request
        .extensions_mut()
        .insert(CallOptions::new().timeout(50 * MS));
    let scope = CallOptions::new().timeout(70 * MS);
    let started = Instant::now();
    scope.scope(stack.oneshot(request)).await.unwrap_err();
    assert_eq!(started.elapsed(), 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_streams_option_applies_to_the_callers_response_only() {
    let gate = |name: &'static str| {
        GateLayer::new(Observed::new(name), ByStatus::new()).finish(AtBodyEnd::new(name, SECOND))
    };
    let late = || service_fn(|()| std::future::ready(Ok::<_, Error<Infallible>>(late_body())));
    let streams = || CallOptions::new().streams(true);
    let direct = gate("options.direct").layer(late());
    let direct = streams().scope(direct.oneshot(())).await.unwrap();
    let read = http_body_util::BodyExt::collect(direct.into_body()).await;
    assert!(read.is_ok());
    // A server reads the body of its own call and responds with the result.
    let server = service_fn(move |_: Request<String>| {
        let own = gate("options.server").layer(late());
        async move {
            let body = own.oneshot(()).await.unwrap().into_body();
            let read = http_body_util::BodyExt::collect(body).await;
            Ok::<_, Broken>(Response::new(read.is_err().to_string()))
        }
    });
    let stack = client("options.streams", config()).unwrap().layer(server);
    let response = streams().scope(stack.oneshot(get())).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    assert_eq!(
        body.unwrap().to_bytes(),
        "true",
        "the limit applies to the server's own call"
    );
}

fn late_body() -> Response<Late> {
    Response::new(Late(Box::pin(sleep(3 * SECOND)), false))
}

/// A body of one frame after this time.
struct Late(std::pin::Pin<Box<tokio::time::Sleep>>, bool);

impl http_body::Body for Late {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
        if self.1 {
            return std::task::Poll::Ready(None);
        }
        std::task::ready!(std::future::Future::poll(self.0.as_mut(), cx));
        self.1 = true;
        let frame = http_body::Frame::data(bytes::Bytes::from_static(b"late"));
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

// ── the key of a scope ──

fn key_of(server: &Server) -> Vec<Option<String>> {
    let text = |request: Request<String>| {
        let key = request.headers().get("idempotency-key")?;
        Some(key.to_str().unwrap().to_owned())
    };
    server.take_requests().into_iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_scope_is_used_by_one_call_and_a_second_call_is_rejected() {
    let server: Server = Strict::new(|call| status(if call == 0 { 503 } else { 201 }));
    // The second call is not sent with a generated key or without a key either.
    for keys in [IdempotencyKeys::Unknown, IdempotencyKeys::Honored] {
        let stack = client("options.key", config().idempotency_keys(keys)).unwrap();
        let stack = stack.layer(server.clone());
        let calls = async {
            let first = stack.clone().oneshot(post()).await.unwrap();
            assert_eq!(first.status(), 201);
            // A call that needs no key is sent.
            assert_eq!(stack.clone().oneshot(get()).await.unwrap().status(), 201);
            // A call with its own key is sent, too.
            let mut own = post();
            let key = http::HeaderValue::from_static("\"order-4711-of-ada\"");
            own.headers_mut().insert("idempotency-key", key);
            assert_eq!(stack.clone().oneshot(own).await.unwrap().status(), 201);
            stack.clone().oneshot(post()).await
        };
        let options = CallOptions::new().idempotency_key("order-4711-of-ada");
        let second = options.scope(calls).await;
        let Err(Error::Rejected(rejected)) = second else {
            panic!("it was sent: {second:?}")
        };
        assert_eq!(rejected.reason, Reason::Key(KeyProblem::SecondCall));
        assert_eq!(rejected.executed, Executed::No);
        let text = rejected.to_string();
        assert!(
            text.contains("use a separate scope for each call"),
            "{text}"
        );
        assert!(!text.contains("4711"), "{text}");
        let key = || Some("\"order-4711-of-ada\"".to_owned());
        let mut sent = key_of(&server);
        if sent.len() == 4 {
            assert_eq!(sent.remove(0), key(), "the first attempt");
        }
        assert_eq!(sent, [key(), None, key()]);
    }
}

#[tokio::test(start_paused = true)]
async fn of_calls_made_together_in_one_scope_one_gets_the_key() {
    let server: Server = Strict::new(|_| status(201));
    let stack = client("options.together", config()).unwrap();
    let stack = stack.layer(server.clone());
    let calls = async {
        let one = stack.clone().oneshot(post());
        tokio::join!(
            one,
            stack.clone().oneshot(post()),
            stack.clone().oneshot(post())
        )
    };
    let (a, b, c) = CallOptions::new().idempotency_key("k").scope(calls).await;
    let sent = [a, b, c].iter().flatten().count();
    assert_eq!((sent, server.calls()), (1, 1));
    // Each call in a separate scope has the key.
    for _ in 0..2 {
        let call = CallOptions::new()
            .idempotency_key("k")
            .scope(stack.clone().oneshot(post()));
        assert!(call.await.is_ok());
    }
    assert_eq!(key_of(&server), vec![Some("\"k\"".to_owned()); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_sent_is_rejected_and_not_used_up() {
    let server: Server = Strict::new(|_| status(201));
    let server_stack = server.clone().map_err(Error::Inner);
    let unquoted = IdempotencyKeyLayer::new()
        .unquoted()
        .layer(server_stack.clone());
    let quoted = IdempotencyKeyLayer::new().layer(server_stack);
    let calls = async {
        let rejected = unquoted.oneshot(post()).await;
        assert!(matches!(rejected, Err(Error::Rejected(_))), "{rejected:?}");
        quoted.oneshot(post()).await.unwrap();
    };
    CallOptions::new()
        .idempotency_key("order 7")
        .scope(calls)
        .await;
    assert_eq!(key_of(&server), [Some("\"order 7\"".to_owned())]);
}

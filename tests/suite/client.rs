//! The standard client stack, on paused time before a scripted service, and the body that is part of the call.

use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState, Window};
use buttress::budget::BudgetConfig;
use buttress::event::Event;
use buttress::gate::KeyedConfig;
use buttress::http::client::ClientService;
use buttress::http::{
    AtBodyEnd, ByStatus, ClassifyEnd, ClientConfig, ClientLayer, IdempotencyKeys, client,
};
use buttress::retry::{ReplayPolicy, RetryConfig};
use buttress::testing::{Step, Strict};
use buttress::{
    BoxError, Call, CallOptions, Classify, Deadline, Error, Executed, Kind, Outcome, Reason,
    Rejected,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::buffer::Buffer;
use tower::{Layer, ServiceBuilder, ServiceExt};

use crate::bodies::{Part, Parts};
use crate::common::{SECOND, panics};

/// A server's own error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

impl buttress::http::ErrorOutcome for Broken {
    fn outcome(&self) -> buttress::Outcome {
        buttress::Outcome::TRANSIENT
    }
}

const DATA: Part = Part::Data(Duration::ZERO);

type Server = Strict<Request<String>, Response<Parts>, Broken>;
type Stack = ClientService<Server>;

fn status(status: u16) -> Step<Response<Parts>, Broken> {
    let mut response = Response::new(Parts::of([]));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    Step::Answer(Ok(response))
}

fn serves(bites: &'static [Part]) -> Server {
    Strict::new(move |_| Step::Answer(Ok(Response::new(Parts::of(bites.iter().copied())))))
}

/// One failure opens; no jitter; no waits between attempts.
fn plain() -> ClientConfig {
    let once = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO)
        .open_jitter(0.0);
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    ClientConfig::default()
        .breaker(once)
        .retry(RetryConfig::default().backoff(at_once))
}

fn stack(config: ClientConfig, server: &Server) -> (ClientLayer, Stack) {
    let layer = client("shop", config).unwrap();
    let stack = layer.layer(server.clone());
    (layer, stack)
}

fn request(method: Method, uri: &str) -> Request<String> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body("order".to_owned())
        .unwrap()
}

fn get() -> Request<String> {
    request(Method::GET, "http://shop.example/")
}

fn post() -> Request<String> {
    request(Method::POST, "http://shop.example/orders")
}

fn state(layer: &ClientLayer) -> BreakerState {
    let breakers = layer.breakers().unwrap().entries();
    assert_eq!(breakers.len(), 1);
    breakers[0].1.state()
}

fn reason<T, E>(result: Result<T, Error<E>>) -> (Reason, Executed) {
    match result {
        Err(Error::Rejected(rejected)) => (rejected.reason, rejected.executed),
        Err(Error::Inner(_)) => panic!("the service's own error"),
        Ok(_) => panic!("not rejected"),
    }
}

// ── as a whole ──

#[test]
fn contradictory_limits_are_rejected_with_their_path() {
    let short_lease = BreakerConfig::default().probe_idle_timeout(SECOND);
    let short_window = BreakerConfig::default().window(Window::Time(5 * SECOND));
    let config = ClientConfig::default;
    for (config, message) in [
        (
            config().attempt(5 * SECOND).total(3 * SECOND),
            "`attempt` is 5s, but it must be at most `total`, which is 3s",
        ),
        (
            config().attempt(Duration::MAX),
            "`attempt` is none, but it must be at most `total`, which is 10s",
        ),
        (
            config().breaker(short_lease),
            "`breaker.probe_idle_timeout` is 1s, but it must be at least the client's `total`, which is 10s",
        ),
        (
            config().breaker(short_window),
            "`breaker.window` is 5s, but it must be at least twice the client's `attempt`: 6s",
        ),
        (
            config().attempt(Duration::ZERO),
            "`attempt` is 0ns, but it must be more than 0",
        ),
        (
            config().body_idle(Duration::ZERO),
            "`body_idle` is 0ns, but it must be more than 0",
        ),
        (
            config().key_header("idempotency key"),
            "`key_header` is \"idempotency key\", but it must be a header name",
        ),
        (
            config()
                .proxy(true)
                .idempotency_keys(IdempotencyKeys::Honored),
            "`idempotency_keys` is Honored, but it must be `IdempotencyKeys::Unknown`, because `proxy` is set: \
             a proxy never retries a POST or PATCH",
        ),
        (
            config().retry(RetryConfig::default().max_attempts(0)),
            "`retry.max_attempts` is 0, but it must be at least 1, which is the first attempt",
        ),
    ] {
        let error = client("shop", config).unwrap_err().to_string();
        assert_eq!(error, format!("client `shop`: {message}"));
    }
    client("shop", config()).unwrap();
    client("shop", config().attempt(Duration::MAX).total(Duration::MAX)).unwrap();
}

/// `?` of an error that is no `std::error::Error` would not compile.
async fn boxed<S>(stack: S) -> Result<(), BoxError>
where
    S: tower::Service<Request<String>, Error = BoxError>,
{
    stack.oneshot(get()).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_stack_over_boxed_errors_returns_boxed_errors() {
    let server: Server = Strict::new(|_| Step::Answer(Err(Broken)));
    let one_failure = || client("boxed", plain().retry(None)).unwrap();
    let custom = one_failure().classify(Tired);
    let own = server.clone().map_err(BoxError::from);
    let buffered = Buffer::new(server.clone(), 1);
    let error = boxed(one_failure().layer(own.clone())).await.unwrap_err();
    assert!(error.is::<Broken>(), "the service's own error: {error}");
    for run in [
        boxed(custom.layer(own.clone())).await,
        boxed(one_failure().layer(buffered)).await,
    ] {
        let error = run.unwrap_err();
        assert!(error.is::<Broken>(), "the service's own error: {error}");
    }
    let stack = ServiceBuilder::new().layer(one_failure()).service(own);
    boxed(stack.clone()).await.unwrap_err();
    let refused = boxed(stack).await.unwrap_err();
    let rejected = refused.downcast_ref::<Rejected>().expect("a rejection");
    assert_eq!(rejected.reason, Reason::CircuitOpen);
    // Parts assembled without the standard stack, around a `BoxError`.
    let manual = tower::service_fn(async |_: Request<String>| {
        Err::<Response<String>, _>(Error::Inner(BoxError::from("broken")))
    });
    let breaker = Breaker::new("boxed", BreakerConfig::default()).unwrap();
    let stack = BreakerLayer::new(breaker, ByStatus::new()).layer(manual);
    assert!(matches!(stack.oneshot(get()).await, Err(Error::Inner(_))));
}

#[test]
fn debug_shows_the_parts_in_order_with_their_settings() {
    let config = ClientConfig::default().unquoted_keys(true).budget(None);
    let layer = client("shop", config).unwrap();
    let fields = |shown: &str| -> Vec<String> {
        let own = |line: &&str| line.starts_with("    ") && !line.starts_with("     ");
        let names = shown
            .lines()
            .filter(own)
            .filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    };
    let order = "name, observe_call, deadline, idempotency_key, retry, budget, breaker, authorities, count_429, \
                 body_idle, observe_attempt, attempt_span, attempt, deadline_header";
    assert_eq!(fields(&format!("{layer:#?}")).join(", "), order);
    let shown = format!("{layer:?}");
    for part in [
        "observe_call: Some(\"shop.call\")",
        "deadline: 10s",
        "form: Unquoted",
        "max_attempts: 3",
        "budget: None",
        "probe_idle_timeout: 10s",
        "attempt: 3s",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let breaker = BreakerConfig::default().probe_idle_timeout(30 * SECOND);
    let slower = layer.config().total(20 * SECOND).breaker(breaker);
    layer.reconfigure(slower).unwrap();
    let shown = format!("{layer:?}");
    for part in ["deadline: 20s", "probe_idle_timeout: 30s"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn a_duration_in_a_file_has_a_unit_and_fits() {
    let read = |text: &str| {
        let json = serde_json::json!({ "total": text });
        serde_json::from_value::<ClientConfig>(json).map(|config| config.total)
    };
    for (text, total) in [
        ("250ms", Duration::from_millis(250)),
        ("1m 30s", Duration::from_secs(90)),
        ("0s", Duration::ZERO),
        ("7ns", Duration::from_nanos(7)),
        ("1d", Duration::from_secs(86_400)),
    ] {
        assert_eq!(read(text).unwrap(), total, "{text}");
    }
    for text in [
        "",
        " ",
        "10",
        "-1s",
        "+1s",
        "1e3s",
        "s",
        "1 parsec",
        "1S",
        "soon",
        "99999999999999999999s",
        "18446744073709551615h",
        "584542046091y",
        "1s,2s",
    ] {
        assert!(read(text).is_err(), "{text:?}: {:?}", read(text));
    }
    for json in [
        r#"{"total": 10}"#,
        r#"{"total": null}"#,
        r#"{"total": {"secs": 1}}"#,
    ] {
        assert!(
            serde_json::from_str::<ClientConfig>(json).is_err(),
            "{json}"
        );
    }
    for total in [Duration::MAX, Duration::from_nanos(1), Duration::new(7, 7)] {
        let written = serde_json::to_string(&ClientConfig::default().total(total)).unwrap();
        let read: ClientConfig = serde_json::from_str(&written).unwrap();
        assert_eq!(read.total, total, "{written}");
    }
}

// ── time ──

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_cut_off_and_retried() {
    let server: Server = Strict::new(|call| if call == 0 { Step::Hang } else { status(200) });
    let (_, stack) = stack(ClientConfig::default(), &server);
    let started = tokio::time::Instant::now();
    assert_eq!(stack.oneshot(get()).await.unwrap().status(), 200);
    assert!(started.elapsed() >= 3 * SECOND && started.elapsed() < 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_whole_call_ends_with_its_deadline_and_a_request_may_carry_an_earlier_one() {
    let server: Server = Strict::new(|_| Step::Hang);
    let config = ClientConfig::default()
        .attempt(2 * SECOND)
        .total(3 * SECOND);
    let (_, stack) = stack(config, &server);
    let started = tokio::time::Instant::now();
    let hung = stack.clone().oneshot(get()).await;
    assert_eq!(reason(hung), (Reason::Deadline, Executed::Maybe));
    assert_eq!(started.elapsed(), 3 * SECOND);
    let mut hurried = get();
    hurried.extensions_mut().insert(Deadline::after(SECOND));
    let started = tokio::time::Instant::now();
    assert_eq!(
        reason(stack.clone().oneshot(hurried).await).0,
        Reason::Deadline
    );
    assert_eq!(started.elapsed(), SECOND);
    let mut late = get();
    late.extensions_mut()
        .insert(Deadline::after(Duration::ZERO));
    let refused = stack.oneshot(late).await;
    assert_eq!(reason(refused), (Reason::Deadline, Executed::No));
}

#[tokio::test(start_paused = true)]
async fn the_whole_call_ends_with_its_deadline_even_if_an_attempt_has_no_limit() {
    let server: Server = Strict::new(|call| if call == 0 { status(500) } else { Step::Hang });
    let (_, stack) = stack(plain().breaker(None), &server);
    let patient = CallOptions::new().attempt_timeout(Duration::MAX);
    let started = tokio::time::Instant::now();
    let hung = patient.scope(stack.oneshot(get())).await;
    assert_eq!(reason(hung), (Reason::Deadline, Executed::Maybe));
    assert_eq!(started.elapsed(), 10 * SECOND);
}

// ── requests that are safe to retry ──

#[tokio::test(start_paused = true)]
async fn a_post_whose_response_was_lost_is_sent_once() {
    let server: Server = Strict::new(|_| Step::Hang);
    let (_, stack) = stack(plain().breaker(None), &server);
    let lost = stack.clone().oneshot(post()).await;
    assert_eq!(reason(lost).1, Executed::Maybe);
    assert_eq!(server.calls(), 1);
    let sent = server.take_requests().remove(0);
    assert!(
        !sent.headers().contains_key("idempotency-key"),
        "the server is not known to honor keys"
    );
}

#[tokio::test(start_paused = true)]
async fn where_keys_are_honored_a_post_is_retried_with_the_same_key() {
    let server: Server = Strict::new(|call| if call < 2 { status(503) } else { status(201) });
    let (_, stack) = stack(
        plain()
            .breaker(None)
            .idempotency_keys(IdempotencyKeys::Honored),
        &server,
    );
    assert_eq!(stack.clone().oneshot(post()).await.unwrap().status(), 201);
    let keys: Vec<_> = server
        .take_requests()
        .iter()
        .map(|sent| sent.headers()["idempotency-key"].clone())
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(stack.oneshot(post()).await.unwrap().status(), 201);
    let other = server.take_requests().remove(0).headers()["idempotency-key"].clone();
    assert_ne!(other, keys[0], "another call is another operation");
}

#[tokio::test(start_paused = true)]
async fn only_routes_that_honor_keys_get_one_and_are_retried() {
    let server: Server = Strict::new(|_| status(503));
    let keys = IdempotencyKeys::honored_by(["POST http://shop.example/orders"]).unwrap();
    let (_, stack) = stack(
        plain().breaker(None).budget(None).idempotency_keys(keys),
        &server,
    );
    for (method, uri, calls, keys) in [
        (Method::POST, "http://shop.example/orders/7", 3, 3),
        (Method::POST, "http://shop.example/refunds", 1, 0),
        (Method::PATCH, "http://shop.example/orders", 1, 0),
        (Method::POST, "http://bank.example/orders", 1, 0),
        (Method::PUT, "http://shop.example/orders", 3, 0),
    ] {
        let request = request(method, uri);
        assert_eq!(stack.clone().oneshot(request).await.unwrap().status(), 503);
        let sent = server.take_requests();
        assert_eq!(sent.len(), calls, "{uri}");
        let with_key = |sent: &&Request<String>| sent.headers().contains_key("idempotency-key");
        assert_eq!(sent.iter().filter(with_key).count(), keys, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_has_the_configured_header_and_form() {
    let server: Server = Strict::new(|_| status(503));
    let config = plain()
        .breaker(None)
        .idempotency_keys(IdempotencyKeys::Honored)
        .key_header("paypal-request-id")
        .unquoted_keys(true);
    let (_, stack) = stack(config, &server);
    assert_eq!(stack.clone().oneshot(post()).await.unwrap().status(), 503);
    let sent = server.take_requests();
    assert_eq!(sent.len(), 3);
    let key = sent[0].headers()["paypal-request-id"].to_str().unwrap();
    assert_eq!(key.len(), 36);
    assert!(!sent[0].headers().contains_key("idempotency-key"));
    let call = CallOptions::new()
        .idempotency_key("order-7")
        .scope(stack.oneshot(post()));
    assert_eq!(call.await.unwrap().status(), 503);
    assert_eq!(
        server.take_requests()[0].headers()["paypal-request-id"],
        "order-7"
    );
}

#[tokio::test(start_paused = true)]
async fn a_proxy_generates_no_key_and_retries_no_post() {
    let server: Server = Strict::new(|_| status(503));
    let config = plain().breaker(None).proxy(true);
    let (_, stack) = stack(config, &server);
    let mut keyed = post();
    keyed.headers_mut().insert(
        "idempotency-key",
        "\"a-key-of-the-callers\"".parse().unwrap(),
    );
    for (request, calls) in [(post(), 1), (keyed, 1), (get(), 3)] {
        let keys = request.headers().len();
        assert_eq!(stack.clone().oneshot(request).await.unwrap().status(), 503);
        let sent = server.take_requests();
        assert_eq!(sent.len(), calls);
        assert!(sent.iter().all(|sent| sent.headers().len() == keys));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_too_early_is_retried_once() {
    let server: Server = Strict::new(|_| status(425));
    let (_, stack) = stack(plain(), &server);
    let mut early = post();
    early.headers_mut().insert("early-data", 1.into());
    assert_eq!(stack.oneshot(early).await.unwrap().status(), 425);
    let early = |sent: &Request<String>| sent.headers().contains_key("early-data");
    let sent: Vec<_> = server.take_requests().iter().map(early).collect();
    assert_eq!(sent, [true, false]);
    // Even if the server permits a retry: it is not early data.
    let insists: Server = Strict::new(|_| {
        let mut response = Response::new(Parts::of([]));
        *response.status_mut() = http::StatusCode::TOO_EARLY;
        let yes = http::HeaderValue::from_static("true");
        response.headers_mut().insert("x-should-retry", yes);
        Step::Answer(Ok(response))
    });
    let (_, stack) = self::stack(plain(), &insists);
    assert_eq!(stack.oneshot(post()).await.unwrap().status(), 425);
    assert_eq!(insists.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_extensions_carry_the_number_of_the_attempt() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&seen);
    // Not executed, so the first retry is free; the second counts.
    let server: Server = Strict::new(move |call| {
        reported.lock().unwrap().push(Call::current());
        status([425, 503, 200][call])
    });
    let (_, stack) = stack(plain().breaker(None), &server);
    assert_eq!(stack.oneshot(get()).await.unwrap().status(), 200);
    // A first attempt carries none: that would allocate.
    let number =
        |sent: &Request<String>| sent.extensions().get::<Call>().map_or(1, |of| of.attempt);
    let sent: Vec<_> = server.take_requests().iter().map(number).collect();
    let seen: Vec<_> = seen.lock().unwrap().iter().map(|of| of.attempt).collect();
    assert_eq!(seen, [1, 1, 2]);
    assert_eq!(sent, seen);
}

#[tokio::test(start_paused = true)]
async fn without_retries_an_unexecuted_request_is_sent_once() {
    let server: Server = Strict::new(|_| status(425));
    let (_, stack) = stack(plain().retry(None), &server);
    assert_eq!(stack.oneshot(get()).await.unwrap().status(), 425);
    assert_eq!(server.calls(), 1);
}

/// A replay policy that changes the type of the body.
#[derive(Clone)]
struct AsBytes<R>(R);

impl<R> ReplayPolicy<Request<String>> for AsBytes<R>
where
    R: ReplayPolicy<Request<String>, Attempt = Request<String>>,
{
    type Attempt = Request<Bytes>;
    type Saved = R::Saved;

    fn first(&self, request: Request<String>) -> (Request<Bytes>, Option<R::Saved>) {
        let (first, saved) = self.0.first(request);
        (first.map(Bytes::from), saved)
    }

    fn again(&self, saved: &mut R::Saved) -> Option<Request<Bytes>> {
        self.0.again(saved).map(|again| again.map(Bytes::from))
    }

    fn is_safe(&self, saved: &R::Saved, outcome: &Outcome) -> bool {
        self.0.is_safe(saved, outcome)
    }
}

/// A 500 is a success, and everything else a failure.
#[derive(Clone)]
struct Tired;

impl<B, E> Classify<Response<B>, E> for Tired {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) if response.status() == 500 => Outcome::NEUTRAL,
            Ok(response) if response.status() == 200 => Outcome::SUCCESS,
            _ => Outcome::TRANSIENT,
        }
    }
}
impl ClassifyEnd for Tired {}

#[tokio::test(start_paused = true)]
async fn the_replay_policy_and_the_classifier_can_be_replaced() {
    let server: Strict<Request<Bytes>, Response<Parts>, Broken> =
        Strict::new(|call| status([404, 500, 404, 404, 404][call]));
    let layer = client("shop", plain().breaker(None))
        .unwrap()
        .replay(AsBytes)
        .classify(Tired);
    let stack = layer.layer(server.clone());
    assert_eq!(stack.clone().oneshot(get()).await.unwrap().status(), 500);
    assert_eq!(server.calls(), 2, "a 404 is retried, a 500 is not");
    assert_eq!(stack.oneshot(post()).await.unwrap().status(), 404);
    assert_eq!(server.calls(), 3, "the wrapped policy knows the methods");
    let bodies: Vec<_> = server
        .take_requests()
        .into_iter()
        .map(Request::into_body)
        .collect();
    assert!(bodies.iter().all(|body| body == "order"));
}

// ── policies per authority ──

#[tokio::test(start_paused = true)]
async fn a_failing_authority_is_not_called_and_others_are() {
    let server: Server = Strict::new(|call| if call == 0 { status(500) } else { status(200) });
    let (layer, stack) = stack(plain().retry(None), &server);
    let to = |host: &str| {
        stack
            .clone()
            .oneshot(request(Method::GET, &format!("http://{host}/")))
    };
    assert_eq!(to("dead.example").await.unwrap().status(), 500);
    assert_eq!(
        reason(to("dead.example").await),
        (Reason::CircuitOpen, Executed::No)
    );
    assert_eq!(
        reason(to("DEAD.example:80").await).0,
        Reason::CircuitOpen,
        "the same authority"
    );
    assert_eq!(to("healthy.example").await.unwrap().status(), 200);
    assert_eq!(server.calls(), 2);
    let mut authorities: Vec<_> = layer
        .breakers()
        .unwrap()
        .entries()
        .iter()
        .map(|(key, _)| key.to_string())
        .collect();
    authorities.sort();
    assert_eq!(
        authorities,
        ["http://dead.example", "http://healthy.example"]
    );
}

#[tokio::test(start_paused = true)]
async fn each_authority_pays_for_its_own_retries() {
    let server: Server = Strict::new(|_| status(500));
    let (layer, stack) = stack(plain().breaker(None), &server);
    let to = |host: &str| {
        stack
            .clone()
            .oneshot(request(Method::GET, &format!("http://{host}/")))
    };
    // Two tokens to begin with: two retries for the first call, none for the second.
    to("a.example").await.unwrap();
    assert_eq!(server.calls(), 3);
    to("a.example").await.unwrap();
    assert_eq!(server.calls(), 4);
    to("b.example").await.unwrap();
    assert_eq!(server.calls(), 7);
    assert_eq!(layer.budgets().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_429_counts_as_a_failure_only_by_setting() {
    for (count_429, expected) in [(false, BreakerState::Closed), (true, BreakerState::Open)] {
        let server: Server = Strict::new(|_| status(429));
        let rate = BreakerConfig::default().min_calls(5).open_jitter(0.0);
        let (layer, stack) = stack(
            plain().retry(None).breaker(rate).count_429(count_429),
            &server,
        );
        for _ in 0..5 {
            assert_eq!(stack.clone().oneshot(get()).await.unwrap().status(), 429);
        }
        assert_eq!(state(&layer), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn every_part_can_be_left_out() {
    let server: Server = Strict::new(|_| status(500));
    let bare = ClientConfig::default()
        .attempt(Duration::MAX)
        .total(Duration::MAX)
        .body_idle(Duration::MAX)
        .retry(None)
        .budget(None)
        .breaker(None);
    let (layer, stack) = stack(bare, &server);
    for _ in 0..50 {
        assert_eq!(stack.clone().oneshot(get()).await.unwrap().status(), 500);
    }
    assert_eq!(server.calls(), 50);
    assert!(layer.breakers().is_none() && layer.budgets().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_services_own_error_is_returned_unchanged() {
    let server: Server = Strict::new(|_| Step::Answer(Err(Broken)));
    let (_, stack) = stack(plain().breaker(None), &server);
    match stack.oneshot(get()).await {
        Err(Error::Inner(Broken)) => assert_eq!(server.calls(), 3),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

// ── changing settings at run time ──

#[tokio::test(start_paused = true)]
async fn new_limits_apply_to_the_next_call_only() {
    let server: Server = Strict::new(|_| Step::Hang);
    let (layer, stack) = stack(plain().retry(None).breaker(None), &server);
    let started = tokio::time::Instant::now();
    let under_way = tokio::spawn(stack.clone().oneshot(get()));
    tokio::task::yield_now().await;
    let shorter = layer.config().attempt(SECOND).total(2 * SECOND);
    // A clone of the layer is the same client.
    layer.clone().reconfigure(shorter.clone()).unwrap();
    let limit = |limit| (Reason::AttemptTimeout { limit }, Executed::Maybe);
    assert_eq!(reason(stack.clone().oneshot(get()).await), limit(SECOND));
    assert_eq!(started.elapsed(), SECOND);
    assert_eq!(reason(under_way.await.unwrap()), limit(3 * SECOND));
    assert_eq!(started.elapsed(), 3 * SECOND);

    layer.reconfigure(shorter.attempt(2 * SECOND)).unwrap();
    assert_eq!(reason(stack.oneshot(get()).await).0, Reason::Deadline);
    assert_eq!(started.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_new_idle_limit_does_not_apply_to_a_body_in_progress() {
    let server = serves(&[Part::Stall]);
    let (layer, stack) = stack(plain().breaker(None).body_idle(3 * SECOND), &server);
    let call = async || Box::pin(stack.clone().oneshot(get()).await.unwrap().into_body());
    let mut first = call().await;
    layer.reconfigure(layer.config().body_idle(SECOND)).unwrap();
    let mut second = call().await;
    for (body, limit) in [(&mut first, 3 * SECOND), (&mut second, SECOND)] {
        let stalled = reason(body.frame().await.unwrap()).0;
        assert_eq!(stalled, Reason::BodyIdle { limit });
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_stays_open_for_the_rest_of_its_time() {
    let server: Server = Strict::new(|_| status(500));
    let (layer, stack) = stack(plain().retry(None), &server);
    stack.clone().oneshot(get()).await.unwrap();
    tokio::time::advance(SECOND / 2).await;
    let longer = layer.config().breaker.unwrap().open_for(60 * SECOND);
    layer.reconfigure(layer.config().breaker(longer)).unwrap();
    let Err(Error::Rejected(refused)) = stack.clone().oneshot(get()).await else {
        panic!("it is open");
    };
    assert_eq!(refused.retry_after, Some(3 * SECOND / 2));
    tokio::time::advance(3 * SECOND / 2).await;
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    assert_eq!(stack.clone().oneshot(get()).await.unwrap().status(), 500);
    let Err(Error::Rejected(refused)) = stack.clone().oneshot(get()).await else {
        panic!("the probe has failed");
    };
    assert_eq!(refused.retry_after, Some(60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn new_settings_apply_to_servers_called_later() {
    let server: Server = Strict::new(|_| status(500));
    let (layer, stack) = stack(plain(), &server);
    let breaker = layer
        .config()
        .breaker
        .unwrap()
        .consecutive_failures(Some(3));
    let budget = BudgetConfig::default().initial(1);
    let config = layer.config().breaker(breaker).budget(budget);
    layer.reconfigure(config).unwrap();
    let call = || stack.clone().oneshot(get());
    call().await.unwrap();
    assert_eq!(server.calls(), 2, "one token");
    call().await.unwrap();
    assert_eq!(server.calls(), 3);
    assert_eq!(state(&layer), BreakerState::Open, "after three");
}

#[tokio::test(start_paused = true)]
async fn a_reconfigured_budget_retains_its_balance() {
    let server: Server = Strict::new(|call| status(if call < 3 { 500 } else { 200 }));
    let (layer, stack) = stack(plain().breaker(None), &server);
    let call = || stack.clone().oneshot(get());
    let balance = || layer.budgets().unwrap().entries()[0].1.balance();
    let set = |budget| layer.reconfigure(layer.config().budget(budget));
    call().await.unwrap();
    assert!(balance().abs() < 1e-9, "two retries");
    set(BudgetConfig::default().ratio(1.0)).unwrap();
    assert!(balance().abs() < 1e-9);
    for _ in 0..4 {
        call().await.unwrap();
    }
    assert!((balance() - 4.0).abs() < 1e-9, "a token a call");
    set(BudgetConfig::default().cap(3)).unwrap();
    assert!((balance() - 3.0).abs() < 1e-9, "no more than the cap");
    set(BudgetConfig::default().cap(20)).unwrap();
    call().await.unwrap();
    assert!((balance() - 3.2).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn retries_and_keys_may_change() {
    let server: Server = Strict::new(|_| status(503));
    let (layer, stack) = stack(plain().breaker(None).budget(None), &server);
    let call = async |request| {
        stack.clone().oneshot(request).await.unwrap();
        let keyed = |sent: &Request<String>| sent.headers().contains_key("idempotency-key");
        let sent = server.take_requests();
        (sent.len(), sent.iter().any(keyed))
    };
    assert_eq!(call(get()).await, (3, false));
    assert_eq!(call(post()).await, (1, false));
    let retry = layer.config().retry.unwrap().max_attempts(2);
    let config = layer
        .config()
        .retry(retry)
        .idempotency_keys(IdempotencyKeys::Honored);
    layer.reconfigure(config.clone()).unwrap();
    assert_eq!(call(get()).await, (2, false));
    assert_eq!(call(post()).await, (2, true));
    assert_eq!(layer.config(), config);
    layer
        .reconfigure(config.idempotency_keys(IdempotencyKeys::Unknown))
        .unwrap();
    assert_eq!(call(post()).await, (1, false));
}

#[tokio::test(start_paused = true)]
async fn invalid_or_fixed_settings_change_nothing() {
    let server: Server = Strict::new(|_| Step::Hang);
    let (layer, stack) = stack(plain().retry(None), &server);
    let before = layer.config();
    let short = || before.clone().attempt(SECOND);
    for (config, message) in [
        (
            short().total(SECOND / 2),
            "`attempt` is 1s, but it must be at most `total`, which is 500ms",
        ),
        (
            short().breaker(None),
            "`breaker` is off, but it must be on, because it cannot change while the client is in use",
        ),
        (
            short().retry(RetryConfig::default()),
            "`retry` is on, but it must be off, because it cannot change while the client is in use",
        ),
        (
            short().observe(false),
            "`observe` is false, but it must be true, because it cannot change while the client is in use",
        ),
        (
            short().key_header("x-key"),
            "`key_header` is \"x-key\", but it must be \"idempotency-key\", because \
             it cannot change while the client is in use",
        ),
    ] {
        let error = layer.reconfigure(config).unwrap_err().to_string();
        assert_eq!(error, format!("client `shop`: {message}"));
    }
    assert_eq!(layer.config(), before);
    let limit = 3 * SECOND;
    let cut = reason(stack.oneshot(get()).await).0;
    assert_eq!(cut, Reason::AttemptTimeout { limit });
}

#[tokio::test(start_paused = true)]
async fn evicting_authorities_creates_no_retries() {
    let keys = KeyedConfig::default().max_keys(64);
    let config = plain().breaker(None).authorities(keys);
    let get = |host: u32| {
        let request = Request::get(format!("http://host-{host}/"));
        request.body(String::new()).unwrap()
    };
    // All are down: there are no more retries than the first 64 budgets start with.
    let server: Server = Strict::new(|_| status(503));
    let stack = client("many", config.clone())
        .unwrap()
        .layer(server.clone());
    let mut calls = 0;
    for _ in 0..20 {
        for host in 0..200 {
            let result = stack.clone().oneshot(get(host)).await;
            assert_eq!(result.unwrap().status(), 503);
            calls += 1;
        }
    }
    let retries = server.calls() - calls;
    assert!(retries <= 64 * 2, "{retries} retries");

    // Every fourth is down: no more than that, and what the calls that succeed pay.
    let server: Server = Strict::new(|call| status(if call % 4 == 0 { 503 } else { 200 }));
    let stack = client("most", config).unwrap().layer(server.clone());
    let (mut calls, mut paid) = (0, 0.0);
    for _ in 0..20 {
        for host in 0..200 {
            let result = stack.clone().oneshot(get(host)).await;
            paid += if result.unwrap().status() == 200 {
                0.2
            } else {
                0.0
            };
            calls += 1;
        }
    }
    let retries = u32::try_from(server.calls() - calls).unwrap();
    assert!(
        f64::from(retries) <= 64.0 * 2.0 + paid,
        "{retries} retries, {paid} paid"
    );
}

// ── events ──

/// The reports of the clients of this name: source, outcome and duration.
fn reports(name: &'static str) -> (Arc<Mutex<Vec<Report>>>, buttress::event::Subscription) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let subscription = buttress::event::subscribe(move |event: &Event<'_>| {
        let who = event.source().name().strip_prefix(name);
        if let (Event::Finished { outcome, took, .. }, Some(who)) = (event, who) {
            let kind = outcome.map(|outcome| outcome.kind);
            log.lock().unwrap().push((who.to_owned(), kind, *took));
        }
    });
    (seen, subscription)
}

type Report = (String, Option<Kind>, Duration);

#[tokio::test(start_paused = true)]
async fn each_call_and_each_attempt_is_reported_and_one_that_hangs_has_failed() {
    let (seen, _subscription) = reports("observed");
    let server: Server = Strict::new(|call| match call {
        0 => Step::Hang,
        1 => status(404),
        _ => status(200),
    });
    let stack = client("observed", plain()).unwrap().layer(server.clone());
    // The breaker refuses the second attempt.
    stack.clone().oneshot(get()).await.unwrap_err();
    tokio::time::advance(2 * SECOND).await;
    stack.clone().oneshot(get()).await.unwrap();
    stack.oneshot(get()).await.unwrap();
    let report = |who: &str, kind, took| (who.to_owned(), Some(kind), took);
    let at_once = Duration::ZERO;
    assert_eq!(
        *seen.lock().unwrap(),
        [
            report(".attempt", Kind::Transient, 3 * SECOND),
            report(".call", Kind::Neutral, 3 * SECOND),
            report(".attempt", Kind::Permanent, at_once),
            report(".call", Kind::Permanent, at_once),
            report(".attempt", Kind::Success, at_once),
            report(".call", Kind::Success, at_once),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_with_observe_off() {
    let (seen, _subscription) = reports("unobserved");
    let server: Server = Strict::new(|_| status(200));
    let layer = client("unobserved", plain().observe(false)).unwrap();
    layer.layer(server).oneshot(get()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), []);
}

// ── the body ──

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_a_failure_of_the_service() {
    let server = serves(&[DATA, Part::Stall]);
    let (layer, stack) = stack(plain().body_idle(2 * SECOND), &server);
    let mut body = Box::pin(stack.oneshot(get()).await.unwrap().into_body());
    body.frame().await.unwrap().unwrap();
    let started = tokio::time::Instant::now();
    let stalled = body.frame().await.unwrap();
    assert_eq!(
        reason(stalled),
        (Reason::BodyIdle { limit: 2 * SECOND }, Executed::Maybe)
    );
    assert_eq!(started.elapsed(), 2 * SECOND);
    assert_eq!(state(&layer), BreakerState::Open);
    assert!(body.frame().await.is_none(), "a body ends after its error");
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_body_cut_short_by_the_deadline_is_no_failure() {
    let drips: &[Part] = &[
        Part::Data(SECOND),
        Part::Data(SECOND),
        Part::Data(SECOND),
        Part::Data(SECOND),
    ];
    let server = serves(drips);
    let (layer, stack) = stack(plain().total(3 * SECOND + SECOND / 2), &server);
    let mut body = Box::pin(stack.oneshot(get()).await.unwrap().into_body());
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(reason(body.frame().await.unwrap()).0, Reason::Deadline);
    drop(body);
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_a_failure_of_the_service_and_its_error_is_returned() {
    let server = serves(&[DATA, Part::Fail]);
    let (layer, stack) = stack(plain(), &server);
    let mut body = Box::pin(stack.oneshot(get()).await.unwrap().into_body());
    body.frame().await.unwrap().unwrap();
    assert_eq!(state(&layer), BreakerState::Closed);
    assert_eq!(
        body.frame().await.unwrap().unwrap_err(),
        Error::Inner(Broken)
    );
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_is_a_failure_of_the_service() {
    let server = serves(&[Part::Panic]);
    let (layer, stack) = stack(plain(), &server);
    let mut body = Box::pin(stack.oneshot(get()).await.unwrap().into_body());
    assert!(panics(|| body
        .as_mut()
        .poll_frame(&mut Context::from_waker(std::task::Waker::noop()))));
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_decided_when_its_body_ends_and_by_its_head_when_the_body_is_dropped() {
    let server: Server = Strict::new(|call| match call {
        0 => status(500),
        _ => Step::Answer(Ok(Response::new(Parts::of([DATA, DATA])))),
    });
    let one_probe = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO)
        .open_jitter(0.0)
        .probes(2);
    let (layer, stack) = stack(plain().retry(None).breaker(one_probe), &server);
    stack.clone().oneshot(get()).await.unwrap();
    tokio::time::advance(2 * SECOND).await;
    let read = stack.clone().oneshot(get()).await.unwrap();
    let dropped = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    assert_eq!(
        reason(stack.clone().oneshot(get()).await).0,
        Reason::CircuitProbing
    );
    read.into_body().collect().await.unwrap();
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    drop(dropped);
    assert_eq!(
        state(&layer),
        BreakerState::Closed,
        "a dropped body is no failure"
    );
}

#[tokio::test(start_paused = true)]
async fn a_streaming_call_has_no_limits_and_is_settled_at_its_head() {
    const AN_HOUR_LATER: &[Part] = &[Part::Data(Duration::from_secs(3600)), Part::Fail];
    let server = serves(AN_HOUR_LATER);
    let (layer, stack) = stack(plain(), &server);
    let call = CallOptions::new().streams(true).scope(stack.oneshot(get()));
    let mut body = Box::pin(call.await.unwrap().into_body());
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_error_can_be_classified_as_a_success() {
    /// Everything is a success.
    #[derive(Clone)]
    struct AllIsWell;
    impl<Res, E> Classify<Res, E> for AllIsWell {
        fn classify(&self, _: Result<&Res, &E>) -> Outcome {
            Outcome::SUCCESS
        }
    }
    impl ClassifyEnd for AllIsWell {}
    let one_failure = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO)
        .probes(1)
        .open_jitter(0.0);
    let breaker = Breaker::new("healthy", one_failure).unwrap();
    breaker.try_acquire().unwrap().settle(Outcome::TRANSIENT);
    tokio::time::advance(2 * SECOND).await;
    let server: Server = Strict::new(|_| Step::Answer(Err(Broken)));
    let lifted = server.clone().map_err(Error::Inner);
    let stack = BreakerLayer::new(breaker.clone(), AllIsWell)
        .finish(AtBodyEnd::new("healthy", SECOND))
        .layer(lifted);
    assert!(stack.oneshot(get()).await.is_err());
    assert_eq!(breaker.state(), BreakerState::Closed, "the probe succeeded");
}

//! The standard server stack, in memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use buttress::clock::Now;
use buttress::http::deadline::{DeadlineHeader, ExtractDeadlineConfig, Trust};
use buttress::http::{ServerConfig, ServerLayer, server};
use buttress::testing::{Step, Strict};
use buttress::{BoxError, CallError, CallOptions, Deadline, Kind, Reason};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Listener, Reported, SECOND, panics, poll};

type Text = Full<bytes::Bytes>;
type Handler = Strict<Request<()>, Response<Text>, Infallible>;

fn config() -> ServerConfig {
    ServerConfig::default().deadline(ExtractDeadlineConfig::new().trust(Trust::Everyone))
}

fn stack(name: &str, config: ServerConfig) -> ServerLayer {
    server(name, config).unwrap()
}

fn fine() -> Step<Response<Text>, Infallible> {
    Step::Answer(Ok(Response::new("fine".into())))
}

fn to(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

fn within(time: &str) -> Request<()> {
    let request = Request::get("/orders").header("grpc-timeout", time);
    request.body(()).unwrap()
}

/// Status and text.
async fn read<B>(response: Response<B>) -> (u16, String)
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_dropped_and_the_caller_gets_a_504() {
    let reported = Listener::new("server.hangs");
    let handler: Handler = Strict::new(|_| Step::Hang);
    let service = stack("server.hangs", config()).layer(handler.clone());
    let started = Instant::now();
    let response = service.oneshot(to("/orders")).await.unwrap();
    assert_eq!(started.elapsed(), 30 * SECOND);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let (status, text) = read(response).await;
    assert_eq!(status, 504);
    assert!(
        text.contains("timeout `server.hangs`: no response within 30s"),
        "{text}"
    );
    assert_eq!(handler.live(), 0);
    let reported = reported.take();
    let [
        Reported::Rejected(rejected),
        Reported::Finished(Some(kind), took),
    ] = &reported[..]
    else {
        panic!("{reported:?}")
    };
    assert_eq!(
        rejected.reason,
        Reason::AttemptTimeout { limit: 30 * SECOND }
    );
    assert_eq!((*kind, *took), (Kind::Transient, 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_gets_a_504_and_is_no_failure() {
    let reported = Listener::new("server.late");
    let handler: Handler = Strict::new(|_| Step::Hang);
    let service = stack("server.late", config()).layer(handler.clone());
    let started = Instant::now();
    let response = service.clone().oneshot(within("2S")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), started.elapsed()),
        (504, 2 * SECOND)
    );
    assert_eq!(handler.live(), 0);
    assert!(matches!(
        reported.take()[..],
        [Reported::Rejected(_), Reported::Finished(None, _)]
    ));
    let response = service.oneshot(within("0n")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!(!response.headers().contains_key("x-buttress-not-executed"));
    let tells = stack("server.tells", config().not_executed_header(true)).layer(handler.clone());
    let response = tells.oneshot(within("0n")).await.unwrap();
    assert_eq!(response.headers()["x-buttress-not-executed"], "1");
    assert_eq!(handler.calls(), 1, "a late call is not executed");
    assert!(matches!(
        reported.take()[..],
        [
            Reported::Rejected(_),
            Reported::Finished(Some(Kind::Neutral), _)
        ]
    ));
}

#[tokio::test(start_paused = true)]
async fn the_handlers_own_calls_end_with_the_earlier_of_timeout_and_deadline() {
    let handler = service_fn(async |_| {
        let left = Deadline::current().map(|deadline| deadline.remaining(&Now::unread()));
        Ok::<_, Infallible>(Response::new(Text::from(format!("{left:?}"))))
    });
    let left = async |config, request| {
        let service = stack("server.inherits", config).layer(handler);
        read(service.oneshot(request).await.unwrap()).await.1
    };
    assert_eq!(left(config(), to("/")).await, "Some(30s)");
    assert_eq!(left(config(), within("2S")).await, "Some(2s)");
    assert_eq!(left(config(), within("1M")).await, "Some(30s)");
    let stranger = ServerConfig::default();
    assert_eq!(left(stranger, within("2S")).await, "Some(30s)");
    let forever = config().timeout(Duration::MAX);
    assert_eq!(left(forever.clone(), to("/")).await, "None");
    assert_eq!(
        left(forever.clone().deadline(None), within("2S")).await,
        "None"
    );
    assert_eq!(left(forever, to("/livez")).await, "None");
}

/// A body that sends a frame after this time and then stalls.
fn stalls(after: Duration) -> Channel<bytes::Bytes> {
    let (mut send, body) = Channel::new(1);
    tokio::spawn(async move {
        sleep(after).await;
        send.send_data("frame".into()).await.unwrap();
        sleep(Duration::from_secs(9999)).await;
        drop(send);
    });
    body
}

/// The reason and time at which the body of a call with these settings was cut short.
async fn cut(config: ServerConfig, request: Request<()>, frame: Duration) -> (Reason, Duration) {
    let handler =
        service_fn(
            move |_| async move { Ok::<_, Infallible>(Response::new(Body::new(stalls(frame)))) },
        );
    let started = Instant::now();
    let response = stack("server.body", config).layer(handler).oneshot(request);
    let mut body = std::pin::pin!(response.await.unwrap().into_body());
    let error: BoxError = loop {
        match body.frame().await.expect("an error before the end") {
            Ok(_) => {}
            Err(error) => break error.into(),
        }
    };
    let rejected = error.rejected().expect("a rejection");
    (rejected.reason.clone(), started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_body_may_take_longer_than_the_timeout_but_not_stall_nor_outlive_its_caller() {
    let idle = Reason::BodyIdle { limit: 30 * SECOND };
    assert_eq!(
        cut(config().timeout(SECOND), to("/"), 20 * SECOND).await,
        (idle, 50 * SECOND)
    );
    assert_eq!(
        cut(config(), within("25S"), 20 * SECOND).await,
        (Reason::Deadline, 25 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn a_health_check_skips_every_part() {
    let reported = Listener::new("server.health");
    let slow = || Step::After(90 * SECOND, Ok(Response::new("fine".into())));
    let handler: Handler = Strict::new(move |_| slow());
    let service = stack("server.health", config()).layer(handler.clone());
    for path in ["/livez", "/readyz", "/healthz", "/livez?verbose"] {
        let mut request = to(path);
        let over = ::http::HeaderValue::from_static("0n");
        request.headers_mut().insert("grpc-timeout", over);
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(read(response).await, (200, "fine".into()), "{path}");
    }
    assert_eq!(reported.take(), []);
    let nested = service.oneshot(to("/orders/livez")).await.unwrap();
    assert_eq!(nested.status(), 504);
    let own = stack("server.health", config().bypass(["/ping"])).layer(handler);
    assert_eq!(
        own.clone().oneshot(to("/ping")).await.unwrap().status(),
        200
    );
    assert_eq!(own.oneshot(to("/livez")).await.unwrap().status(), 504);
}

#[tokio::test(start_paused = true)]
async fn the_ready_instance_is_called_and_a_health_check_releases_it() {
    let handler: Handler = Strict::new(|_| fine());
    let mut service = stack("server.contract", config()).layer(handler.clone());
    let before = handler.clones();
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(to("/orders")).await;
        assert_eq!(response.unwrap().status(), 200);
    }
    assert_eq!((handler.calls(), handler.clones() - before), (3, 0));
    let mut one = stack("server.contract", config()).layer(ConcurrencyLimit::new(handler, 1));
    for path in ["/orders", "/livez", "/livez", "/orders"] {
        let response = one.ready().await.unwrap().call(to(path));
        let response = timeout(SECOND, response).await.expect("a place").unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_part_can_be_left_out() {
    let reported = Listener::new("server.off");
    let off = ServerConfig::default()
        .bypass([""; 0])
        .observe(false)
        .deadline(None)
        .timeout(Duration::MAX)
        .body_idle(Duration::MAX);
    let slow = || Step::After(9999 * SECOND, Ok(Response::new("fine".into())));
    let handler: Handler = Strict::new(move |_| slow());
    let service = stack("server.off", off).layer(handler);
    let response = service.oneshot(within("1S")).await.unwrap();
    assert_eq!(read(response).await, (200, "fine".into()));
    assert_eq!(reported.take(), []);
}

#[tokio::test(start_paused = true)]
async fn it_is_a_layer_for_axum() {
    let hang = get(async || std::future::pending::<()>().await);
    let app: Router = Router::new()
        .route("/fine", get(async || "fine"))
        .route("/livez", get(async || "alive"))
        .route("/hangs", hang)
        .layer(stack("server.axum", config()))
        .route(
            "/one",
            get(async || "one").layer(stack("server.axum", config())),
        );
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        (response.status().as_u16(), response)
    };
    assert_eq!(read(ask("/fine").await.1).await.1, "fine");
    assert_eq!(read(ask("/livez").await.1).await.1, "alive");
    assert_eq!(read(ask("/one").await.1).await.1, "one");
    assert_eq!(ask("/nowhere").await.0, 404);
    assert_eq!(ask("/hangs").await.0, 504);
}

#[test]
fn debug_shows_the_parts_in_order_with_their_settings() {
    let config = ServerConfig::default().bypass(["/livez"]);
    assert_eq!(
        format!("{:?}", stack("server.debug", config)),
        "ServerLayer { name: \"server.debug\", bypass: [\"/livez\"], not_executed_header: false, should_retry_header: false, observe: true, body_idle: 30s, deadline: Some(ExtractDeadlineConfig { \
         headers: [GrpcTimeout, EnvoyExpectedTimeout], trust: Nobody, max: \
         18446744073709551615.999999999s }), timeout: 30s, .. }"
    );
}

#[test]
fn an_invalid_setting_is_rejected_with_its_path() {
    let error = |config: ServerConfig| server("orders", config).unwrap_err().to_string();
    let max = ExtractDeadlineConfig::new().max(Duration::ZERO);
    assert_eq!(
        error(config().deadline(max)),
        "server `orders`: `deadline.max` is 0ns, but it must be more than 0"
    );
    assert_eq!(
        error(config().timeout(Duration::ZERO)),
        "server `orders`: `timeout` is 0ns, but it must be more than 0"
    );
    assert_eq!(
        error(config().body_idle(Duration::ZERO)),
        "server `orders`: `body_idle` is 0ns, but it must be more than 0"
    );
    for path in [
        "livez",
        "",
        "/livez?verbose",
        "/a b",
        "/a#b",
        "http://orders/livez",
        "*",
    ] {
        assert_eq!(
            error(config().bypass([path])),
            format!(
                "server `orders`: `bypass` is {path:?}, but it must be a path that begins with `/` and has no query"
            )
        );
    }
}

#[test]
fn it_is_deserialized_with_serde() {
    let config: ServerConfig = serde_json::from_str(
        r#"{"bypass": ["/ping"], "timeout": "5s", "deadline":
            {"trust": "everyone", "headers": ["grpc-timeout", "x-left-ms"], "max": "1m"}}"#,
    )
    .unwrap();
    let own: DeadlineHeader = "x-left-ms".parse().unwrap();
    let deadline = ExtractDeadlineConfig::new()
        .trust(Trust::Everyone)
        .headers([DeadlineHeader::GrpcTimeout, own])
        .max(60 * SECOND);
    let expected = ServerConfig::default()
        .bypass(["/ping"])
        .timeout(5 * SECOND)
        .deadline(deadline);
    assert_eq!(config, expected);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ServerConfig>(&text).unwrap(), config);
    assert!(serde_json::from_str::<ServerConfig>(r#"{"time": "5s"}"#).is_err());
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_are_independent() {
    fn is_shared<S: Clone + Send + Sync + 'static>(_: &S) {}
    let reported = Arc::new(Listener::new("server.twice"));
    let layer = stack("server.twice", config());
    let handler: Handler = Strict::new(|_| fine());
    let (one, other) = (layer.layer(handler.clone()), layer.layer(handler));
    is_shared(&one);
    for service in [one, other] {
        let response = service.oneshot(to("/orders")).await.unwrap();
        assert_eq!(read(response).await.0, 200);
    }
    assert_eq!(reported.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_whole_path_is_compared_wherever_axum_mounts_it() {
    async fn slow() -> &'static str {
        sleep(90 * SECOND).await;
        "slow"
    }
    let stack = || stack("server.mounted", config());
    let routes = || {
        Router::new()
            .route("/livez", get(slow))
            .route("/orders/{id}", get(slow))
    };
    let nested = Router::new().nest("/api", routes().layer(stack()));
    let around = Router::new().nest("/api", routes()).layer(stack());
    let merged = Router::new()
        .route("/bare", get(slow))
        .merge(routes().route_layer(stack()));
    let fallback = Router::new().fallback_service(stack().layer(routes()));
    for (mounted, app, paths) in [
        (
            "nested",
            nested,
            [("/api/livez", 200), ("/api/orders/7", 504)],
        ),
        (
            "around",
            around,
            [("/api/livez", 504), ("/api/orders/7", 504)],
        ),
        ("merged", merged, [("/livez?x", 200), ("/bare", 200)]),
        (
            "fallback",
            fallback,
            [("/livez", 200), ("/orders/livez", 504)],
        ),
    ] {
        for (path, status) in paths {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{mounted}: {path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_cut_short_further_in_by_the_same_deadline_is_no_failure() {
    let reported = Listener::new("server.proxy");
    let upstream = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Body::new(stalls(SECOND))))
    });
    let client = stack("server.upstream", config()).layer(upstream);
    let proxy = service_fn(move |request| {
        let response = client.clone().oneshot(request);
        async { Ok::<_, Infallible>(response.await?.map(Body::new)) }
    });
    let response = stack("server.proxy", config())
        .layer(proxy)
        .oneshot(within("5S"));
    let body = response.await.unwrap().into_body();
    body.collect().await.unwrap_err();
    assert_eq!(reported.take(), [Reported::Finished(None, 5 * SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_the_handler() {
    let reported = Listener::new("server.leaves");
    let handler: Handler = Strict::new(|call| match call {
        0..3 => Step::Hang,
        3 => Step::Panic,
        4 => Step::PanicInCall,
        _ => fine(),
    });
    let mut service =
        stack("server.leaves", config()).layer(ConcurrencyLimit::new(handler.clone(), 1));
    let ready = service.ready().await.unwrap();
    drop(ready.call(within("9S")));
    for time in [Duration::ZERO, SECOND] {
        let call = service.ready().await.unwrap().call(within("9S"));
        timeout(time, call).await.map(drop).unwrap_err();
    }
    assert_eq!(handler.live(), 0);
    let finished = |kind| move |took| Reported::Finished(kind, took);
    let (left, failed) = (finished(None), finished(Some(Kind::Transient)));
    assert_eq!(
        reported.take(),
        [left(Duration::ZERO), left(Duration::ZERO), left(SECOND)]
    );

    let mut call = Box::pin(service.ready().await.unwrap().call(within("9S")));
    assert!(panics(|| poll(call.as_mut())));
    drop(call);
    let ready = timeout(SECOND, service.ready())
        .await
        .expect("a place")
        .unwrap();
    assert!(panics(|| ready.call(within("9S"))));
    assert_eq!(
        reported.take(),
        [failed(Duration::ZERO), failed(Duration::ZERO)]
    );
    assert_eq!(Deadline::current(), None);
    let ready = timeout(SECOND, service.ready())
        .await
        .expect("a place")
        .unwrap();
    assert_eq!(ready.call(to("/orders")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn it_works_behind_a_buffer() {
    let handler: Handler = Strict::new(|_| Step::Hang);
    let service = stack("server.buffer", config()).layer(handler.clone());
    let buffered = Buffer::new(service, 2);
    let started = Instant::now();
    let response = buffered.oneshot(within("2S")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), started.elapsed()),
        (504, 2 * SECOND)
    );
    assert_eq!(handler.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn call_options_of_a_caller_in_the_same_process_do_not_apply() {
    let service = stack("server.options", config()).layer(Strict::new(
        |_| -> Step<Response<Text>, Infallible> { Step::Hang },
    ));
    let hour = 3600 * SECOND;
    let asks = CallOptions::new().timeout(hour);
    let started = Instant::now();
    let response = asks.scope(service.oneshot(to("/orders"))).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(started.elapsed(), 30 * SECOND);
}

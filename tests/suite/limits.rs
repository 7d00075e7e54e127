//! The limits around a call over HTTP: of its connection, of its response's head, of its body.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::routing::post;
use buttress::gate::GateLayer;
use buttress::http::{
    AtBodyEnd, ByStatus, ConnectTimeoutLayer, ErrorOutcome, HeaderTimeoutLayer, Replay,
    error_outcome,
};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::telemetry::Observed;
use buttress::timeout::DeadlineLayer;
use buttress::{
    BoxError, CallError, CallOptions, Deadline, Error, Executed, Kind, Outcome, Reason,
};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{Listener, MS, Reported, SECOND};
use crate::http::{Does, NOT_CONNECTED, server};

// ── the connection ──

type Connection = TokioIo<TcpStream>;

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

/// A connector that hangs.
fn hangs(_: Uri) -> Connecting {
    Box::pin(pending())
}

fn connecting(limit: Duration, name: &str) -> Reason {
    assert_eq!(name, "connects");
    Reason::ConnectTimeout { limit }
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_one_second_and_its_error_names_the_limit() {
    let listener = Listener::new("connects");
    let connector = ConnectTimeoutLayer::new("connects").layer(service_fn(hangs));
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let began = Instant::now();
    let error = client.get(Uri::from_static("http://far.away/")).await;
    assert_eq!(began.elapsed(), SECOND);
    let error = error.unwrap_err();
    assert!(error.is_connect());
    assert_eq!(error.outcome(), NOT_CONNECTED);
    let boxed: BoxError = Box::new(error);
    let rejected = boxed.rejected().unwrap().clone();
    assert_eq!(rejected.reason, connecting(SECOND, &rejected.name));
    assert_eq!(rejected.executed, Executed::No);
    assert_eq!(
        rejected.to_string(),
        "connect timeout `connects`: no connection within 1s"
    );
    assert_eq!(listener.take(), [Reported::Rejected(rejected)]);
}

#[tokio::test(start_paused = true)]
async fn a_connectors_result_in_time_is_passed_on() {
    let layer = ConnectTimeoutLayer::new("in time").limit(3 * SECOND);
    let works = service_fn(async |after: Duration| {
        tokio::time::sleep(after).await;
        if after.is_zero() {
            Err("no route")
        } else {
            Ok("connected")
        }
    });
    let late = layer.layer(works).oneshot(4 * SECOND).await.unwrap_err();
    assert!(late.rejected().is_some());
    let connected = layer.layer(works).oneshot(2 * SECOND).await;
    assert_eq!(connected.unwrap(), "connected");
    let failed = layer.layer(works).oneshot(Duration::ZERO).await;
    assert_eq!(failed.unwrap_err().to_string(), "no route");
    let endless = layer.limit(Duration::MAX).layer(works);
    assert_eq!(endless.oneshot(1000 * SECOND).await.unwrap(), "connected");
}

/// Replaces any connector by one that hangs.
#[derive(Clone)]
struct Never<S>(S);

impl<S: Service<Target>, Target> Service<Target> for Never<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::future::Pending<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, _: Target) -> Self::Future {
        pending()
    }
}

#[tokio::test(start_paused = true)]
async fn tonics_and_reqwests_connections_have_the_limit_too() {
    let layer = ConnectTimeoutLayer::new("connects");
    let channel = tonic::transport::Endpoint::from_static("http://far.away")
        .connect_with_connector_lazy(layer.layer(service_fn(hangs)));
    let request = Request::new(tonic::body::Body::empty());
    let error = channel.oneshot(request).await.unwrap_err();
    assert_eq!(error_outcome(&error), NOT_CONNECTED);

    // Innermost first.
    let never = tower::layer::layer_fn(Never);
    let client = reqwest::Client::builder()
        .connector_layer(never)
        .connector_layer(layer)
        .no_proxy()
        .build()
        .unwrap();
    let began = Instant::now();
    let error = client.get("http://127.0.0.1:9/").send().await.unwrap_err();
    assert_eq!(began.elapsed(), SECOND);
    assert!(error.is_connect());
    assert_eq!(error.outcome(), NOT_CONNECTED);
}

#[tokio::test]
async fn a_post_whose_connection_came_too_late_is_sent_again() {
    // In real time: the first connection hangs for the whole second, the second one is made.
    let served = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&served);
    let app = axum::Router::new().route(
        "/",
        post(async move || counted.fetch_add(1, Ordering::Relaxed).to_string()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    let connector = service_fn(move |uri: Uri| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        if first {
            return hangs(uri);
        }
        let connecting = HttpConnector::new().oneshot(uri);
        Box::pin(async { Ok(connecting.await?) })
    });
    let connector = ConnectTimeoutLayer::new("second try").layer(connector);
    let hyper = Client::builder(TokioExecutor::new()).build(connector);
    let retry = RetryLayer::new("second try", RetryConfig::new(), Replay::new()).unwrap();
    let client = ServiceBuilder::new()
        .layer(retry.classify(ByStatus::new()))
        .map_err(Error::Inner)
        .service(hyper);
    let request = Request::post(format!("http://{address}/"));
    let request = request.body(Full::<Bytes>::from("one of each")).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(served.load(Ordering::Relaxed), 1);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

// ── the head of the response ──

type Upload = Channel<Bytes, &'static str>;
type Failing = Error<&'static str>;

const LIMIT: Duration = Duration::from_secs(3);

/// Takes a body to its end, then responds after this time, or never.
async fn takes_all<B: Body>(
    request: Request<B>,
    responds_after: Option<Duration>,
) -> Result<Response<()>, Failing> {
    // An error ends it, too.
    let _ = request.into_body().collect().await;
    match responds_after {
        Some(after) => tokio::time::sleep(after).await,
        None => pending().await,
    }
    Ok(Response::new(()))
}

/// The result of a call, and its duration.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let result = tokio::time::timeout(100_000 * SECOND, call).await;
    (result.expect("it ends"), began.elapsed())
}

fn is_late<T, E>(result: Result<T, Error<E>>) {
    is_later_than(LIMIT, result);
}

fn is_later_than<T, E>(limit: Duration, result: Result<T, Error<E>>) {
    let Err(Error::Rejected(rejected)) = result else {
        panic!("not rejected")
    };
    assert_eq!(rejected.reason, Reason::HeaderTimeout { limit });
    assert_eq!(rejected.executed, Executed::Maybe);
    assert_eq!(rejected.outcome(), Outcome::TRANSIENT);
}

fn headers() -> HeaderTimeoutLayer {
    HeaderTimeoutLayer::new("uploads", LIMIT)
}

fn upload() -> (
    http_body_util::channel::Sender<Bytes, &'static str>,
    Request<Upload>,
) {
    let (sender, body) = Channel::new(8);
    (sender, Request::new(body))
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_last_byte_of_the_request() {
    for (responds_after, in_time) in [
        (None, false),
        (Some(2 * SECOND), true),
        (Some(4 * SECOND), false),
    ] {
        let inner = service_fn(move |request| takes_all(request, responds_after));
        let (mut sender, request) = upload();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(2 * SECOND).await;
                sender
                    .send_data(Bytes::from_static(b"bytes"))
                    .await
                    .unwrap();
            }
        });
        let (result, took) = timed(headers().layer(inner).oneshot(request)).await;
        if in_time {
            result.unwrap();
            assert_eq!(took, 12 * SECOND);
        } else {
            is_late(result);
            assert_eq!(
                took,
                10 * SECOND + LIMIT,
                "the upload alone took longer than the limit"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_knows_its_end_need_not_be_polled_again() {
    // Takes one frame, as a client does that knows the length.
    async fn inner(request: Request<impl Body + Unpin>) -> Result<Response<()>, Failing> {
        let mut body = request.into_body();
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        tokio::time::sleep(10 * SECOND).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.is_end_stream());
        let response = pending().await;
        drop(body);
        response
    }
    let request = Request::new(Full::<Bytes>::from("bytes"));
    let (result, took) = timed(headers().layer(service_fn(inner)).oneshot(request)).await;
    is_late(result);
    assert_eq!(took, 10 * SECOND + LIMIT);
}

#[tokio::test(start_paused = true)]
async fn trailers_end_a_body() {
    async fn inner(request: Request<impl Body + Unpin>) -> Result<Response<()>, Failing> {
        let mut body = request.into_body();
        let frame = body.frame().await.unwrap().ok().unwrap();
        assert_eq!(frame.into_trailers().ok().unwrap()["x-sum"], "7");
        let response = pending().await;
        drop(body);
        response
    }
    let (mut sender, request) = upload();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    sender.send(Frame::trailers(trailers)).await.unwrap();
    let (result, took) = timed(headers().layer(service_fn(inner)).oneshot(request)).await;
    is_late(result);
    assert_eq!(took, LIMIT);
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_or_is_dropped_early_has_ended() {
    async fn drops(request: Request<impl Body>) -> Result<Response<()>, Failing> {
        tokio::time::sleep(SECOND).await;
        drop(request);
        pending().await
    }
    let inner = service_fn(|request| takes_all(request, None));
    let (sender, request) = upload();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        sender.abort("the disk is broken");
    });
    let (result, took) = timed(headers().layer(inner).oneshot(request)).await;
    is_late(result);
    assert_eq!(took, SECOND + LIMIT);

    let (sender, request) = upload();
    let (result, took) = timed(headers().layer(service_fn(drops)).oneshot(request)).await;
    is_late(result);
    assert_eq!(took, SECOND + LIMIT);
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn an_endless_upload_is_not_limited() {
    async fn early(_: Request<impl Body>) -> Result<Response<()>, Failing> {
        Ok(Response::new(()))
    }
    let inner = service_fn(|request| takes_all(request, None));
    let (sender, request) = upload();
    let call = headers().layer(inner).oneshot(request);
    let waited = tokio::time::timeout(1000 * SECOND, call).await;
    assert!(waited.is_err());
    drop(sender);
    // An early response is a response.
    let (_sender, request) = upload();
    headers()
        .layer(service_fn(early))
        .oneshot(request)
        .await
        .unwrap();
}

#[tokio::test]
async fn hyper_lets_the_body_end() {
    let uri = format!("http://{}/", server(Does::Hang).await);
    let hyper = Client::builder(TokioExecutor::new()).build_http();
    for http_body in [Full::<Bytes>::default(), Full::from("bytes")] {
        let client = ServiceBuilder::new()
            .layer(HeaderTimeoutLayer::new("hangs", 50 * MS))
            .map_err(Error::Inner)
            .service(hyper.clone());
        let request = Request::post(&uri).body(http_body).unwrap();
        is_later_than(50 * MS, client.oneshot(request).await);
    }
}

#[tokio::test]
async fn reqwests_uploads_are_limited_too_and_have_the_same_length() {
    let app = axum::Router::new().route(
        "/",
        post(async |headers: http::HeaderMap, body: String| {
            format!("{} {body}", headers["content-length"].to_str().unwrap())
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = |limit| {
        ServiceBuilder::new()
            .layer(HeaderTimeoutLayer::new("reqwest", limit))
            .map_err(Error::Inner)
            .service(reqwest::Client::new())
    };
    let upload = |uri: String| {
        let mut request = reqwest::Request::new(http::Method::POST, uri.parse().unwrap());
        *request.body_mut() = Some("bytes".into());
        request
    };
    let response = client(Duration::MAX)
        .oneshot(upload(format!("http://{address}/")))
        .await;
    assert_eq!(response.unwrap().text().await.unwrap(), "5 bytes");
    let hanging = upload(format!("http://{}/", server(Does::Hang).await));
    is_later_than(50 * MS, client(50 * MS).oneshot(hanging).await);
}

// ── the body of the response ──

/// Limits the time between the frames of a body, with no breaker or anything else to settle: the limits stand alone.
fn until_body_end(name: &'static str, idle: Duration) -> GateLayer<Observed, ByStatus, AtBodyEnd> {
    GateLayer::new(Observed::new(name), ByStatus::new()).finish(AtBodyEnd::new(name, idle))
}

/// Reads a body of ten bytes, one each `each`. Returns the rejection, if there is one, and the duration.
async fn read(idle: Duration, total: Duration, each: Duration) -> (Option<Reason>, Duration) {
    let service = service_fn(move |()| {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(each).await;
                if sender.send_data(Bytes::from_static(b"b")).await.is_err() {
                    return;
                }
            }
        });
        ready(Ok::<_, Error<Infallible>>(Response::new(body)))
    });
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new("bodies", total))
        .layer(until_body_end("bodies", idle))
        .service(service);
    timed(async {
        let response = service.oneshot(()).await.unwrap();
        match response.into_body().collect().await {
            Ok(all) => {
                assert_eq!(all.to_bytes().len(), 10);
                None
            }
            Err(Error::Rejected(rejected)) => Some(rejected.reason),
            Err(Error::Inner(never)) => match never {},
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn the_limit_between_frames_counts_from_the_last_one() {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = service_fn(move |()| {
        let body = body.lock().unwrap().take().unwrap();
        ready(Ok::<_, Error<Infallible>>(Response::new(body)))
    });
    let layer = until_body_end("last", 2 * SECOND);
    let mut body = Box::pin(layer.layer(service).oneshot(()).await.unwrap().into_body());
    let sends = async {
        tokio::time::sleep(3 * SECOND / 2).await;
        sender.send_data(Bytes::from_static(b"b")).await.unwrap();
    };
    let (frame, took) = timed(async { tokio::join!(body.frame(), sends).0 }).await;
    assert!(frame.unwrap().is_ok());
    assert_eq!(took, 3 * SECOND / 2);
    let (stalled, took) = timed(body.frame()).await;
    assert!(stalled.unwrap().is_err());
    assert_eq!(took, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_a_limit_between_its_frames_and_one_in_total() {
    let listener = Listener::new("bodies");
    let finished = || {
        let reported = listener.take().into_iter();
        let ends = reported.filter_map(|reported| match reported {
            Reported::Finished(kind, took) => Some((kind, took)),
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    let whole = read(2 * SECOND, 60 * SECOND, SECOND).await;
    assert_eq!(whole, (None, 10 * SECOND));
    assert_eq!(finished(), [(Some(Kind::Success), 10 * SECOND)]);
    let stalled = read(2 * SECOND, 60 * SECOND, 3 * SECOND).await;
    let idle = Reason::BodyIdle { limit: 2 * SECOND };
    assert_eq!(stalled, (Some(idle), 2 * SECOND));
    assert_eq!(finished(), [(Some(Kind::Transient), 2 * SECOND)]);
    let slow = read(4 * SECOND, 15 * SECOND, 3 * SECOND).await;
    assert_eq!(slow, (Some(Reason::Deadline), 15 * SECOND));
    assert_eq!(finished(), [(None, 15 * SECOND)], "not the service's fault");
    let endless = read(Duration::MAX, Duration::MAX, 1000 * SECOND).await;
    assert_eq!(endless, (None, 10_000 * SECOND));
}

/// Always has another frame, which reports whether it was polled in the scope of a deadline.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let inside = Deadline::current().is_some().to_string();
        Poll::Ready(Some(Ok(Frame::data(inside.into()))))
    }
}

/// A call whose body is read with `streams` or without.
async fn endless(
    total: Duration,
    streams: bool,
) -> Pin<Box<impl Body<Data = Bytes, Error = Error<Infallible>>>> {
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new("endless", total))
        .layer(until_body_end("endless", Duration::MAX))
        .service_fn(async |()| Ok::<_, Error<Infallible>>(Response::new(Endless)));
    let call = CallOptions::new()
        .streams(streams)
        .scope(service.oneshot(()));
    Box::pin(call.await.unwrap().into_body())
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_ends_with_the_deadline_and_is_polled_in_its_scope() {
    let listener = Listener::new("endless");
    let mut body = endless(5 * SECOND, false).await;
    for _ in 0..5 {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "true");
        assert!(
            Deadline::current().is_none(),
            "it is the body's, not its reader's"
        );
        tokio::time::sleep(SECOND).await;
    }
    let Some(Err(Error::Rejected(rejected))) = body.frame().await else {
        panic!("more, after the deadline")
    };
    assert_eq!(rejected.reason, Reason::Deadline);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    let finished = Reported::Finished(None, 5 * SECOND);
    assert_eq!(listener.take(), [Reported::Rejected(rejected), finished]);

    let mut body = endless(5 * SECOND, true).await;
    tokio::time::sleep(9 * SECOND).await;
    body.frame().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_received_in_time_may_be_read_late() {
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new("late", SECOND))
        .layer(until_body_end("late", SECOND))
        .service_fn(async |()| {
            Ok::<_, Error<Infallible>>(Response::new(Full::<Bytes>::from("whole")))
        });
    let body = service.oneshot(()).await.unwrap().into_body();
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
}

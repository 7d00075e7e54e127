//! Failures on the client's side: of the request's body, of a message that is too large, of a runtime that shuts down.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use buttress::Error;
use buttress::http::{ErrorOutcome, client, grpc, handle_grpc_rejections};
use bytes::Bytes;
use http::Uri;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tower::{Layer, Service, ServiceExt};

use super::{Attempts, Saw, config, server};
use crate::text::Text;

/// A body that fails halfway, as do its clones.
#[derive(Clone, Copy, Default)]
struct Fails {
    sent: bool,
}

impl Body for Fails {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.sent {
            // Like the response of another call whose connection is reset.
            let error = io::Error::from(io::ErrorKind::ConnectionReset);
            return Poll::Ready(Some(Err(error)));
        }
        self.sent = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half")))))
    }
}

fn hyper<B>(http2: bool) -> Client<HttpConnector, B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

/// Ten requests with a body that fails.
async fn ten_fail<S, Req, Res, E>(stack: S, request: impl Fn() -> Req)
where
    S: Service<Req, Response = Res, Error = Error<E>> + Clone,
    E: ErrorOutcome,
{
    for _ in 0..10 {
        match stack.clone().oneshot(request()).await {
            Err(Error::Inner(error)) => assert_eq!(error.error_type(), "invalid_request"),
            Err(Error::Rejected(rejected)) => panic!("{rejected}"),
            Ok(_) => panic!("a response"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_request_body_is_neutral() {
    for http2 in [false, true] {
        let server = server(http2, 0).await;
        let (layer, attempts) = (client("own body", config()).unwrap(), Attempts::default());
        let stack = layer.layer(attempts.of(hyper(http2)));
        ten_fail(stack, || server.request("PUT", Fails::default())).await;
        assert_eq!(attempts.saw(&layer), Saw::nothing_in(10), "http2: {http2}");

        let layer = client("own body", config())
            .unwrap()
            .map_request_body(std::convert::identity);
        let attempts = Attempts::default();
        let stack = layer.layer(attempts.of(hyper(http2)));
        let buffered = || server.request("PUT", Fails::default().boxed_unsync());
        ten_fail(stack, buffered).await;
        assert_eq!(attempts.saw(&layer), Saw::nothing_in(10), "http2: {http2}");

        let reqwest = reqwest::Client::builder().retry(reqwest::retry::never());
        let reqwest = if http2 {
            reqwest.http2_prior_knowledge()
        } else {
            reqwest
        };
        let reqwest = reqwest.no_proxy().build().unwrap();
        let (layer, attempts) = (client("own body", config()).unwrap(), Attempts::default());
        let stack = layer.layer(attempts.of(reqwest));
        let wrapped = || -> reqwest::Request {
            let body = reqwest::Body::wrap(Fails::default());
            server.request("PUT", body).try_into().unwrap()
        };
        ten_fail(stack, wrapped).await;
        assert_eq!(attempts.saw(&layer), Saw::nothing_in(10), "http2: {http2}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_our_own_encode_limit_is_neutral() {
    let server = server(true, 0).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
    let layer = grpc("encode limit", config())
        .unwrap()
        .idempotent(["/test.Greeter/Say"])
        .unwrap()
        .map_request_body(tonic::body::Body::new);
    let attempts = Attempts::default();
    let channel = attempts.of(endpoint.unwrap().connect_lazy());
    let stack = handle_grpc_rejections(layer.clone()).layer(channel);
    for _ in 0..10 {
        let mut greeter = tonic::client::Grpc::new(stack.clone()).max_encoding_message_size(4);
        greeter.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.Greeter/Say");
        let text = tonic::Request::new("too long".to_owned());
        greeter.unary(text, path, Text).await.unwrap_err();
    }
    assert_eq!(attempts.saw(&layer), Saw::nothing_in(10));
}

#[tokio::test]
async fn a_request_that_the_client_cannot_send_is_neutral() {
    let (layer, attempts) = (client("uri", config()).unwrap(), Attempts::default());
    let stack = layer.layer(attempts.of(hyper(false)));
    for _ in 0..10 {
        let request = http::Request::get("/no-host");
        let request = request.body(Full::new(Bytes::new())).unwrap();
        stack.clone().oneshot(request).await.unwrap_err();
    }
    assert_eq!(attempts.saw(&layer), Saw::nothing_in(10));
}

// ── a runtime that shuts down ──

/// The runtime that makes and drives connections, which may change.
#[derive(Clone)]
struct On(Arc<Mutex<Handle>>);

impl On {
    fn now(&self) -> Handle {
        self.0.lock().unwrap().clone()
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for On {
    fn execute(&self, future: F) {
        self.now().spawn(future);
    }
}

impl Service<Uri> for On {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let handle = self.now();
        Box::pin(async move {
            let address = uri.authority().unwrap().to_string();
            let connecting = handle.spawn(TcpStream::connect(address));
            Ok(TokioIo::new(connecting.await.map_err(io::Error::other)??))
        })
    }
}

/// The part that runs in the runtime that shuts down.
#[derive(Clone, Copy, Debug)]
enum Loses {
    /// The task that drives the connection.
    Task,
    /// The driver that watches its socket.
    Socket,
}

/// The result of a request during which a runtime shuts down, with the `error.type` of its attempt.
async fn shut_down(http2: bool, loses: Loses, method: &str) -> (Result<(), &'static str>, Saw) {
    let server = server(http2, 1).await;
    let dying: Runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let on = |handle: &Handle| On(Arc::new(Mutex::new(handle.clone())));
    let here = Handle::current();
    let (task, socket) = match loses {
        Loses::Task => (on(dying.handle()), on(&here)),
        Loses::Socket => (on(&here), on(dying.handle())),
    };
    let hyper = Client::builder(task.clone())
        .http2_only(http2)
        .build::<_, Full<Bytes>>(socket.clone());
    let (layer, attempts) = (client("shutdown", config()).unwrap(), Attempts::default());
    let stack = layer.layer(attempts.of(hyper));
    let request = server.request(method, Full::new(Bytes::from("one of each")));
    let call = tokio::spawn(stack.oneshot(request));
    server.holding.notified().await;
    for on in [task, socket] {
        on.0.lock().unwrap().clone_from(&here);
    }
    dying.shutdown_background();
    let result = match call.await.unwrap() {
        Ok(response) => {
            response.into_body().collect().await.unwrap();
            Ok(())
        }
        Err(Error::Inner(error)) => Err(error.error_type()),
        Err(Error::Rejected(rejected)) => panic!("{rejected}"),
    };
    (result, attempts.saw(&layer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_shuts_down_is_neutral_and_a_safe_request_is_retried() {
    for http2 in [false, true] {
        for loses in [Loses::Task, Loses::Socket] {
            let repeated = Saw {
                attempts: 2,
                counted: 1,
                failed: 0,
                budget: 20 - 10 + 2,
            };
            let row = shut_down(http2, loses, "GET").await;
            assert_eq!(row, (Ok(()), repeated), "GET, http2: {http2}, {loses:?}");
            let alone = (Err("runtime_shutdown"), Saw::nothing_in(1));
            let row = shut_down(http2, loses, "POST").await;
            assert_eq!(row, alone, "POST, http2: {http2}, {loses:?}");
        }
    }
}

/// Makes its first connection in this runtime, all others in the caller's.
#[derive(Clone)]
struct FirstOn(Arc<Mutex<Option<Handle>>>);

impl Service<Uri> for FirstOn {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = <On as Service<Uri>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let handle = self.0.lock().unwrap().take();
        let handle = handle.unwrap_or_else(Handle::current);
        On(Arc::new(Mutex::new(handle))).call(uri)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_cancelled_by_a_runtime_shutdown_is_neutral() {
    let server = server(false, 0).await;
    let dying = Builder::new_current_thread().build().unwrap();
    let connector = FirstOn(Arc::new(Mutex::new(Some(dying.handle().clone()))));
    dying.shutdown_background();
    let hyper = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let (layer, attempts) = (client("connects", config()).unwrap(), Attempts::default());
    let stack = layer.layer(attempts.of(hyper));
    let request = server.request("POST", Full::new(Bytes::from("one of each")));
    let response = stack.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let free = Saw {
        attempts: 2,
        counted: 1,
        failed: 0,
        budget: 20 + 2,
    };
    assert_eq!(attempts.saw(&layer), free);
}

/// A body that panics when it is read.
#[derive(Clone, Copy)]
struct Panics;

impl Body for Panics {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        panic!("scripted panic: a body");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_body_panics_is_not_retried() {
    let server = server(false, 0).await;
    let (layer, attempts) = (client("panics", config()).unwrap(), Attempts::default());
    let stack = layer.layer(attempts.of(hyper(false)));
    let error = match stack.oneshot(server.request("PUT", Panics)).await {
        Err(Error::Inner(error)) => error,
        other => panic!("not hyper's error: {other:?}"),
    };
    assert_eq!(error.error_type(), "invalid_request");
    assert_eq!(attempts.saw(&layer), Saw::nothing_in(1));
}

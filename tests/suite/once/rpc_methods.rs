//! gRPC end to end: tonic's own server and client on loopback, with one guarded method among others, in real time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::tonic::body::Body;
use ::tonic::client::Grpc;
use ::tonic::server::NamedService;
use ::tonic::transport::server::TcpIncoming;
use ::tonic::transport::{Channel, Endpoint, Server};
use ::tonic::{Code, Request, Response, Status, Streaming};
use buttress::BoxError;
use buttress::http::{ClientConfig, answer_grpc, grpc};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tower::util::MapRequestLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::text::Text;

const PAY: &str = "/shop.Payments/Pay";
const LOOK: &str = "/shop.Payments/Look";
const LIST: &str = "/shop.Payments/List";
const UPLOAD: &str = "/shop.Payments/Upload";
const CHAT: &str = "/shop.Payments/Chat";

const KEY: &str = "\"0123456789abcdef\"";

/// A stream of what is sent to it.
struct Received<T>(mpsc::UnboundedReceiver<T>);

impl<T> Stream for Received<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// The service that `tonic-prost-build` would generate, and its handlers.
#[derive(Clone, Default)]
struct Payments {
    runs: Arc<AtomicUsize>,
    looks: Arc<AtomicUsize>,
    /// The handler of a stream has received the first message.
    begun: Arc<Notify>,
    /// The handler of a stream may go on.
    go_on: Arc<Notify>,
}

impl NamedService for Payments {
    const NAME: &'static str = "shop.Payments";
}

impl<B> Service<http::Request<B>> for Payments
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let is_guarded = Operation::take(request.extensions()).unwrap().is_some();
            let path = request.uri().path().to_owned();
            assert_eq!(is_guarded, path == PAY, "{path}");
            let mut server = ::tonic::server::Grpc::new(Text);
            Ok(match &*path {
                PAY => {
                    let pay = service_fn(move |request: Request<String>| {
                        let result = this.pay(request);
                        async { result }
                    });
                    server.unary(pay, request).await.map(with_trailer)
                }
                LOOK => {
                    let look = service_fn(move |_: Request<String>| {
                        let look = this.looks.fetch_add(1, Ordering::SeqCst) + 1;
                        async move { Ok(Response::new(format!("look {look}"))) }
                    });
                    server.unary(look, request).await
                }
                LIST => {
                    let list = service_fn(move |_: Request<String>| {
                        let stream = this.clone().list();
                        async move { Ok(Response::new(stream)) }
                    });
                    server.server_streaming(list, request).await
                }
                UPLOAD => {
                    let upload = service_fn(move |request: Request<Streaming<String>>| {
                        this.clone().upload(request.into_inner())
                    });
                    server.client_streaming(upload, request).await
                }
                CHAT => {
                    let chat = service_fn(|request: Request<Streaming<String>>| async {
                        Ok(Response::new(echo(request.into_inner())))
                    });
                    server.streaming(chat, request).await
                }
                _ => panic!("{path}"),
            })
        })
    }
}

impl Payments {
    /// A number is the code of a failure.
    fn pay(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let text = request.into_inner();
        if let Ok(code) = text.parse::<i32>() {
            return Err(Status::new(Code::from_i32(code), format!("run {run}")));
        }
        let mut response = Response::new(format!("run {run} of {text}"));
        let metadata = response.metadata_mut();
        metadata.insert("x-metadata", "stored".parse().unwrap());
        Ok(response)
    }

    /// The second message follows when the client has received the first.
    fn list(self) -> Received<Result<String, Status>> {
        let (send, receive) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let _ = send.send(Ok("first".to_owned()));
            self.go_on.notified().await;
            let _ = send.send(Ok("second".to_owned()));
        });
        Received(receive)
    }

    async fn upload(self, mut messages: Streaming<String>) -> Result<Response<String>, Status> {
        let mut received = Vec::new();
        while let Some(message) = messages.message().await? {
            received.push(message);
            self.begun.notify_one();
        }
        Ok(Response::new(received.join(" ")))
    }
}

/// Each message as it comes.
fn echo(mut messages: Streaming<String>) -> Received<Result<String, Status>> {
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(message)) = messages.message().await {
            let _ = send.send(Ok(format!("echo of {message}")));
        }
    });
    Received(receive)
}

fn with_trailer(body: Body) -> Body {
    Body::new(body.map_frame(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            trailers.insert("x-trailer", HeaderValue::from_static("stored"));
        }
        frame
    }))
}

/// tonic's server with the layer in front of all its services.
async fn serve(store: MemoryStore, payments: Payments) -> Channel {
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("shop", store, Scope::Global, config).unwrap();
    let layer = layer.guard(|request| request.uri.path() == PAY);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(answer_grpc(layer))
        .add_service(payments);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_lazy()
}

async fn served() -> (Channel, Payments) {
    let payments = Payments::default();
    let channel = serve(MemoryStore::new(), payments.clone()).await;
    (channel, payments)
}

async fn client(channel: &Channel) -> Grpc<Channel> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    client
}

fn request<T>(message: T, key: Option<&'static str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        let metadata = request.metadata_mut();
        metadata.insert("idempotency-key", key.parse().unwrap());
    }
    request
}

async fn unary(
    channel: &Channel,
    path: &'static str,
    key: Option<&'static str>,
    message: &str,
) -> Result<String, Status> {
    let request = request(message.to_owned(), key);
    let path = PathAndQuery::from_static(path);
    let response = client(channel).await.unary(request, path, Text).await;
    response.map(Response::into_inner)
}

/// A call as it is on the wire: the response's headers, body and trailers.
async fn raw(channel: &Channel, message: &str) -> (HeaderMap, Bytes, Option<HeaderMap>) {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.put_slice(message.as_bytes());
    let request = http::Request::post(PAY)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("idempotency-key", KEY)
        .body(Body::new(Full::new(body.freeze())))
        .unwrap();
    let response = channel.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (head.headers, body.to_bytes(), trailers)
}

/// Fails a call that would otherwise hang.
async fn soon<F: Future>(future: F) -> F::Output {
    let Ok(output) = timeout(Duration::from_secs(20), future).await else {
        panic!("it waits for the end of a stream");
    };
    output
}

#[tokio::test]
async fn a_guarded_method_is_executed_once_and_replayed_with_message_and_trailers() {
    let (channel, payments) = served().await;
    let (mut headers, body, trailers) = raw(&channel, "ten").await;
    assert_eq!(headers["x-metadata"], "stored");
    assert_eq!(&body[5..], b"run 1 of ten");
    let sent = trailers.as_ref().unwrap();
    assert_eq!(
        (&sent["grpc-status"], &sent["x-trailer"]),
        (&"0".parse().unwrap(), &"stored".parse().unwrap())
    );
    headers.remove("date");
    for _ in 0..2 {
        let mut replay = raw(&channel, "ten").await;
        assert_eq!(replay.0.remove("idempotent-replayed").unwrap(), "true");
        replay.0.remove("date");
        assert_eq!(replay, (headers.clone(), body.clone(), trailers.clone()));
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn duplicates_at_once_are_executed_once() {
    let (channel, payments) = served().await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { unary(&channel, PAY, Some(KEY), "ten").await })
        })
        .collect();
    for call in calls {
        match call.await.unwrap() {
            Ok(text) => assert_eq!(text, "run 1 of ten"),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_problem_with_a_key_is_a_status() {
    let (channel, payments) = served().await;
    assert!(unary(&channel, PAY, Some(KEY), "ten").await.is_ok());
    for (key, message) in [
        (None, "ten"),
        (Some("\"short\""), "ten"),
        (Some("0123456789abcdef"), "ten"),
        // Another request with a used key.
        (Some(KEY), "eleven"),
    ] {
        let status = unary(&channel, PAY, key, message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key:?}: {status:?}");
        let names_the_layer = status.message().contains("idempotency `shop`");
        assert!(names_the_layer, "{status:?}");
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn another_unary_method_is_executed_as_often_as_it_is_called() {
    let (channel, _) = served().await;
    for (look, key) in [
        (1, None),
        (2, Some(KEY)),
        (3, Some(KEY)),
        (4, Some("short")),
    ] {
        let text = unary(&channel, LOOK, key, "").await.unwrap();
        assert_eq!(text, format!("look {look}"));
    }
}

#[tokio::test]
async fn a_server_stream_is_not_held_back() {
    let (channel, payments) = served().await;
    for key in [None, Some(KEY), Some(KEY)] {
        let path = PathAndQuery::from_static(LIST);
        let request = request(String::new(), key);
        let mut client = client(&channel).await;
        let response = soon(client.server_streaming(request, path, Text));
        let mut messages = response.await.unwrap().into_inner();
        // The server has not sent the second one yet.
        let first = soon(messages.message()).await.unwrap();
        assert_eq!(first.as_deref(), Some("first"));
        payments.go_on.notify_one();
        let second = soon(messages.message()).await.unwrap();
        assert_eq!(second.as_deref(), Some("second"));
        assert_eq!(soon(messages.message()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_client_stream_reaches_the_handler_before_it_has_ended() {
    let (channel, payments) = served().await;
    for key in [None, Some(KEY), Some(KEY)] {
        let (send, receive) = mpsc::unbounded_channel();
        let path = PathAndQuery::from_static(UPLOAD);
        let request = request(Received(receive), key);
        let mut client = client(&channel).await;
        let call = tokio::spawn(async move { client.client_streaming(request, path, Text).await });
        send.send("one".to_owned()).unwrap();
        soon(payments.begun.notified()).await;
        send.send("two".to_owned()).unwrap();
        soon(payments.begun.notified()).await;
        drop(send);
        let response = soon(call).await.unwrap().unwrap();
        assert_eq!(response.into_inner(), "one two");
    }
}

#[tokio::test]
async fn a_bidirectional_call_exchanges_messages_before_its_request_has_ended() {
    let (channel, _) = served().await;
    for key in [None, Some(KEY), Some(KEY)] {
        let (send, receive) = mpsc::unbounded_channel();
        let path = PathAndQuery::from_static(CHAT);
        let request = request(Received(receive), key);
        let mut client = client(&channel).await;
        let response = soon(client.streaming(request, path, Text)).await.unwrap();
        let mut messages = response.into_inner();
        for message in ["one", "two"] {
            send.send(message.to_owned()).unwrap();
            let echo = soon(messages.message()).await.unwrap();
            assert_eq!(echo, Some(format!("echo of {message}")));
        }
        drop(send);
        assert_eq!(soon(messages.message()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_retry_at_another_instance_is_answered_from_the_record() {
    let (store, payments) = (MemoryStore::new(), Payments::default());
    let one = serve(store.clone(), payments.clone()).await;
    let other = serve(store, payments.clone()).await;
    for instance in [one, other] {
        // Each has an `:authority` of its own.
        let text = unary(&instance, PAY, Some(KEY), "ten").await.unwrap();
        assert_eq!(text, "run 1 of ten");
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_standard_client_takes_a_stored_failure_as_final() {
    let (channel, payments) = served().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let count = MapRequestLayer::new(move |request: http::Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        request
    });
    let layers = grpc("rpc.replayed", ClientConfig::default().breaker(None)).unwrap();
    let layers = layers
        .idempotent([PAY])
        .unwrap()
        .map_request_body(Body::new);
    let mut client = Grpc::new(answer_grpc(layers).layer(count.layer(channel)));
    client.ready().await.unwrap();
    let unavailable = request("14".to_owned(), Some(KEY));
    let path = PathAndQuery::from_static(PAY);
    let result: Result<Response<String>, Status> = client.unary(unavailable, path, Text).await;
    let status = result.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "run 1")
    );
    // The retry of the failure gets the stored one, which is not retried again.
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

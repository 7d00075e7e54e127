//! gRPC end to end: tonic's server and client on loopback, with one guarded method among others, in real time.

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
use buttress::http::{ClientConfig, grpc, handle_grpc_rejections};
use buttress::idempotency::store::{MemoryStore, Store};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope, StoragePolicy};
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

use super::shop::{Fate, Scripted};
use crate::text::Text;

const PAY: &str = "/shop.Payments/Pay";
const CHAT: &str = "/shop.Payments/Chat";

const KEY: &str = "\"0123456789abcdef\"";

/// A stream of the messages that are sent to it.
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
    /// A handler waits.
    begun: Arc<Notify>,
    /// The handler may continue.
    resume: Arc<Notify>,
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
                    let pay = service_fn(move |request: Request<String>| this.clone().pay(request));
                    server.unary(pay, request).await.map(with_trailer)
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
    async fn pay(self, request: Request<String>) -> Result<Response<String>, Status> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let operation = Operation::take(request.extensions()).unwrap();
        let text = request.into_inner();
        match &*text {
            "waits" => {
                self.begun.notify_one();
                self.resume.notified().await;
            }
            "panics" => panic!("scripted panic"),
            "did not happen" => operation.expect("it is guarded").did_not_happen(),
            _ => {}
        }
        if let Ok(code) = text.parse::<i32>() {
            return Err(Status::new(Code::from_i32(code), format!("run {run}")));
        }
        let mut response = Response::new(format!("run {run} of {text}"));
        let metadata = response.metadata_mut();
        metadata.insert("x-metadata", "stored".parse().unwrap());
        Ok(response)
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
async fn served_with(store: impl Store, config: IdempotencyConfig) -> (Channel, Payments) {
    let payments = Payments::default();
    let layer = IdempotencyLayer::new("shop", store, Scope::Global, config).unwrap();
    let layer = layer.guard(|request| request.uri.path() == PAY);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(handle_grpc_rejections(layer))
        .add_service(payments.clone());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect_lazy(), payments)
}

async fn served() -> (Channel, Payments) {
    served_with(MemoryStore::new(), IdempotencyConfig::default()).await
}

async fn client(channel: &Channel) -> Grpc<Channel> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    client
}

fn request<T>(message: T, key: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        let metadata = request.metadata_mut();
        metadata.insert("idempotency-key", key.parse().unwrap());
    }
    request
}

async fn unary(channel: &Channel, key: Option<&str>, message: &str) -> Result<String, Status> {
    let request = request(message.to_owned(), key);
    let path = PathAndQuery::from_static(PAY);
    let response = client(channel).await.unary(request, path, Text).await;
    response.map(Response::into_inner)
}

/// Sends a call without tonic's decoding: the response's headers, body and trailers.
async fn on_the_wire(channel: &Channel, message: &str) -> (HeaderMap, Bytes, Option<HeaderMap>) {
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
    let (mut headers, body, trailers) = on_the_wire(&channel, "ten").await;
    assert_eq!(headers["x-metadata"], "stored");
    assert_eq!(&body[5..], b"run 1 of ten");
    let sent = trailers.as_ref().unwrap();
    assert_eq!(
        (&sent["grpc-status"], &sent["x-trailer"]),
        (&"0".parse().unwrap(), &"stored".parse().unwrap())
    );
    headers.remove("date");
    for _ in 0..2 {
        let mut replay = on_the_wire(&channel, "ten").await;
        assert_eq!(replay.0.remove("idempotent-replayed").unwrap(), "true");
        replay.0.remove("date");
        assert_eq!(replay, (headers.clone(), body.clone(), trailers.clone()));
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_problem_with_a_key_is_a_status() {
    let (channel, payments) = served().await;
    assert!(unary(&channel, Some(KEY), "ten").await.is_ok());
    for (key, message) in [
        (None, "ten"),
        (Some("\"short\""), "ten"),
        (Some("0123456789abcdef"), "ten"),
        // Another request with a used key.
        (Some(KEY), "eleven"),
    ] {
        let status = unary(&channel, key, message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key:?}: {status:?}");
        let names_the_layer = status.message().contains("idempotency `shop`");
        assert!(names_the_layer, "{status:?}");
    }
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

/// The status has this code, and a time after which to retry.
fn assert_retry_after(status: &Status, code: Code) {
    assert_eq!(status.code(), code);
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(pushback.unwrap(), "1000");
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable() {
    let down = Scripted::new(|_, _| Fate::Down);
    let (channel, payments) = served_with(down, IdempotencyConfig::default()).await;
    let status = unary(&channel, Some(KEY), "ten").await.unwrap_err();
    assert_retry_after(&status, Code::Unavailable);
    assert_eq!(payments.runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_second_call_is_aborted_while_the_first_runs() {
    for leaves in [false, true] {
        let (channel, payments) = served().await;
        let caller = channel.clone();
        let first = tokio::spawn(async move { unary(&caller, Some(KEY), "waits").await });
        payments.begun.notified().await;
        if leaves {
            first.abort();
        }
        let status = unary(&channel, Some(KEY), "waits").await.unwrap_err();
        assert_retry_after(&status, Code::Aborted);
        payments.resume.notify_one();
        match first.await {
            Ok(first) => assert_eq!(first.unwrap(), "run 1 of waits"),
            Err(error) => assert!(leaves && error.is_cancelled()),
        }
        // The record follows soon.
        let again = loop {
            match unary(&channel, Some(KEY), "waits").await {
                Ok(again) => break again,
                Err(status) => assert_eq!(status.code(), Code::Aborted),
            }
        };
        assert_eq!(again, "run 1 of waits");
        assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn stored_codes_follow_the_policy() {
    // For each policy, the codes that are not stored.
    for (policy, not_stored) in [
        (StoragePolicy::Definitive, &[8, 10][..]),
        (StoragePolicy::DeleteOnError, &[2, 8, 10, 13, 14, 15]),
        (
            StoragePolicy::SuccessOnly,
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        ),
    ] {
        let config = IdempotencyConfig::default().storage(policy);
        let (channel, payments) = served_with(MemoryStore::new(), config).await;
        for code in 1..=16 {
            let key = format!("\"key-of-the-code-{code}\"");
            let before = payments.runs.load(Ordering::SeqCst);
            let pay = async || {
                let result = unary(&channel, Some(&key), &code.to_string()).await;
                result.unwrap_err()
            };
            let (first, again) = (pay().await, pay().await);
            assert_eq!(first.code(), Code::from_i32(code));
            assert_eq!(again.code(), first.code(), "{policy:?}");
            let runs = payments.runs.load(Ordering::SeqCst) - before;
            assert_eq!(
                runs,
                1 + usize::from(not_stored.contains(&code)),
                "{policy:?} {code}"
            );
            if runs == 1 {
                assert_eq!(again.message(), first.message());
            }
        }
    }
}

#[tokio::test]
async fn a_second_call_without_a_stored_response_depends_on_the_end_of_the_first() {
    let config = IdempotencyConfig::default()
        .max_response_body(3)
        .storage(StoragePolicy::SuccessOnly);
    for (config, text, first, second, runs) in [
        // Too large to be stored; counts as a success, because its code is not known yet.
        (
            config.clone(),
            "ten",
            None,
            Some(Code::FailedPrecondition),
            1,
        ),
        (
            IdempotencyConfig::default(),
            "panics",
            Some(Code::Internal),
            Some(Code::Internal),
            1,
        ),
        (
            IdempotencyConfig::default(),
            "did not happen",
            None,
            None,
            2,
        ),
    ] {
        let (channel, payments) = served_with(MemoryStore::new(), config).await;
        for code in [first, second] {
            let result = unary(&channel, Some(KEY), text).await;
            assert_eq!(result.err().map(|status| status.code()), code, "{text}");
        }
        assert_eq!(payments.runs.load(Ordering::SeqCst), runs, "{text}");
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
    let mut client = Grpc::new(handle_grpc_rejections(layers).layer(count.layer(channel)));
    client.ready().await.unwrap();
    let unavailable = request("14".to_owned(), Some(KEY));
    let path = PathAndQuery::from_static(PAY);
    let result: Result<Response<String>, Status> = client.unary(unavailable, path, Text).await;
    let status = result.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "run 1")
    );
    // The retry gets the stored failure, which is not retried.
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(payments.runs.load(Ordering::SeqCst), 1);
}

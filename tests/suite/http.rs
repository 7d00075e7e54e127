//! Real clients against real servers on loopback: the outcome of each failure. And rejections in axum.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use buttress::clock::Now;
use buttress::gate::{GateLayer, Permit, Policy};
use buttress::http::{ByStatus, ErrorOutcome, handle_rejections};
use buttress::{
    BoxError, CallError, Classify, Error, Executed, Outcome, Reason, Rejected, RetryAdvice,
    Unprocessed,
};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Service, ServiceExt};

/// Not executed, and a failure of the service.
pub(crate) const NOT_CONNECTED: Outcome = Outcome::TRANSIENT.not_executed();
/// How a server treats each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Reads the head of a request, sends these bytes, and closes.
    Respond(&'static [u8]),
    /// Reads the head of a request, sends these bytes, and nothing more.
    RespondAndHang(&'static [u8]),
    /// Reads the head of a request and closes in good order.
    Close,
    /// Closes without waiting for a request.
    CloseAtOnce,
    /// Closes with the request unread, which resets the connection.
    Reset,
    /// Reads the head of a request and hangs.
    Hang,
    /// HTTP/2: refuses each stream.
    Refuse,
    /// HTTP/2: goes away having processed no stream.
    GoAway,
}

/// A server on loopback that does this, for as long as the test runs.
pub(crate) async fn server(does: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, does));
        }
    });
    address
}

/// An address without a listener.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn serve(mut stream: TcpStream, does: Does) -> io::Result<()> {
    match does {
        Does::CloseAtOnce => {}
        // Closing with bytes unread makes a reset.
        Does::Reset => return stream.peek(&mut [0]).await.map(drop),
        Does::Respond(bytes) => {
            read_head(&mut stream).await?;
            stream.write_all(bytes).await?;
        }
        Does::RespondAndHang(bytes) => {
            read_head(&mut stream).await?;
            stream.write_all(bytes).await?;
            while stream.read_u8().await.is_ok() {}
        }
        Does::Close => read_head(&mut stream).await?,
        Does::Hang => {
            read_head(&mut stream).await?;
            // Until the client closes.
            while stream.read_u8().await.is_ok() {}
        }
        Does::Refuse | Does::GoAway => serve_http2(&mut stream, does).await?,
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
    }
    Ok(())
}

async fn serve_http2(stream: &mut TcpStream, does: Does) -> io::Result<()> {
    accept_http2(stream).await?;
    loop {
        let Frame { kind, id, .. } = next_frame(stream).await?;
        if kind == HEADERS {
            let reply = match does {
                Does::Refuse => frame(RST_STREAM, id, &7_u32.to_be_bytes()),
                _ => frame(GOAWAY, 0, &[0; 8]),
            };
            stream.write_all(&reply).await?;
        }
    }
}

// ── just enough of HTTP/2 (RFC 9113) for servers that misbehave ──

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
/// A flag of HEADERS and DATA. The same bit acknowledges SETTINGS and PING.
pub(crate) const END_STREAM: u8 = 1;

/// A frame from a client.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

/// Reads the client's connection preface and sends the server's.
pub(crate) async fn accept_http2(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(SETTINGS, 0, &[])).await
}

/// The next frame. SETTINGS and PING are acknowledged and skipped.
pub(crate) async fn next_frame(stream: &mut TcpStream) -> io::Result<Frame> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        if kind != SETTINGS && kind != PING {
            let id = u32::from_be_bytes(id);
            return Ok(Frame {
                kind,
                flags,
                id,
                payload,
            });
        }
        if flags & END_STREAM == 0 {
            let mut ack = frame(kind, 0, if kind == PING { &payload } else { &[] });
            ack[4] = END_STREAM;
            stream.write_all(&ack).await?;
        }
    }
}

/// An HTTP/2 frame without flags, which are its fifth byte.
pub(crate) fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, 0];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}

fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn get_from(uri: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(uri).body(Empty::new()).unwrap()
}

async fn meaning(does: Does) -> Outcome {
    let uri = format!("http://{}/", server(does).await);
    let error = client().request(get_from(&uri)).await.unwrap_err();
    let plain = error.outcome();
    let boxed: BoxError = Error::Inner(error).into();
    assert_eq!(boxed.outcome(), plain, "it is still this call's");
    let deep: BoxError = Box::new(io::Error::other(boxed));
    let deep = deep.outcome();
    assert_eq!((deep.kind, deep.executed), (plain.kind, Executed::Maybe));
    assert_ne!(deep.retry, RetryAdvice::Allowed);
    plain
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_that_executed_nothing() {
    let uri = format!("http://{}/", nobody().await);
    let error = client().request(get_from(&uri)).await.unwrap_err();
    assert_eq!(error.outcome(), NOT_CONNECTED);
    let lifted = Error::Inner(error);
    let judged = ByStatus::new().classify(Err::<&http::Response<()>, _>(&lifted));
    assert_eq!(judged, NOT_CONNECTED);
    let plain = TcpStream::connect(nobody().await).await.unwrap_err();
    assert_eq!(plain.outcome(), NOT_CONNECTED);
}

#[tokio::test]
async fn a_request_that_broke_after_it_was_sent_may_have_been_executed() {
    assert_eq!(meaning(Does::Close).await, Outcome::TRANSIENT);
    assert_eq!(meaning(Does::Reset).await, Outcome::TRANSIENT);
    assert_eq!(
        meaning(Does::Respond(b"SSH-2.0-nonsense\r\n\r\n")).await,
        Outcome::TRANSIENT
    );
    assert_eq!(
        meaning(Does::Respond(b"HTTP/1.1 200 OK\r\nconte")).await,
        Outcome::TRANSIENT
    );
}

#[tokio::test]
async fn a_connection_that_closes_at_once_is_ambiguous_or_the_request_was_never_written() {
    // It depends on the time at which hyper sees the close.
    let outcome = meaning(Does::CloseAtOnce).await;
    let never_written = Outcome::unprocessed(Unprocessed::ConnectionClosing);
    assert!(
        [Outcome::TRANSIENT, never_written].contains(&outcome),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_request_that_was_never_written_was_not_executed() {
    let stream = TcpStream::connect(server(Does::Hang).await).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(connection);
    let error = sender.send_request(get_from("/")).await.unwrap_err();
    assert!(error.is_canceled());
    let never_written = Outcome::unprocessed(Unprocessed::ConnectionClosing);
    assert_eq!(error.outcome(), never_written);
    let error = sender.ready().await.unwrap_err();
    assert_eq!(error.outcome(), never_written, "not even ready for one");
}

#[tokio::test]
async fn a_failing_request_body_is_not_attributed_to_the_service() {
    // The body fails as the response of another call would, whose connection was refused, or which was rejected. Neither is
    // about this call.
    let uri = format!("http://{}/", nobody().await);
    let refused = client().request(get_from(&uri)).await.unwrap_err();
    let rejected = Rejected::new(Reason::CircuitOpen, "upstream");
    for other in [BoxError::from(refused), BoxError::from(rejected)] {
        let body = http_body_util::StreamBody::new(FailsOnce(Some(other)));
        let uri = format!("http://{}/", server(Does::Hang).await);
        let request = http::Request::put(uri).body(body).unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let error = client.request(request).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NEUTRAL.retry(RetryAdvice::Never));
        let boxed: BoxError = error.into();
        assert!(boxed.rejected().is_none());
        assert_eq!(boxed.outcome(), Outcome::NEUTRAL.retry(RetryAdvice::Never));
    }
}

/// A body that is an error.
struct FailsOnce<E>(Option<E>);

impl<E: Unpin> futures_core::Stream for FailsOnce<E> {
    type Item = Result<http_body::Frame<Bytes>, E>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.take().map(Err))
    }
}

/// Rejects requests with a marker.
#[derive(Clone, Copy)]
struct Refuses;

struct Passed;

impl Permit for Passed {
    fn settle(self, _: Outcome, _: &Now) {}
}

impl Policy<Request> for Refuses {
    type Permit = Passed;

    fn admit(&self, request: &Request, _: &Now) -> Result<Passed, Rejected> {
        match request.uri().query() {
            Some("refuse") => Err(Rejected::new(Reason::CircuitOpen, "orders")
                .retry_after(Some(std::time::Duration::from_millis(1)))),
            _ => Ok(Passed),
        }
    }
}

#[tokio::test]
async fn a_rejection_becomes_a_response_in_axum() {
    let mut app: axum::Router = axum::Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(handle_rejections((
            GateLayer::new(Refuses, ByStatus::new()),
            GateLayer::new(Refuses, ByStatus::new()),
        )));
    let ask = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
    let fine = ServiceExt::<Request>::ready(&mut app)
        .await
        .unwrap()
        .call(ask("/"))
        .await
        .unwrap();
    assert_eq!(fine.status(), 200);
    let refused = app.call(ask("/?refuse")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let outcome = ByStatus::new().response(&refused);
    assert_eq!(
        (outcome.kind, outcome.executed),
        (buttress::Kind::Neutral, buttress::Executed::No)
    );
    let body = axum::body::to_bytes(refused.into_body(), 1000)
        .await
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], 503);
}

#[tokio::test]
async fn a_rejection_from_poll_ready_becomes_a_response_and_a_clone_does_not_inherit_it() {
    /// Not ready for anything.
    #[derive(Clone)]
    struct Shut;
    impl Service<http::Request<()>> for Shut {
        type Response = http::Response<String>;
        type Error = Error<Infallible>;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            let refusal = Rejected::new(Reason::Policy("shut".into()), "door");
            std::task::Poll::Ready(Err(refusal.into()))
        }
        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            std::future::ready(Ok(http::Response::new("called".to_owned())))
        }
    }
    // A layer that replaces the service.
    let layers = tower::layer::layer_fn(|_| Shut);
    let mut service = tower::Layer::layer(&handle_rejections(layers), ());
    let ready: Result<_, Infallible> = service.ready().await;
    let ready = ready.unwrap();
    let copy = ready.clone().call(http::Request::new(())).await.unwrap();
    assert_eq!(copy.body(), "called");
    let refused = ready.call(http::Request::new(())).await.unwrap();
    assert_eq!(refused.status(), 503);
}

//! Replayed bodies over real connections: each attempt as a server sees it, and bodies that are not replayed. And draining of
//! failed responses, so that connections are reused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::event::RetryStop;
use buttress::http::{ByStatus, ClientConfig, Drain, Replay, client};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::testing::{Step, Strict};
use buttress::{BoxError, Error};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};
use tower::util::BoxService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{Listener, Reported};
use crate::http::nobody;

type Sent = UnsyncBoxBody<Bytes, BoxError>;

/// The boxed body.
fn body<B>(body: B) -> Sent
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Frames that come one by one, of a length that is not announced.
struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn new(pieces: &[&'static str]) -> Self {
        let data = |piece: &&'static str| Frame::data(Bytes::from_static(piece.as_bytes()));
        Self(pieces.iter().map(data).collect())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// At most three attempts, without waits.
fn retry<R: Clone>(name: &str, replay: R) -> RetryLayer<R, ByStatus> {
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    RetryLayer::new(name, RetryConfig::new().backoff(at_once), replay)
        .unwrap()
        .without_budget()
        .classify(ByStatus::new())
}

fn put(address: SocketAddr, body: Sent) -> Request<Sent> {
    Request::put(format!("http://{address}/orders/7"))
        .body(body)
        .unwrap()
}

fn hyper<B>() -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

type Retrying = BoxService<Request<Sent>, Response<Incoming>, Error<ClientError>>;

/// A hyper client with retries.
fn retrying(name: &str, replay: Replay) -> Retrying {
    let layer = retry(name, replay.map_request_body(std::convert::identity));
    BoxService::new(layer.layer(hyper().map_err(Error::Inner)))
}

// ── HTTP/1, as it is on the wire ──

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(seen).unwrap())
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Raw> {
    let head = read_head(stream).await?;
    let length = |line: &str| Some(line.strip_prefix("content-length: ")?.parse().unwrap());
    let mut body = Vec::new();
    if let Some(length) = head.lines().find_map(length) {
        body.resize(length, 0);
        stream.read_exact(&mut body).await?;
    } else if head.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await?);
        }
    }
    Ok((head, body))
}

/// The requests that a server has received.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Raw>>>);

/// The head of a request, and its body as it was sent.
type Raw = (String, Vec<u8>);

impl Log {
    fn requests(&self) -> Vec<Raw> {
        self.0.lock().unwrap().clone()
    }
}

/// A server that reads each request to its end and sends these responses in turn, then the last one again.
async fn responding(responses: &'static [&'static [u8]]) -> (SocketAddr, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Log::default();
    let reported = log.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let log = log.clone();
            tokio::spawn(async move {
                while let Ok(request) = read_request(&mut stream).await {
                    let number = {
                        let mut requests = log.0.lock().unwrap();
                        requests.push(request);
                        requests.len() - 1
                    };
                    let response = responses[number.min(responses.len() - 1)];
                    stream.write_all(response).await?;
                }
                io::Result::Ok(())
            });
        }
    });
    (address, reported)
}

#[tokio::test]
async fn every_attempt_is_the_same_on_the_wire() {
    let (length, chunked) = ("content-length: 11\r\n", "transfer-encoding: chunked\r\n");
    for (sent, framing) in [
        (body(Full::from("one of each")), Some(length)),
        (body(Frames::new(&["one ", "of each"])), Some(chunked)),
        (body(Frames::new(&[])), Some(chunked)),
        (body(Empty::new()), None),
    ] {
        let (address, log) = responding(&[BUSY, BUSY, FINE]).await;
        let service = retrying("replay: wire", Replay::new());
        let response = service.oneshot(put(address, sent)).await.unwrap();
        assert_eq!(response.status(), 200);
        let seen = log.requests();
        assert_eq!(seen.len(), 3);
        assert_eq!((&seen[1], &seen[2]), (&seen[0], &seen[0]));
        let head = &seen[0].0;
        let sent = [length, chunked].into_iter().find(|of| head.contains(of));
        assert_eq!(sent, framing, "{head}");
    }
}

#[tokio::test]
async fn a_body_larger_than_the_limit_is_sent_once() {
    let (address, log) = responding(&[BUSY, FINE]).await;
    let listener = Listener::new("replay: overflow");
    let replay = Replay::new().buffer_limit(10);
    let service = retrying("replay: overflow", replay);
    let sent = body(Frames::new(&["one ", "of each"]));
    let response = service.oneshot(put(address, sent)).await.unwrap();
    assert_eq!(response.status(), 503);
    let stopped = Reported::RetryStopped(RetryStop::BodyNotReplayable);
    assert_eq!(listener.take(), [stopped]);
    let (_, whole) = log.requests().pop().unwrap();
    assert_eq!(
        whole, b"4\r\none \r\n7\r\nof each\r\n0\r\n\r\n",
        "streamed on"
    );
    assert_eq!(log.requests().len(), 1);
}

#[tokio::test]
async fn a_body_of_which_nothing_was_read_goes_to_the_next_attempt() {
    let (address, log) = responding(&[FINE]).await;
    let dead = nobody().await;
    let connects = Arc::new(AtomicUsize::new(0));
    let connector = service_fn(move |_: http::Uri| {
        let first = connects.fetch_add(1, Ordering::SeqCst) == 0;
        let to = if first { dead } else { address };
        Box::pin(async move { TcpStream::connect(to).await.map(TokioIo::new) })
    });
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let replay = Replay::new().map_request_body(std::convert::identity);
    let service = retry("replay: refused", replay).layer(client.map_err(Error::Inner));
    let post = Request::post(format!("http://{address}/"))
        .body(body(Frames::new(&["one ", "of each"])))
        .unwrap();
    assert_eq!(service.oneshot(post).await.unwrap().status(), 200);
    let (_, whole) = log.requests().pop().unwrap();
    assert_eq!(whole, b"4\r\none \r\n7\r\nof each\r\n0\r\n\r\n");
}

// ── reqwest ──

#[tokio::test]
async fn the_standard_client_replays_reqwests_streaming_bodies() {
    use buttress::reqwest::SendThrough;
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let config = ClientConfig::default().retry(RetryConfig::new().backoff(at_once));
    for sent in [
        ::reqwest::Body::wrap(Frames::new(&["one ", "of each"])),
        ::reqwest::Body::wrap("one of each".to_owned()),
    ] {
        let (address, log) = responding(&[BUSY, FINE]).await;
        let reqwest = ::reqwest::Client::builder()
            .retry(::reqwest::retry::never())
            .build()
            .unwrap();
        let stack = client("replay: reqwest", config.clone())
            .unwrap()
            .layer(reqwest.clone());
        let put = reqwest.put(format!("http://{address}/")).body(sent);
        assert_eq!(put.send_through(&stack).await.unwrap().status(), 200);
        let seen = log.requests();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], seen[1]);
    }
}

// ── the rest of a failed response ──

/// A response's body that reports when it is dropped.
struct Reporting<B>(B, Arc<Notify>);

impl<B: Body + Unpin> Body for Reporting<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl<B> Drop for Reporting<B> {
    fn drop(&mut self) {
        self.1.notify_one();
    }
}

const LARGE: usize = 40 * 1024;

/// The signals for the server of the next test.
#[derive(Default)]
struct Cues {
    /// The second request has arrived.
    second: Notify,
    /// The body of the first response was dropped.
    over: Arc<Notify>,
    requests: AtomicUsize,
}

/// Responds to the first request with a large 503 in two halves, the second half when the second request arrives; to the
/// second when the first response's body was dropped; and to the next two once both have arrived.
async fn in_two_halves(
    mut stream: TcpStream,
    cues: Arc<Cues>,
    both: Arc<Barrier>,
) -> io::Result<()> {
    let half = vec![b'x'; LARGE / 2];
    loop {
        read_head(&mut stream).await?;
        match cues.requests.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let head = format!("HTTP/1.1 503 Busy\r\ncontent-length: {LARGE}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&half).await?;
                cues.second.notified().await;
                stream.write_all(&half).await?;
                continue;
            }
            1 => {
                cues.second.notify_one();
                cues.over.notified().await;
            }
            _ => {
                both.wait().await;
            }
        }
        stream.write_all(FINE).await?;
    }
}

/// The number of connections used by a call whose first attempt fails like that, then two calls at once.
async fn connections(drain: Drain) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let cues = Arc::new(Cues::default());
    let over = Arc::clone(&cues.over);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let both = Arc::new(Barrier::new(2));
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(in_two_halves(stream, Arc::clone(&cues), Arc::clone(&both)));
        }
    });
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let layer = RetryLayer::new("drain", RetryConfig::new().backoff(at_once), Replay::new())
        .unwrap()
        .classify(ByStatus::new())
        .discard(drain);
    let service = ServiceBuilder::new()
        .layer(layer)
        .map_response(move |response: Response<Incoming>| {
            response.map(|body| Reporting(body, Arc::clone(&over)))
        })
        .map_err(Error::<ClientError>::Inner)
        .service(hyper::<Empty<Bytes>>());
    let get = || {
        let request = Request::get(&uri).body(Empty::new()).unwrap();
        let call = service.clone().oneshot(request);
        async { assert_eq!(call.await.unwrap().status(), 200) }
    };
    get().await;
    tokio::join!(get(), get());
    connections.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_failed_responses_connection_is_reused() {
    let patient = Drain::new().within(Duration::from_secs(60));
    assert_eq!(connections(patient).await, 2);
    assert_eq!(
        connections(Drain::new().within(Duration::ZERO)).await,
        3,
        "without draining it is closed"
    );
}

#[tokio::test(start_paused = true)]
async fn the_standard_client_drains_a_failed_response_once_the_next_attempt_has_begun() {
    #[derive(Debug, PartialEq)]
    enum Did {
        Called(usize),
        Read(usize),
    }
    struct Reported(usize, VecDeque<Frame<Bytes>>, Arc<Mutex<Vec<Did>>>);
    impl Body for Reported {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let number = self.0;
            self.2.lock().unwrap().push(Did::Read(number));
            Poll::Ready(self.1.pop_front().map(Ok))
        }
    }
    let did = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&did);
    let server: Strict<Request<String>, Response<Reported>, io::Error> = Strict::new(move |call| {
        reported.lock().unwrap().push(Did::Called(call));
        let frames = Frames::new(&["busy"]).0;
        let mut response = Response::new(Reported(call, frames, Arc::clone(&reported)));
        if call == 0 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let time = Duration::from_millis(10);
        Step::After(time, Ok(response))
    });
    let stack = client("replay: drained", ClientConfig::default()).unwrap();
    let get = Request::get("http://shop.example/")
        .body(String::new())
        .unwrap();
    let response = stack.layer(server).oneshot(get).await.unwrap();
    assert_eq!(response.status(), 200);
    let expected = [Did::Called(0), Did::Called(1), Did::Read(0), Did::Read(0)];
    assert_eq!(*did.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_with_the_call() {
    struct Endless(Option<Arc<AtomicUsize>>);
    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }
    impl Drop for Endless {
        fn drop(&mut self) {
            if let Some(dropped) = &self.0 {
                dropped.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    for last in [200, 503, 404] {
        let dropped = Arc::new(AtomicUsize::new(0));
        let body = Arc::clone(&dropped);
        let server: Strict<Request<String>, Response<Endless>, Error<io::Error>> =
            Strict::new(move |call| {
                let failed = Endless((call == 0).then(|| Arc::clone(&body)));
                let mut response = Response::new(failed);
                let status = if call == 0 { 503 } else { last };
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Step::After(Duration::from_millis(10), Ok(response))
            });
        let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
        let config = RetryConfig::new().backoff(at_once).max_attempts(2);
        let retry = RetryLayer::new("replay: ends", config, Replay::new())
            .unwrap()
            .classify(ByStatus::new())
            .discard(Drain::new());
        let get = Request::get("/").body(String::new()).unwrap();
        let mut service = retry.layer(server);
        let ready = ServiceExt::<Request<String>>::ready(&mut service)
            .await
            .unwrap();
        let mut call = Box::pin(ready.call(get));
        let began = tokio::time::Instant::now();
        let response = (&mut call).await.unwrap();
        assert_eq!(response.status(), last);
        assert_eq!(
            began.elapsed(),
            Duration::from_millis(20),
            "the call does not wait for it"
        );
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        drop(call);
    }
}

//! gRPC through a tonic `Channel` to a scripted server on loopback, in real time: order and counts only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ::tonic::body::Body;
use ::tonic::client::{Grpc, GrpcService};
use ::tonic::transport::{Channel, Endpoint, Error as TransportError};
use ::tonic::{Code, Request, Response, Status};
use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{BreakerConfig, BreakerLayer};
use buttress::budget::BudgetConfig;
use buttress::http::{
    ByGrpcStatus, ClientConfig, ClientLayer, Replay, grpc, handle_grpc_rejections,
};
use buttress::retry::{ReplayPolicy, RetryConfig, RetryLayer};
use buttress::timeout::TimeoutLayer;
use buttress::{Error, Outcome, Rejected, classify_fn};
use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

use crate::common::{breaker, poll, three_in_a_row};
use crate::text::Text;

// ── a server that follows a script, frame by frame ──

/// What the server does with a call.
#[derive(Clone, Copy)]
enum Does {
    Echo,
    /// Headers only: a status, and perhaps a pushback.
    Fails(Code),
    Pushes(Code, &'static str),
    /// A message, and then this status.
    FailsLate(Code),
    /// A message, and then nothing.
    Stalls,
    Hangs,
    /// The stream is refused before it is processed.
    Refuses,
    /// A response that is not gRPC.
    Responds(u16),
}

/// A call as the server saw it.
#[derive(Debug, PartialEq)]
struct Seen {
    text: String,
    /// `grpc-previous-rpc-attempts`.
    previous: Option<String>,
    /// Whether it has a `grpc-timeout`.
    timed: bool,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// The script gets the number of the call, from 0.
    async fn new(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let server = Self { address, seen };
        let script = Arc::new(script);
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(this.clone().serve(stream, script.clone()));
            }
        });
        server
    }

    async fn serve(self, stream: TcpStream, script: Arc<dyn Fn(usize) -> Does + Send + Sync>) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let previous = request.headers().get("grpc-previous-rpc-attempts");
            let previous = previous.map(|value| value.to_str().unwrap().to_owned());
            let timed = request.headers().contains_key("grpc-timeout");
            let number = {
                let mut seen = self.seen.lock().unwrap();
                let text = String::new();
                seen.push(Seen {
                    text,
                    previous,
                    timed,
                });
                seen.len() - 1
            };
            let does = script(number);
            if matches!(does, Does::Refuses) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            let seen = self.seen.clone();
            tokio::spawn(async move {
                let text = message(request.into_body()).await;
                seen.lock().unwrap()[number].text.clone_from(&text);
                // An error means that the client has left.
                let _ = respond_with(respond, does, &text).await;
            });
        }
    }

    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect_lazy()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The number of previous attempts that each call sent.
    fn previous(&self) -> Vec<Option<u32>> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .map(|seen| seen.previous.as_ref().map(|number| number.parse().unwrap()))
            .collect()
    }

    fn texts(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|seen| seen.text.clone()).collect()
    }
}

/// The only message of a body.
async fn message(mut body: h2::RecvStream) -> String {
    let mut read = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        read.put(data);
    }
    String::from_utf8_lossy(read.get(5..).unwrap_or_default()).into_owned()
}

async fn respond_with(
    mut respond: h2::server::SendResponse<Bytes>,
    does: Does,
    text: &str,
) -> Result<(), h2::Error> {
    let head = || {
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap()
    };
    let status = |code: Code| HeaderValue::from(code as i32);
    match does {
        Does::Fails(_) | Does::Pushes(..) => {
            let mut head = head();
            let headers = head.headers_mut();
            if let Does::Pushes(code, pushback) = does {
                headers.insert("grpc-status", status(code));
                let pushback = HeaderValue::from_static(pushback);
                headers.insert("grpc-retry-pushback-ms", pushback);
            } else if let Does::Fails(code) = does {
                headers.insert("grpc-status", status(code));
            }
            respond.send_response(head, true)?;
        }
        Does::Echo | Does::FailsLate(_) | Does::Stalls => {
            let mut body = respond.send_response(head(), false)?;
            let mut message = BytesMut::new();
            message.put_u8(0);
            message.put_u32(text.len().try_into().unwrap());
            message.put(text.as_bytes());
            body.send_data(message.freeze(), false)?;
            let code = match does {
                Does::Stalls => std::future::pending().await,
                Does::FailsLate(code) => code,
                _ => Code::Ok,
            };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status(code));
            body.send_trailers(trailers)?;
        }
        Does::Responds(status) => {
            let mut other = http::Response::new(());
            *other.status_mut() = http::StatusCode::from_u16(status).unwrap();
            respond.send_response(other, true)?;
        }
        Does::Hangs | Does::Refuses => std::future::pending().await,
    }
    Ok(())
}

// ── its clients ──

const SAY: &str = "/test.Greeter/Say";
const PAY: &str = "/test.Till/Pay";

/// Retries without waits and without a budget; no breaker.
fn plain() -> ClientConfig {
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let minute = Duration::from_secs(60);
    ClientConfig::default()
        .retry(RetryConfig::default().backoff(at_once))
        .budget(None)
        .breaker(None)
        .attempt(minute)
        .total(minute)
        .body_idle(minute)
}

fn opens(config: BreakerConfig) -> BreakerConfig {
    config
        .open_for(Duration::from_secs(3600))
        .probe_idle_timeout(Duration::from_secs(3600))
        .window(buttress::breaker::Window::Time(Duration::from_secs(3600)))
}

type Layers = ClientLayer<Replay, ByGrpcStatus>;
type Stack = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Error<TransportError>>;

/// `SAY` is idempotent, `PAY` is not.
fn layers(config: ClientConfig) -> Layers {
    grpc("test", config).unwrap().idempotent([SAY]).unwrap()
}

/// The stack in front of the server.
fn stack(layers: Layers, channel: Channel) -> Stack {
    let stack = handle_grpc_rejections(layers.map_request_body(Body::new)).layer(channel);
    BoxCloneSyncService::new(stack.map_response(|response| response.map(Body::new)))
}

/// One call of a method.
async fn call<S>(service: &S, method: &'static str, text: &str) -> Result<String, Status>
where
    S: GrpcService<Body> + Clone,
    S::Error: Into<buttress::BoxError>,
    S::ResponseBody: Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<buttress::BoxError> + Send,
{
    let mut client = Grpc::new(service.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static(method);
    let response = client
        .unary(Request::new(text.to_owned()), path, Text)
        .await;
    response.map(Response::into_inner)
}

/// The code of a call of each method, and how often the server was called.
async fn runs(does: Does) -> [(Code, usize); 2] {
    let mut came = Vec::new();
    for method in [SAY, PAY] {
        let server = Server::new(move |_| does).await;
        let stack = stack(layers(plain()), server.channel());
        let response = call(&stack, method, "hello").await;
        let code = response.map_or_else(|status| status.code(), |_| Code::Ok);
        came.push((code, server.count()));
    }
    came.try_into().unwrap()
}

// ── retries ──

#[tokio::test]
async fn an_idempotent_method_is_retried_with_the_number_of_previous_attempts() {
    let server = Server::new(|call| match call {
        0 | 1 => Does::Fails(Code::Unavailable),
        _ => Does::Echo,
    })
    .await;
    let stack = stack(layers(plain()), server.channel());
    let response = call(&stack, SAY, "the same text").await.unwrap();
    assert_eq!(response, "the same text");
    assert_eq!(server.texts(), ["the same text"; 3]);
    assert_eq!(server.previous(), [None, Some(1), Some(2)]);
    let seen = server.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.timed), "and the remaining time");
}

#[tokio::test]
async fn the_code_the_pushback_and_the_method_decide() {
    use Does::{Fails, Pushes, Responds};
    for (does, code, repeated) in [
        (Fails(Code::Unavailable), Code::Unavailable, true),
        (
            Fails(Code::ResourceExhausted),
            Code::ResourceExhausted,
            false,
        ),
        (Fails(Code::DeadlineExceeded), Code::DeadlineExceeded, false),
        (Fails(Code::Internal), Code::Internal, false),
        (Fails(Code::Unknown), Code::Unknown, false),
        (Fails(Code::DataLoss), Code::DataLoss, false),
        (Fails(Code::Cancelled), Code::Cancelled, false),
        (Fails(Code::NotFound), Code::NotFound, false),
        (Fails(Code::Aborted), Code::Aborted, false),
        (Pushes(Code::Unavailable, "1"), Code::Unavailable, true),
        (
            Pushes(Code::ResourceExhausted, "1"),
            Code::ResourceExhausted,
            true,
        ),
        (Pushes(Code::Internal, "1"), Code::Internal, false),
        (Pushes(Code::Unavailable, "-1"), Code::Unavailable, false),
        (Pushes(Code::Unavailable, "soon"), Code::Unavailable, false),
        // Too long to wait for.
        (
            Pushes(Code::Unavailable, "3600000"),
            Code::Unavailable,
            false,
        ),
        // A proxy that knows no gRPC.
        (Responds(503), Code::Unavailable, true),
        (Responds(404), Code::Unimplemented, false),
    ] {
        let attempts = if repeated { 3 } else { 1 };
        assert_eq!(runs(does).await, [(code, attempts), (code, 1)]);
    }
}

#[tokio::test]
async fn a_message_ends_the_retries() {
    let late = Does::FailsLate(Code::Unavailable);
    assert_eq!(runs(late).await, [(Code::Unavailable, 1); 2]);
}

#[tokio::test]
async fn a_refused_stream_is_retried_once_and_does_not_count() {
    let refused_once = |call| if call == 0 { Does::Refuses } else { Does::Echo };
    for method in [SAY, PAY] {
        let server = Server::new(refused_once).await;
        let only_one = plain().retry(RetryConfig::default().max_attempts(1));
        let stack = stack(layers(only_one), server.channel());
        assert_eq!(call(&stack, method, "hello").await.unwrap(), "hello");
        assert_eq!(server.previous(), [None, None]);
    }
    let server = Server::new(|_| Does::Refuses).await;
    let stack = stack(layers(plain()), server.channel());
    let refused = call(&stack, PAY, "hello").await;
    assert!(refused.is_err());
    let counted = [None, None, Some(1), Some(2)];
    assert_eq!(server.previous(), counted, "the later ones count");
}

#[tokio::test]
async fn an_attempt_that_hangs_is_retried_if_its_method_is_idempotent() {
    for (method, expected) in [(SAY, Ok("hello")), (PAY, Err(Code::DeadlineExceeded))] {
        let hangs_once = |call| if call == 0 { Does::Hangs } else { Does::Echo };
        let server = Server::new(hangs_once).await;
        let short = plain().attempt(Duration::from_millis(500));
        let stack = stack(layers(short), server.channel());
        let response = call(&stack, method, "hello").await;
        let response = response.as_deref().map_err(Status::code);
        assert_eq!(response, expected);
    }
}

// ── breaker and throttle ──

#[tokio::test]
async fn a_breaker_sees_the_status_after_the_message() {
    let server = Server::new(|_| Does::FailsLate(Code::Unavailable)).await;
    let config = plain().breaker(opens(three_in_a_row()));
    let stack = stack(layers(config), server.channel());
    for _ in 0..3 {
        let status = call(&stack, SAY, "hello").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, ""));
    }
    let status = call(&stack, SAY, "hello").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("is open"), "{status:?}");
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn the_throttle_counts_retryable_and_vetoed_failures() {
    use Does::{Echo, Fails, Pushes};
    let tokens = async |does: Does, calls: usize| {
        let server = Server::new(move |_| does).await;
        let config = plain().budget(BudgetConfig::throttle(4, 0.5));
        let layer = layers(config);
        let stack = stack(layer.clone(), server.channel());
        for _ in 0..calls {
            let _ = call(&stack, SAY, "hello").await;
        }
        let budgets = layer.budgets().unwrap().entries();
        let [(_, budget)] = &budgets[..] else {
            panic!("one channel has one budget: {budgets:?}")
        };
        #[expect(clippy::cast_possible_truncation, reason = "a handful")]
        let halves = (budget.balance() * 2.0).round() as i32;
        (server.count(), halves)
    };
    // From four tokens: to three, which is more than half, and to two, which is not.
    assert_eq!(tokens(Fails(Code::Unavailable), 1).await, (2, 4));
    assert_eq!(tokens(Fails(Code::Unavailable), 3).await, (4, 0));
    assert_eq!(tokens(Fails(Code::Internal), 3).await, (3, 8));
    assert_eq!(tokens(Pushes(Code::Internal, "-1"), 1).await, (1, 6));
    assert_eq!(tokens(Pushes(Code::NotFound, "-1"), 1).await, (1, 6));
    assert_eq!(tokens(Fails(Code::NotFound), 3).await, (3, 8));
    assert_eq!(tokens(Echo, 1).await, (1, 8));
}

// ── rejections as statuses ──

#[tokio::test]
async fn a_body_that_stalls_ends_with_a_status() {
    let server = Server::new(|_| Does::Stalls).await;
    let impatient = plain().body_idle(Duration::from_millis(200));
    let stack = stack(layers(impatient), server.channel());
    let status = call(&stack, SAY, "hello").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().starts_with("body idle timeout `test`"),
        "{status:?}"
    );
}

#[tokio::test]
async fn other_errors_are_returned_unchanged() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let stack = stack(layers(plain()), endpoint.connect_lazy());
    let status = call(&stack, PAY, "hello").await.unwrap_err();
    let without = call(&endpoint.connect_lazy(), PAY, "hello")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        (status.code(), status.message()),
        (without.code(), without.message())
    );
}

/// Replays unary calls: their body is complete when the call begins, although it is not `Clone`.
#[derive(Clone, Copy)]
struct Unary;

impl ReplayPolicy<http::Request<Body>> for Unary {
    type Attempt = http::Request<Body>;
    type Saved = http::Request<Bytes>;

    fn first(&self, request: http::Request<Body>) -> (Self::Attempt, Option<Self::Saved>) {
        let (parts, body) = request.into_parts();
        let Poll::Ready(Ok(collected)) = poll(pin!(body.collect())) else {
            panic!("the body of a unary call is not complete")
        };
        let saved = http::Request::from_parts(parts, collected.to_bytes());
        (to_attempt(&saved), Some(saved))
    }

    fn again(&self, saved: &mut Self::Saved) -> Option<Self::Attempt> {
        Some(to_attempt(saved))
    }
}

fn to_attempt(saved: &http::Request<Bytes>) -> http::Request<Body> {
    saved.clone().map(|bytes| Body::new(Full::new(bytes)))
}

#[tokio::test]
async fn a_custom_replay_policy_retries_over_a_channel() {
    let unavailable = |call| [Does::Fails(Code::Unavailable), Does::Echo][usize::from(call >= 2)];
    let server = Server::new(unavailable).await;
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(at_once);
    // The server sends this status without a message, so the head of the response has it.
    let by_head = classify_fn(
        |result: Result<&http::Response<Body>, &Error<TransportError>>| {
            let status = result.map(|response| Status::from_header_map(response.headers()));
            match status {
                Ok(Some(status)) if status.code() == Code::Unavailable => Outcome::TRANSIENT,
                Ok(_) => Outcome::SUCCESS,
                Err(_) => Outcome::TRANSIENT,
            }
        },
    );
    let retry = RetryLayer::new("unary", config, Unary).unwrap();
    let service = tower::ServiceBuilder::new()
        .layer(retry.classify(by_head))
        .layer(BreakerLayer::new(
            breaker("unary", three_in_a_row()),
            by_head,
        ))
        .layer(TimeoutLayer::new("unary", Duration::from_secs(60)))
        .map_err(Error::Inner)
        .service(server.channel());
    assert_eq!(call(&service, SAY, "text").await.unwrap(), "text");
    assert_eq!(server.texts(), ["text"; 3]);
}

#[tokio::test]
async fn a_rejection_without_handle_grpc_rejections_is_found_in_the_status() {
    let server = Server::new(|_| Does::Hangs).await;
    let limit = TimeoutLayer::new("unwrapped", Duration::from_millis(50));
    let stack = tower::ServiceBuilder::new()
        .layer(limit)
        .map_err(Error::Inner)
        .service(server.channel());
    let status = call(&stack, SAY, "hello").await.unwrap_err();
    let chain = std::iter::successors(Some(&status as &dyn std::error::Error), |error| {
        error.source()
    });
    let mut rejected = chain.filter_map(|error| error.downcast_ref::<Rejected>());
    assert_eq!(
        *rejected.next().expect("the timeout's rejection").name,
        *"unwrapped"
    );
}

/// Echoes its request.
#[derive(Clone)]
struct Greeter;

impl tower::Service<Request<String>> for Greeter {
    type Response = Response<String>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<String>, Status>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        std::future::ready(match &**request.get_ref() {
            "fail" => Err(Status::unavailable("as requested")),
            _ => Ok(Response::new(request.into_inner())),
        })
    }
}

#[tokio::test]
async fn a_server_turns_its_rejections_into_statuses_and_does_not_count_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let inner = breaker("inner", opens(three_in_a_row()));
    let outer = breaker(
        "outer",
        opens(three_in_a_row().consecutive_failures(Some(4))),
    );
    let greeter = tower::service_fn(|request: http::Request<hyper::body::Incoming>| async {
        let mut server = ::tonic::server::Grpc::new(Text);
        Ok::<_, Infallible>(server.unary(Greeter, request).await)
    });
    let limits = (
        BreakerLayer::new(inner, ByGrpcStatus::new()),
        TimeoutLayer::new("server", Duration::from_secs(60)),
    );
    let outer_layer = BreakerLayer::new(outer.clone(), ByGrpcStatus::new());
    let service =
        handle_grpc_rejections(outer_layer).layer(handle_grpc_rejections(limits).layer(greeter));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    let channel = Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    assert_eq!(call(&channel, SAY, "hello").await.unwrap(), "hello");
    for message in ["as requested"; 3] {
        let status = call(&channel, SAY, "fail").await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, message)
        );
    }
    for _ in 0..9 {
        let status = call(&channel, SAY, "hello").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("`inner` is open"), "{status:?}");
    }
    assert_eq!(outer.state(), buttress::breaker::BreakerState::Closed);
}

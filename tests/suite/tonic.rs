//! Layers over a tonic `Channel`, to a gRPC server on loopback, in real time: order and counts only.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::tonic::body::Body;
use ::tonic::transport::{Channel, Endpoint};
use ::tonic::{Code, Request, Response, Status};
use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{BreakerLayer, BreakerState};
use buttress::retry::{ReplayPolicy, RetryConfig, RetryLayer};
use buttress::timeout::TimeoutLayer;
use buttress::{Classify, Error, Executed, Outcome, Rejected, classify_fn};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder};

use crate::common::{breaker, three_in_a_row};
use crate::text::Text;

/// What the server does with its calls, by number from 0.
type Script = fn(usize) -> Does;

#[derive(Clone, Copy)]
enum Does {
    Echo,
    Unavailable,
    Hang,
}

#[derive(Clone)]
struct Greeter {
    script: Script,
    calls: Arc<AtomicUsize>,
}

impl Service<Request<String>> for Greeter {
    type Response = Response<String>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let does = (self.script)(self.calls.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            match does {
                Does::Echo => Ok(Response::new(request.into_inner())),
                Does::Unavailable => Err(Status::unavailable("scripted")),
                Does::Hang => std::future::pending().await,
            }
        })
    }
}

/// A channel to a server that does as the script says, and how often the server was called.
async fn served(script: Script) -> (Channel, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let greeter = Greeter {
        script,
        calls: Arc::clone(&calls),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let greeter = greeter.clone();
            let answer = hyper::service::service_fn(move |request| {
                let greeter = greeter.clone();
                async move {
                    let mut server = ::tonic::server::Grpc::new(Text);
                    Ok::<_, Infallible>(server.unary(greeter, request).await)
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect_lazy(), calls)
}

/// One call through whatever is stacked on a channel.
async fn say<S, B>(service: S, text: &str) -> Result<String, Status>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let mut client = ::tonic::client::Grpc::new(service);
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let path = http::uri::PathAndQuery::from_static("/test.Greeter/Say");
    let request = Request::new(text.to_owned());
    client
        .unary(request, path, Text)
        .await
        .map(Response::into_inner)
}

/// UNAVAILABLE, which the server sends before any message, is a failure.
fn by_head() -> impl Classify<http::Response<Body>, Error<::tonic::transport::Error>> + Clone {
    classify_fn(
        |result: Result<&http::Response<Body>, &Error<::tonic::transport::Error>>| match result {
            Ok(response) => match Status::from_header_map(response.headers()) {
                Some(status) if status.code() == Code::Unavailable => Outcome::TRANSIENT,
                _ => Outcome::SUCCESS,
            },
            Err(_) => Outcome::TRANSIENT,
        },
    )
}

/// Our own refusal inside a status, wherever tonic has put it.
fn rejected(status: &Status) -> Option<&Rejected> {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(status);
    while let Some(this) = error {
        if let Some(rejected) = this.downcast_ref() {
            return Some(rejected);
        }
        error = this.source();
    }
    None
}

#[tokio::test]
async fn a_breaker_over_a_channel_opens_and_the_server_has_its_peace() {
    let (channel, calls) = served(|_| Does::Unavailable).await;
    // Never over within this test.
    let handle = breaker(
        "tonic",
        three_in_a_row().open_for(Duration::from_secs(3600)),
    );
    let service = ServiceBuilder::new()
        .layer(BreakerLayer::new(handle.clone(), by_head()))
        .map_err(Error::Inner)
        .service(channel);
    for _ in 0..3 {
        let status = say(service.clone(), "hello").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
    assert_eq!(handle.state(), BreakerState::Open);
    for _ in 0..20 {
        let status = say(service.clone(), "hello").await.unwrap_err();
        let rejected = rejected(&status).expect("our own refusal");
        assert_eq!(
            (&*rejected.name, rejected.executed),
            ("tonic", Executed::No)
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_timeout_over_a_channel_ends_a_call_that_hangs_and_the_next_one_works() {
    let (channel, calls) = served(|call| if call == 0 { Does::Hang } else { Does::Echo }).await;
    let hanging = ServiceBuilder::new()
        .layer(TimeoutLayer::new("tonic", Duration::from_millis(500)))
        .map_err(Error::Inner)
        .service(channel.clone());
    // On a host so busy that the connection takes longer, the call that hangs is a later one.
    while calls.load(Ordering::SeqCst) == 0 {
        let status = say(hanging.clone(), "hello").await.unwrap_err();
        assert!(rejected(&status).is_some(), "{status:?}");
    }
    let patient = ServiceBuilder::new()
        .layer(TimeoutLayer::new("tonic", Duration::from_secs(60)))
        .map_err(Error::Inner)
        .service(channel);
    assert_eq!(say(patient, "hello").await.unwrap(), "hello");
}

/// Repeats unary calls, whose body is there at once, though it is no `Clone`.
#[derive(Clone, Copy)]
struct Unary;

impl ReplayPolicy<http::Request<Body>> for Unary {
    type Attempt = http::Request<Body>;
    type Saved = http::Request<Bytes>;

    fn first(&self, request: http::Request<Body>) -> (Self::Attempt, Option<Self::Saved>) {
        let (parts, body) = request.into_parts();
        let collected = pin!(body.collect()).poll(&mut Context::from_waker(Waker::noop()));
        let bytes = match collected {
            Poll::Ready(Ok(collected)) => collected.to_bytes(),
            _ => panic!("the body of a unary call is there at once"),
        };
        let saved = http::Request::from_parts(parts, bytes);
        (attempt(&saved), Some(saved))
    }

    fn again(&self, saved: &mut Self::Saved) -> Option<Self::Attempt> {
        Some(attempt(saved))
    }
}

fn attempt(saved: &http::Request<Bytes>) -> http::Request<Body> {
    saved.clone().map(|bytes| Body::new(Full::new(bytes)))
}

#[tokio::test]
async fn a_retry_over_a_channel_repeats_with_a_strategy_of_ones_own() {
    let (channel, calls) = served(|call| {
        if call < 2 {
            Does::Unavailable
        } else {
            Does::Echo
        }
    })
    .await;
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(at_once);
    let retry = RetryLayer::new("tonic", config, Unary).unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.classify(by_head()))
        .layer(BreakerLayer::new(
            breaker("tonic-retried", three_in_a_row()),
            by_head(),
        ))
        .layer(TimeoutLayer::new("tonic", Duration::from_secs(60)))
        .map_err(Error::Inner)
        .service(channel);
    assert_eq!(
        say(service, "the same text").await.unwrap(),
        "the same text"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

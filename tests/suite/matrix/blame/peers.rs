//! Rejections by foreign layers inside the stack.

use std::io;
use std::task::{Context, Poll};

use buttress::http::{ErrorOutcome, client, grpc, handle_grpc_rejections};
use buttress::{Outcome, RetryAdvice};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tower::buffer::Buffer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::{Attempts, Saw, config, server};
use crate::text::Text;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_shed_inside_the_stack_is_neutral() {
    for http2 in [false, true] {
        let server = server(http2, 2).await;
        let hyper = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Full<Bytes>>();
        let limited = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(2)
            .service(hyper);
        let (layer, attempts) = (client("shed", config()).unwrap(), Attempts::default());
        let stack = layer.layer(attempts.of(limited));
        let get = || server.request("GET", Full::new(Bytes::new()));
        let mut running = Vec::new();
        for _ in 0..2 {
            running.push(tokio::spawn(stack.clone().oneshot(get())));
            server.holding.notified().await;
        }
        for _ in 0..30 {
            stack.clone().oneshot(get()).await.unwrap_err();
        }
        assert_eq!(attempts.saw(&layer), Saw::nothing_in(32), "http2: {http2}");
        server.release.add_permits(2);
        for call in running {
            assert_eq!(call.await.unwrap().unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn a_buffer_whose_worker_is_gone_is_neutral() {
    let server = server(false, 0).await;
    let hyper = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let (buffer, worker) = Buffer::pair(hyper, 1);
    let (layer, attempts) = (client("closed", config()).unwrap(), Attempts::default());
    let mut stack = layer.layer(attempts.of(buffer));
    let get = server.request("GET", Full::new(Bytes::new()));
    ServiceExt::<http::Request<Full<Bytes>>>::ready(&mut stack)
        .await
        .unwrap();
    let call = stack.call(get);
    drop(worker);
    let error = format!("{:?}", call.await.unwrap_err());
    assert!(error.contains("Closed"), "{error}");
    assert_eq!(attempts.saw(&layer), Saw::nothing_in(1));
}

/// A client that never becomes ready because it cannot connect.
struct NotReady;

impl<R> Service<R> for NotReady {
    type Response = http::Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = std::future::Pending<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test]
async fn a_buffer_whose_service_has_failed_counts_as_that_failure_and_is_not_called_again() {
    let server = server(false, 0).await;
    let buffer = Buffer::new(NotReady, 1);
    let get = server.request("GET", Full::new(Bytes::new()));
    let error = buffer.clone().oneshot(get).await.unwrap_err();
    let expected = Outcome::TRANSIENT.not_executed().retry(RetryAdvice::Never);
    assert_eq!(error.outcome(), expected);
    let buffer = Buffer::new(NotReady, 1);
    let (layer, attempts) = (client("failed", config()).unwrap(), Attempts::default());
    let get = server.request("GET", Full::new(Bytes::new()));
    let stack = layer.layer(attempts.of(buffer));
    stack.oneshot(get).await.unwrap_err();
    let failed = Saw {
        counted: 1,
        failed: 1,
        ..Saw::nothing_in(1)
    };
    assert_eq!(attempts.saw(&layer), failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_by_an_interceptor_is_neutral() {
    for status in [Status::unavailable("no token"), Status::unauthenticated("")] {
        let server = server(true, 0).await;
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
        let channel = endpoint.unwrap().connect_lazy();
        let refusal = status.clone();
        let refuses = move |_: tonic::Request<()>| Err(refusal.clone());
        let layer = grpc("interceptor", config())
            .unwrap()
            .idempotent(["/test.Greeter/Say"])
            .unwrap()
            .map_request_body(tonic::body::Body::new);
        let attempts = Attempts::default();
        let channel = attempts.of(InterceptedService::new(channel, refuses));
        let stack = handle_grpc_rejections(layer.clone()).layer(channel);
        for _ in 0..10 {
            let mut greeter = tonic::client::Grpc::new(stack.clone());
            greeter.ready().await.unwrap();
            let path = http::uri::PathAndQuery::from_static("/test.Greeter/Say");
            let text = tonic::Request::new("hello".to_owned());
            let refused = greeter.unary(text, path, Text).await.unwrap_err();
            assert_eq!(refused.code(), status.code());
        }
        assert_eq!(attempts.saw(&layer), Saw::nothing_in(10), "{status:?}");
    }
}

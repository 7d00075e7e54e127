//! gRPC: a tonic server behind the layer, over HTTP/2 on loopback, in real time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::tonic::metadata::MetadataValue;
use ::tonic::transport::{Channel, Endpoint};
use ::tonic::{Code, Request, Response, Status};
use buttress::BoxError;
use buttress::http::answer_grpc;
use buttress::idempotency::{
    IdempotencyConfig, IdempotencyLayer, KeptBody, Operation, Scope, StoragePolicy,
};
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::{Layer, service_fn};

use super::shop::{Fate, Scripted};
use crate::text::Text;

/// Answers with the number of its run, or the code that it is asked for.
#[derive(Clone, Default)]
struct Payments {
    runs: Arc<AtomicUsize>,
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl ::tonic::server::UnaryService<String> for Payments {
    type Response = String;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Status>> + Send>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let run = this.runs.fetch_add(1, Ordering::SeqCst) + 1;
            let operation = Operation::take(request.extensions()).unwrap();
            let text = request.into_inner();
            match &*text {
                "waits" => {
                    this.begun.notify_one();
                    this.go_on.notified().await;
                }
                "panics" => panic!("scripted panic"),
                "did not happen" => operation.expect("it has a key").did_not_happen(),
                _ => {}
            }
            if let Ok(code) = text.parse::<i32>() {
                return Err(Status::new(Code::from_i32(code), format!("run {run}")));
            }
            let mut response = Response::new(format!("run {run} of {text}"));
            let value = MetadataValue::from_static("kept");
            response.metadata_mut().insert("x-metadata", value);
            Ok(response)
        })
    }
}

struct Served {
    channel: Channel,
    payments: Payments,
}

impl Served {
    async fn new(config: IdempotencyConfig) -> Self {
        Self::with(Scripted::new(|_, _| Fate::Done), config).await
    }

    async fn with(store: Scripted, config: IdempotencyConfig) -> Self {
        let payments = Payments::default();
        let generated = payments.clone();
        // What tonic generates is such a service.
        let generated = service_fn(move |request: http::Request<KeptBody<_>>| {
            let generated = generated.clone();
            async move {
                let mut server = ::tonic::server::Grpc::new(Text);
                Ok::<_, Infallible>(server.unary(generated, request).await)
            }
        });
        let layer = IdempotencyLayer::new("rpc", store, Scope::Global, config);
        let service = answer_grpc(layer.unwrap()).layer(generated);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(
                        TokioIo::new(stream),
                        TowerToHyperService::new(service.clone()),
                    );
                tokio::spawn(connection);
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect_lazy();
        Self { channel, payments }
    }

    async fn pay(&self, key: Option<&str>, text: &str) -> Result<Response<String>, Status> {
        pay(self.channel.clone(), key, text).await
    }

    fn runs(&self) -> usize {
        self.payments.runs.load(Ordering::SeqCst)
    }
}

async fn pay(channel: Channel, key: Option<&str>, text: &str) -> Result<Response<String>, Status> {
    let mut client = ::tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::from_error(BoxError::from(error)))?;
    let mut request = Request::new(text.to_owned());
    if let Some(key) = key {
        let key = format!("\"{key}\"").parse().unwrap();
        request.metadata_mut().insert("idempotency-key", key);
    }
    let path = PathAndQuery::from_static("/shop.Payments/Pay");
    client.unary(request, path, Text).await
}

const KEY: Option<&str> = Some("0123456789abcdef");

#[tokio::test]
async fn a_call_is_answered_again_with_its_metadata_and_its_status() {
    let served = Served::new(IdempotencyConfig::default()).await;
    for replayed in [false, true, true] {
        let response = served.pay(KEY, "ten").await.unwrap();
        assert_eq!(response.get_ref(), "run 1 of ten");
        let metadata = response.metadata();
        assert_eq!(metadata.get("x-metadata").unwrap(), "kept");
        assert_eq!(metadata.contains_key("idempotent-replayed"), replayed);
    }
    assert_eq!(served.runs(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_a_status() {
    let served = Served::new(IdempotencyConfig::default()).await;
    served.pay(KEY, "ten").await.unwrap();
    for (key, text, code) in [
        (None, "ten", Code::InvalidArgument),
        (Some("short"), "ten", Code::InvalidArgument),
        (KEY, "eleven", Code::InvalidArgument),
    ] {
        let status = served.pay(key, text).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains("idempotency `rpc`"), "{status:?}");
    }
    assert_eq!(served.runs(), 1);
    let down = Scripted::new(|_, _| Fate::Down);
    let served = Served::with(down, IdempotencyConfig::default()).await;
    let status = served.pay(KEY, "ten").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    assert_eq!(served.runs(), 0);
}

#[tokio::test]
async fn what_is_under_way_is_aborted_with_a_time_to_come_again() {
    let served = Served::new(IdempotencyConfig::default()).await;
    let first = tokio::spawn(pay_waiting(served.channel.clone()));
    served.payments.begun.notified().await;
    let status = served.pay(KEY, "waits").await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    served.payments.go_on.notify_one();
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.get_ref(), "run 1 of waits");
    let again = served.pay(KEY, "waits").await.unwrap();
    assert_eq!(again.get_ref(), "run 1 of waits");
}

async fn pay_waiting(channel: Channel) -> Result<Response<String>, Status> {
    pay(channel, KEY, "waits").await
}

#[tokio::test]
async fn a_call_goes_on_when_its_caller_leaves() {
    let served = Served::new(IdempotencyConfig::default()).await;
    let first = tokio::spawn(pay_waiting(served.channel.clone()));
    served.payments.begun.notified().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let status = served.pay(KEY, "waits").await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    served.payments.go_on.notify_one();
    // The record follows soon.
    let again = loop {
        match served.pay(KEY, "waits").await {
            Ok(again) => break again,
            Err(status) => assert_eq!(status.code(), Code::Aborted),
        }
    };
    assert_eq!(again.get_ref(), "run 1 of waits");
    assert_eq!(served.runs(), 1);
}

#[tokio::test]
async fn what_is_kept_follows_from_the_code() {
    // Of each policy the codes that free the key.
    for (policy, freed) in [
        (StoragePolicy::Definitive, &[8, 10][..]),
        (StoragePolicy::DeleteOnError, &[2, 8, 10, 13, 14, 15]),
        (
            StoragePolicy::SuccessOnly,
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        ),
    ] {
        let config = IdempotencyConfig::default().keep(policy);
        let served = Served::new(config).await;
        for code in 1..=16 {
            let key = format!("key-of-the-code-{code}");
            let before = served.runs();
            let first = served.pay(Some(&key), &code.to_string()).await.unwrap_err();
            let again = served.pay(Some(&key), &code.to_string()).await.unwrap_err();
            assert_eq!(first.code(), Code::from_i32(code));
            assert_eq!(again.code(), first.code(), "{policy:?}");
            let runs = if freed.contains(&code) { 2 } else { 1 };
            assert_eq!(served.runs() - before, runs, "{policy:?} {code}");
            if runs == 1 {
                assert_eq!(again.message(), first.message());
            }
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_an_internal_error_and_not_called_again() {
    let served = Served::new(IdempotencyConfig::default()).await;
    for _ in 0..2 {
        let status = served.pay(KEY, "panics").await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }
    assert_eq!(served.runs(), 1);
}

#[tokio::test]
async fn what_did_not_happen_is_run_again() {
    let served = Served::new(IdempotencyConfig::default()).await;
    for run in 1..=2 {
        let response = served.pay(KEY, "did not happen").await.unwrap();
        assert_eq!(
            response.into_inner(),
            format!("run {run} of did not happen")
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_went_well_as_far_as_is_known() {
    let config = IdempotencyConfig::default()
        .max_response_body(3)
        .keep(StoragePolicy::SuccessOnly);
    let served = Served::new(config).await;
    let first = served.pay(KEY, "ten").await.unwrap();
    assert_eq!(first.into_inner(), "run 1 of ten");
    let status = served.pay(KEY, "ten").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(served.runs(), 1);
}

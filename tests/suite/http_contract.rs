//! Every layer that HTTP adds, over one strict service: readiness, clones, cancellation and panics.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use buttress::Error;
use buttress::http::deadline::{
    DeadlineHeader, ExtractDeadlineConfig, ExtractDeadlineLayer, PropagateDeadlineLayer, Trust,
};
use buttress::http::{
    AttemptSpanLayer, ClientConfig, ConnectTimeoutLayer, HeaderTimeoutLayer, ServerConfig,
    TrustNotExecutedLayer, client, grpc, handle_rejections, server,
};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
use buttress::testing::{Step, Strict};
use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};

use crate::client::Broken;
use crate::common::{panics, poll};

type Inner<B, E> = Strict<Request<B>, Response<String>, E>;

fn request() -> Request<String> {
    let uri = "http://api.example.com/orders";
    Request::put(uri).body("two apples".to_owned()).unwrap()
}

fn inner<B, E: 'static>(step: fn() -> Step<Response<String>, E>) -> Inner<B, E> {
    Strict::new(move |_| step())
}

fn good<E>() -> Step<Response<String>, E> {
    Step::Answer(Ok(Response::new(String::new())))
}

/// For layers that return the service's readiness error.
async fn keeps_the_contract<L, B, E>(layer: L, fails: impl Fn() -> E)
where
    E: 'static,
    L: Layer<Inner<B, E>>,
    L::Service: Service<Request<String>> + Clone,
{
    let strict = inner(good);
    let mut service = layer.layer(strict.clone());
    strict.fail_ready_once(fails());
    let ready = poll(pin!(poll_fn(|cx| service.poll_ready(cx))));
    assert!(
        matches!(ready, std::task::Poll::Ready(Err(_))),
        "it is returned"
    );
    keeps_the_rest(&layer).await;
}

async fn keeps_the_rest<L, B, E>(layer: &L)
where
    E: 'static,
    L: Layer<Inner<B, E>>,
    L::Service: Service<Request<String>> + Clone,
{
    // Polled ready before each call, or the strict service panics.
    let strict = inner(good);
    let mut service = layer.layer(strict.clone());
    for _ in 0..3 {
        let Ok(ready) = service.ready().await else {
            panic!("it is ready");
        };
        assert!(ready.call(request()).await.is_ok());
    }
    // A ready instance can be called although it was cloned meanwhile; the clone is polled separately.
    assert!(service.ready().await.is_ok());
    let cloned = service.clone();
    assert!(service.call(request()).await.is_ok());
    assert!(cloned.oneshot(request()).await.is_ok());
    assert_eq!((strict.calls(), strict.live()), (5, 0));
    strict.pend_once();
    let ready = poll(pin!(poll_fn(|cx| service.poll_ready(cx))));
    assert!(ready.is_pending(), "it waits for the service");
    // Dropped before its first poll, and while it waits.
    let hangs = inner(|| Step::Hang);
    for polls in [0, 1] {
        let mut service = layer.layer(hangs.clone());
        assert!(service.ready().await.is_ok());
        let mut call = Box::pin(service.call(request()));
        for _ in 0..polls {
            assert!(poll(call.as_mut()).is_pending());
        }
        drop(call);
        assert_eq!(hangs.live(), 0, "after {polls} polls");
    }
    for step in [|| Step::Panic, || Step::PanicInCall] {
        let breaks = inner(step);
        let service = layer.layer(breaks.clone());
        assert!(panics(|| drop(poll(pin!(service.oneshot(request()))))));
        assert_eq!(breaks.live(), 0, "a panic propagates and leaks nothing");
    }
}

fn gone() -> Error<Broken> {
    Error::Inner(Broken)
}

#[tokio::test(start_paused = true)]
async fn layers_next_to_a_client_keep_the_contract() {
    for limit in [Duration::from_secs(1), Duration::MAX] {
        keeps_the_contract(HeaderTimeoutLayer::new("contract", limit), gone).await;
        keeps_the_contract(ConnectTimeoutLayer::new("contract").limit(limit), gone).await;
    }
    keeps_the_contract(TrustNotExecutedLayer::new([]), gone).await;
    keeps_the_contract(AttemptSpanLayer::new(), gone).await;
    keeps_the_contract(
        PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout),
        gone,
    )
    .await;
    let trusting = ExtractDeadlineConfig::new().trust(Trust::Everyone);
    keeps_the_contract(
        ExtractDeadlineLayer::new("contract", trusting).unwrap(),
        gone,
    )
    .await;
}

/// For unguarded requests: guarded ones run in a separate task.
#[tokio::test(start_paused = true)]
async fn an_idempotency_layer_keeps_the_contract() {
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("contract", MemoryStore::new(), Scope::Global, config);
    let layer = layer.unwrap();
    keeps_the_contract(layer.clone(), gone).await;
    keeps_the_contract(handle_rejections(layer), || "gone").await;
}

#[tokio::test(start_paused = true)]
async fn the_standard_stacks_keep_the_contract() {
    let never = Duration::MAX;
    for config in [
        ClientConfig::default(),
        ClientConfig::default().attempt(never).total(never),
    ] {
        keeps_the_contract(client("contract", config.clone()).unwrap(), || Broken).await;
        keeps_the_contract(grpc("contract", config).unwrap(), || Broken).await;
    }
    for config in [
        ServerConfig::default(),
        ServerConfig::default().timeout(never),
    ] {
        keeps_the_rest::<_, _, Infallible>(&server("contract", config).unwrap()).await;
    }
}

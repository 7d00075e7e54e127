//! The standard stack for calling a gRPC server.

use super::classify::ByGrpcStatus;
use crate::error::ConfigError;
use crate::http::deadline::DeadlineHeader;
use crate::http::replay::policy::Replay;
use crate::http::{ClientConfig, ClientLayer, client};

/// The standard stack in front of a gRPC client: [`client`](fn@crate::http::client) with gRPC's rules. [`ByGrpcStatus`]
/// classifies results, and [`Replay::grpc`] decides which calls are retried.
///
/// No method is retried until it is [named as idempotent](ClientLayer::idempotent). tonic's bodies need
/// [`map_request_body`](ClientLayer::map_request_body), and its clients expect statuses instead of errors: add
/// [`handle_grpc_rejections`](super::super::handle_grpc_rejections).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::http::{ClientConfig, handle_grpc_rejections, grpc};
/// use tonic::body::Body;
/// use tonic::transport::Endpoint;
/// use tower::Layer;
///
/// # struct OrdersClient<T>(T);
/// # impl<T: tonic::client::GrpcService<Body>> OrdersClient<T> { fn new(inner: T) -> Self { Self(inner) } }
/// let stack = grpc("shop", ClientConfig::default())?
///     .idempotent(["/shop.Orders/Get", "/shop.Catalog/"])?
///     .map_request_body(Body::new);
/// let channel = Endpoint::from_static("http://shop.internal:50051").connect_lazy();
/// let orders = OrdersClient::new(handle_grpc_rejections(stack).layer(channel));
/// # let _ = orders;
/// # Ok(()) }
/// ```
///
/// With tonic, enable the feature `tonic`. Without it, tonic's errors are foreign errors: a refused connection does not prove
/// that a call was not executed, and a call refused by an interceptor counts as a failure of the server.
///
/// A stream of messages is a body: `total` and `body_idle` bound it, unless the call is marked as
/// [streaming](crate::CallOptions::streams).
///
/// A call is judged by its status, which most responses carry in the trailers: the breaker, the retry budget and what
/// [`observe`](ClientConfig::observe) reports wait for it. Retries do not: they end when the response begins.
///
/// A client that tonic generated names no authority in its requests, so all the calls of a layer share one breaker and one
/// budget: create a layer for each server, or the clients `with_origin`. For gRPC's throttle instead of the standard
/// budget, set `config.budget(BudgetConfig::throttle(10, 0.1))`. `idempotency_keys` and `count_429` have no effect. The remaining time is
/// sent in `grpc-timeout`, unless the settings name another header. A `grpc-timeout` in the request, which
/// `tonic::Request::set_timeout` sets, shortens `total` in either case, and each attempt carries what is left of it.
///
/// # Errors
///
/// A setting that cannot work, as with [`client`](fn@crate::http::client).
#[track_caller]
pub fn grpc(
    name: &str,
    config: ClientConfig,
) -> Result<ClientLayer<Replay, ByGrpcStatus>, ConfigError> {
    let header = config.deadline_header.clone();
    let header = header.unwrap_or(DeadlineHeader::GrpcTimeout);
    let layer = client(name, config.deadline_header(header))?.reads_grpc_timeout();
    let no_method: [&str; 0] = [];
    layer
        .classify(ByGrpcStatus::new().remote(true))
        .map_errors_by()
        .idempotent(no_method)
}

impl<C: Clone, M> ClientLayer<Replay, C, M> {
    /// The gRPC methods that are safe to retry: see [`Replay::grpc`]. Call it before
    /// [`map_request_body`](Self::map_request_body).
    ///
    /// # Errors
    ///
    /// An entry is not a method path.
    pub fn idempotent<N: AsRef<str>>(
        mut self,
        methods: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let mut result = Ok(());
        self = self.replay(|replay| {
            let by_methods = replay.clone().grpc(methods);
            by_methods.unwrap_or_else(|error| {
                result = Err(error);
                replay
            })
        });
        result.map(|()| self)
    }
}

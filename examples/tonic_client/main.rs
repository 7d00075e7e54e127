//! A tonic client behind the standard stack: idempotent calls are retried, and rejected calls get a gRPC status.
//!
//! `cargo run --example tonic_client`, with `-- --quick` in a second.
#![expect(
    clippy::disallowed_methods,
    reason = "an application may read the clock"
)]

mod server;
mod text;

use std::time::Duration;

use buttress::BoxError;
use buttress::breaker::BreakerConfig;
use buttress::http::{ClientConfig, grpc, handle_grpc_rejections};
use http::uri::PathAndQuery;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tower::Layer;

use crate::server::Orders;
use crate::text::Text;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let quick = std::env::args().any(|flag| flag == "--quick");
    let unit = Duration::from_millis(if quick { 100 } else { 500 });
    let shop = Orders::default();
    let url = shop.serve().await?;

    let breaker = BreakerConfig::default()
        .consecutive_failures(Some(4))
        .consecutive_min_span(Duration::ZERO);
    let config = ClientConfig::default()
        .attempt(unit)
        .total(unit * 5)
        .breaker(breaker);
    let stack = grpc("orders", config)?
        .idempotent(["/shop.Orders/Get"])?
        .map_request_body(Body::new);
    let channel = Endpoint::from_shared(url)?
        .connect_timeout(Duration::from_secs(1))
        // Finds connections that died silently.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .connect_lazy();
    let mut orders = OrdersClient::new(handle_grpc_rejections(stack).layer(channel));

    for (what, method, day) in [
        ("It restarts, but Get may run twice:", GET, "a restart"),
        ("It restarts, and Create may not:", CREATE, "a restart"),
        (
            "The server requests a retry after 20 ms:",
            GET,
            "a busy day",
        ),
        ("The server does not respond:", CREATE, "a slow day"),
        ("It is down:", CREATE, "a bad day"),
        ("It is still down:", CREATE, "a bad day"),
        ("It is still down:", CREATE, "a bad day"),
        ("The circuit is open:", CREATE, "a bad day"),
    ] {
        println!("{what}");
        let start = Instant::now();
        let answer = orders.call(method, day).await;
        let (time, calls) = (start.elapsed(), shop.take_calls());
        let answer =
            answer.unwrap_or_else(|status| format!("{:?}: {}", status.code(), status.message()));
        println!("  {time:.1?}, {calls} call(s): {answer}");
    }
    Ok(())
}

const GET: &str = "/shop.Orders/Get";
const CREATE: &str = "/shop.Orders/Create";

/// The code that tonic generates from a `.proto`, reduced to one generic call.
struct OrdersClient<T> {
    inner: Grpc<T>,
}

impl<T> OrdersClient<T>
where
    T: GrpcService<Body, Error: Into<BoxError>>,
    T::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    fn new(inner: T) -> Self {
        let inner = Grpc::new(inner);
        Self { inner }
    }

    async fn call(&mut self, method: &'static str, day: &str) -> Result<String, Status> {
        let ready = self.inner.ready().await;
        ready.map_err(|error| Status::from_error(error.into()))?;
        let request = Request::new(day.to_owned());
        let path = PathAndQuery::from_static(method);
        Ok(self.inner.unary(request, path, Text).await?.into_inner())
    }
}

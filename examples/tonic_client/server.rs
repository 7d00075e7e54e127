//! A shop that has its bad days.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use buttress::BoxError;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use tower::Service;

use crate::text::Text;

/// The calls that reached it.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    calls: Arc<AtomicUsize>,
    method: String,
}

impl Orders {
    /// The number of calls since the last query.
    pub(crate) fn take_calls(&self) -> usize {
        self.calls.swap(0, Ordering::SeqCst)
    }

    /// Starts the server and returns its address. It runs until the process ends.
    pub(crate) async fn serve(&self) -> Result<String, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let orders = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let orders = orders.clone();
                let answer = hyper::service::service_fn(move |request: http::Request<_>| {
                    let orders = Self {
                        method: request.uri().path().to_owned(),
                        ..orders.clone()
                    };
                    async move {
                        let mut server = tonic::server::Grpc::new(Text);
                        Ok::<_, Infallible>(server.unary(orders, request).await)
                    }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(connection);
            }
        });
        Ok(url)
    }
}

impl Service<Request<String>> for Orders {
    type Response = Response<String>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let day = request.into_inner();
        let answer = format!("{} on {day}", self.method);
        Box::pin(async move {
            match (day.as_str(), calls) {
                ("a restart", 1) | ("a bad day", _) => Err(Status::unavailable("restarting")),
                ("a busy day", 1) => Err(busy()),
                ("a slow day", _) => pending().await,
                _ => Ok(Response::new(answer)),
            }
        })
    }
}

/// A status with a push-back of 20 ms.
fn busy() -> Status {
    let mut metadata = MetadataMap::new();
    let wait = MetadataValue::from_static("20");
    metadata.insert("grpc-retry-pushback-ms", wait);
    Status::with_metadata(Code::ResourceExhausted, "too many at once", metadata)
}

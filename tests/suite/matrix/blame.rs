//! Attribution of failures on the client's side, over HTTP/1 and HTTP/2: the results that the breaker counts, the balance of the
//! budget, and the number of attempts.

mod own;
mod peers;
mod redirects;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::http::{ClientConfig, ClientLayer};
use buttress::retry::RetryConfig;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tower::ServiceBuilder;
use tower::util::MapRequest;

/// The effects of calls on a stack.
#[derive(Debug, PartialEq)]
struct Saw {
    /// The number of calls of the inner client.
    attempts: usize,
    /// The results that the breakers have counted.
    counted: u32,
    /// How many of them were failures.
    failed: u32,
    /// Tenths of a token. There are 20 to begin with; a retry costs ten, a call that succeeds brings two.
    budget: i64,
}

impl Saw {
    /// Nothing was counted, no token was spent, nothing was retried.
    const fn nothing_in(calls: usize) -> Self {
        Self {
            attempts: calls,
            counted: 0,
            failed: 0,
            budget: 20,
        }
    }
}

/// Counts the attempts of a stack.
#[derive(Clone, Default)]
struct Attempts(Arc<AtomicUsize>);

impl Attempts {
    /// The same service, counted.
    fn of<S, R>(
        &self,
        service: S,
    ) -> MapRequest<S, impl Fn(R) -> R + Clone + Send + Sync + use<S, R>> {
        let count = Arc::clone(&self.0);
        let counted = move |request| {
            count.fetch_add(1, Ordering::Relaxed);
            request
        };
        ServiceBuilder::new().map_request(counted).service(service)
    }

    fn saw<R, C, E>(&self, layer: &ClientLayer<R, C, E>) -> Saw {
        let mut saw = Saw {
            attempts: self.0.load(Ordering::Relaxed),
            counted: 0,
            failed: 0,
            budget: 20,
        };
        for (_, breaker) in layer.breakers().unwrap().entries() {
            let snapshot = breaker.snapshot();
            saw.counted += snapshot.total;
            saw.failed += snapshot.failed;
        }
        for (_, budget) in layer.budgets().unwrap().entries() {
            #[expect(clippy::cast_possible_truncation, reason = "a few tokens")]
            let tenths = (budget.balance() * 10.0).round() as i64;
            saw.budget += tenths - 20;
        }
        saw
    }
}

/// Retries at once, with limits that a busy machine does not reach.
fn config() -> ClientConfig {
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let minute = Duration::from_secs(60);
    let mut config = ClientConfig::default()
        .retry(RetryConfig::default().backoff(at_once))
        .total(minute)
        .body_idle(minute);
    config.attempt = minute;
    config.breaker = config.breaker.map(|breaker| {
        breaker
            .probe_idle_timeout(minute)
            .window(buttress::breaker::Window::Time(2 * minute))
    });
    config
}

/// A server that reads requests to their end.
struct Server {
    address: SocketAddr,
    /// Notified of each request that it holds.
    holding: Arc<Notify>,
    /// A permit for each request that it holds.
    release: Arc<Semaphore>,
}

/// Starts a server that responds with 200, but to the first `held` requests only once they are released.
async fn server(http2: bool, held: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        holding: Arc::default(),
        release: Arc::new(Semaphore::new(0)),
    };
    let (holding, release) = (Arc::clone(&server.holding), Arc::clone(&server.release));
    let requests = Arc::new(AtomicUsize::new(0));
    let respond = move |request: Request<Incoming>| {
        let number = requests.fetch_add(1, Ordering::Relaxed);
        let (holding, release) = (Arc::clone(&holding), Arc::clone(&release));
        async move {
            request.into_body().collect().await?;
            if number < held {
                holding.notify_one();
                release.acquire().await.unwrap().forget();
            }
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from("ok"))))
        }
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = TokioIo::new(stream);
            let respond = hyper::service::service_fn(respond.clone());
            tokio::spawn(async move {
                // Clients that go away are a part of these tests.
                let _ = if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(stream, respond).await
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(stream, respond).await
                };
            });
        }
    });
    server
}

impl Server {
    fn request<B>(&self, method: &str, body: B) -> Request<B> {
        let uri = format!("http://{}/", self.address);
        Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .unwrap()
    }
}

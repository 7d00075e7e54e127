//! The cost of the standard client stack in use: hyper-util's client against a hyper server on loopback, bare and
//! through `http::client`.
//!
//! `cargo bench --bench http` prints a table and writes `target/http.json`; `-- --quick` only shows that it runs.

#![allow(missing_docs, reason = "a benchmark has no public items")]
#![allow(
    clippy::disallowed_methods,
    reason = "the benchmark measures elapsed time"
)]

mod support;

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use buttress::http::{ClientConfig, client};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt};

/// How much is measured.
struct Effort {
    /// Of both sides, one after the other.
    pairs: usize,
    /// In one round of one side, by all callers together.
    requests: usize,
}

/// Each sends its next request when it has read the last response.
const CALLERS: usize = 16;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick {
        Effort {
            pairs: 2,
            requests: 160,
        }
    } else {
        Effort {
            pairs: 101,
            requests: 3200,
        }
    };
    println!(
        "{:13} {:>14} {:>14} {:>9} {:>12} {:>12} {:>9}",
        "", "bare, req/s", "stack, req/s", "ratio", "bare, p99", "stack, p99", "ratio"
    );
    let rows: Vec<String> = [Proto::H1, Proto::H2]
        .into_iter()
        .flat_map(|proto| [(proto, Where::Apart), (proto, Where::Together)])
        .flat_map(|(proto, place)| compare(proto, place, &effort))
        .collect();
    support::write("http.json", &rows);
}

#[derive(Clone, Copy, Debug)]
enum Proto {
    H1,
    H2,
}

impl Proto {
    const fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
        }
    }
}

/// Where client and server run.
#[derive(Clone, Copy, Debug)]
enum Where {
    /// Each on a thread of its own: the client's is never idle, so all that the stack costs is seen.
    Apart,
    /// On the two threads of one runtime, as a service that calls another beside it.
    Together,
}

impl Where {
    const fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Together => "together",
        }
    }
}

/// Both sides through the same connections, in turns. The lines for the file.
fn compare(proto: Proto, place: Where, effort: &Effort) -> [String; 2] {
    let (runtime, address) = match place {
        Where::Apart => (runtime(), serve(proto)),
        Where::Together => {
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let (listener, address) = runtime.block_on(listen());
            runtime.spawn(accept(listener, proto));
            (runtime, address)
        }
    };
    let uri: Uri = format!("http://{address}/v1/orders/4711")
        .parse()
        .expect("a URL");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let bare = Client::builder(TokioExecutor::new())
        .http2_only(matches!(proto, Proto::H2))
        .retry_canceled_requests(false)
        .build(connector);
    let layer = client("bench", ClientConfig::default()).expect("a good configuration");
    let stack = layer.layer(bare.clone());

    let (mut bares, mut stacks) = (Vec::new(), Vec::new());
    for pair in 0..=effort.pairs {
        let mut of_bare = || bares.push(runtime.block_on(round(&bare, &uri, effort.requests)));
        let mut of_stack = || stacks.push(runtime.block_on(round(&stack, &uri, effort.requests)));
        // The second measurement may find warmer caches.
        if pair % 2 == 0 {
            of_bare();
            of_stack();
        } else {
            of_stack();
            of_bare();
        }
    }
    // The first pair has opened the connections.
    let (bare, stack) = (Figures::of(&bares[1..]), Figures::of(&stacks[1..]));
    println!(
        "{:3}{:10} {:14.0} {:14.0} {:8.1}% {:9.0} µs {:9.0} µs {:8.3}×",
        proto.name(),
        place.name(),
        bare.rps,
        stack.rps,
        100.0 * stack.rps / bare.rps,
        bare.p99,
        stack.p99,
        stack.p99 / bare.p99,
    );
    [("bare", bare), ("stack", stack)].map(|(side, figures)| {
        format!(
            r#"{{"proto":"{}","place":"{}","side":"{side}","rps":{:.0},"p50_us":{:.1},"p99_us":{:.1}}}"#,
            proto.name(),
            place.name(),
            figures.rps,
            figures.p50,
            figures.p99
        )
    })
}

struct Round {
    took: Duration,
    /// Of every request, the shortest first.
    latencies: Vec<Duration>,
}

/// So many requests by all callers together, each read to the end of its body.
async fn round<S, B>(service: &S, uri: &Uri, requests: usize) -> Round
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Debug>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error: Debug, Data: Send> + Send,
{
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut service, uri) = (service.clone(), uri.clone());
        callers.spawn(async move {
            let mut latencies = Vec::with_capacity(requests / CALLERS);
            for _ in 0..requests / CALLERS {
                let sent = Instant::now();
                let request = Request::get(uri.clone())
                    .header("accept", "application/json")
                    .header("authorization", "Bearer 0123456789abcdef0123456789abcdef")
                    .body(Empty::new())
                    .expect("a request");
                let ready = service.ready().await.expect("a client that is ready");
                let response = ready.call(request).await.expect("a response");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a body");
                latencies.push(sent.elapsed());
            }
            latencies
        });
    }
    let mut latencies = callers.join_all().await.concat();
    let took = started.elapsed();
    latencies.sort_unstable();
    Round { took, latencies }
}

/// The medians of many rounds, times in microseconds.
struct Figures {
    rps: f64,
    p50: f64,
    p99: f64,
}

impl Figures {
    fn of(rounds: &[Round]) -> Self {
        let median = |of: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let percentile = |percent: usize| {
            median(&|round| {
                let at = (round.latencies.len() * percent / 100).min(round.latencies.len() - 1);
                round.latencies[at].as_secs_f64() * 1e6
            })
        };
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let rps = median(&|round| round.latencies.len() as f64 / round.took.as_secs_f64());
        Self {
            rps,
            p50: percentile(50),
            p99: percentile(99),
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A server on a thread of its own, which lives as long as the process.
fn serve(proto: Proto) -> SocketAddr {
    let runtime = runtime();
    let (listener, address) = runtime.block_on(listen());
    thread::spawn(move || runtime.block_on(accept(listener, proto)));
    address
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn accept(listener: TcpListener, proto: Proto) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(answer(stream, proto));
    }
}

async fn answer(stream: TcpStream, proto: Proto) {
    stream.set_nodelay(true).expect("an open socket");
    let order = service_fn(async |_: Request<Incoming>| {
        let body = Full::new(Bytes::from_static(
            br#"{"order":4711,"state":"shipped","items":["arch","pier"]}"#,
        ));
        Ok::<_, Infallible>(Response::new(body))
    });
    let io = TokioIo::new(stream);
    // It ends with an error when the client goes away.
    let _ = match proto {
        Proto::H1 => {
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(io, order)
                .await
        }
        Proto::H2 => {
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(io, order)
                .await
        }
    };
}

//! A caller, a service and the service behind it, over real connections: the remaining time is sent with the call.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use buttress::http::client::ClientService;
use buttress::http::deadline::{
    DeadlineHeader, ExtractDeadlineConfig, PropagateDeadlineLayer, Trust,
};
use buttress::http::{ClientConfig, ServerConfig, client, server};
use buttress::reqwest::SendThrough;
use buttress::{Error, Reason};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::Layer;

use crate::common::SECOND;

const HEADER: DeadlineHeader = DeadlineHeader::GrpcTimeout;

/// What happens in the services, in order.
#[derive(Debug, PartialEq)]
enum Happened {
    /// A handler began, and its request had so much time left.
    Began(&'static str, Option<Duration>),
    /// A handler was dropped before its end.
    Dropped(&'static str),
    Ended(&'static str),
}

/// A handler at work.
struct Work(&'static str, UnboundedSender<Happened>, bool);

impl Work {
    fn begin(who: &'static str, report: &UnboundedSender<Happened>, headers: &HeaderMap) -> Self {
        report
            .send(Happened::Began(who, HEADER.read(headers)))
            .unwrap();
        Self(who, report.clone(), false)
    }

    fn end(mut self) {
        self.2 = true;
        let _ = self.1.send(Happened::Ended(self.0));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.2 {
            let _ = self.1.send(Happened::Dropped(self.0));
        }
    }
}

type Outgoing = ClientService<<PropagateDeadlineLayer as Layer<reqwest::Client>>::Service>;

fn plain() -> reqwest::Client {
    let builder = reqwest::Client::builder().retry(reqwest::retry::never());
    builder.no_proxy().build().unwrap()
}

/// reqwest behind the standard stack, which bounds each call by this and sends the remaining time.
fn calls(name: &str, total: Duration) -> Outgoing {
    let config = ClientConfig::default()
        .attempt(total)
        .total(total)
        .breaker(None);
    let out = PropagateDeadlineLayer::new(HEADER).layer(plain());
    client(name, config).unwrap().layer(out)
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// The standard stack, which has no limit but the callers'.
fn stack(name: &str, trust: Trust) -> buttress::http::ServerLayer {
    let deadline = ExtractDeadlineConfig::new().trust(trust);
    let config = ServerConfig::default().timeout(Duration::MAX);
    server(name, config.deadline(deadline)).unwrap()
}

/// The state of the first service: its client, the URL it calls, and where it reports.
#[derive(Clone)]
struct First {
    outgoing: Outgoing,
    second: String,
    report: UnboundedSender<Happened>,
}

/// A handler without a line of code for deadlines.
async fn first(State(own): State<First>, headers: HeaderMap) -> Result<String, StatusCode> {
    let work = Work::begin("first", &own.report, &headers);
    let request = plain().get(&own.second);
    let response = request.send_through(&own.outgoing).await;
    let response = response.map_err(|_| StatusCode::GATEWAY_TIMEOUT)?;
    work.end();
    Ok(response.text().await.unwrap())
}

/// The last service: responds at `/`, hangs at `/hangs`.
async fn second(
    State(report): State<UnboundedSender<Happened>>,
    headers: HeaderMap,
) -> &'static str {
    Work::begin("second", &report, &headers).end();
    "done"
}

async fn hangs(
    State(report): State<UnboundedSender<Happened>>,
    headers: HeaderMap,
) -> &'static str {
    let work = Work::begin("second", &report, &headers);
    std::future::pending::<()>().await;
    work.end();
    "done"
}

/// The two services; the first one trusts these callers and calls this path of the second.
async fn services(trust: Trust, path: &str) -> (String, UnboundedReceiver<Happened>) {
    let (report, happened) = unbounded_channel();
    let last = Router::new()
        .route("/", get(second))
        .route("/hangs", get(hangs))
        .layer(stack("hops.second", Trust::Everyone))
        .with_state(report.clone());
    let own = First {
        outgoing: calls("hops.first", Duration::MAX),
        second: format!("http://{}{path}", serve(last).await),
        report,
    };
    let app = Router::new()
        .route("/", get(first))
        .layer(stack("hops.first", trust))
        .with_state(own);
    (format!("http://{}/", serve(app).await), happened)
}

/// The remaining times when the handlers began, first and second.
async fn began(happened: &mut UnboundedReceiver<Happened>) -> [Option<Duration>; 2] {
    let mut all = [None; 2];
    for (left, who) in all.iter_mut().zip(["first", "second"]) {
        match happened.recv().await {
            Some(Happened::Began(name, time)) if name == who => *left = time,
            other => panic!("{other:?} instead of the beginning of {who}"),
        }
    }
    all
}

#[tokio::test]
async fn the_remaining_time_shrinks_from_hop_to_hop() {
    let (url, mut happened) = services(Trust::Everyone, "/").await;
    let caller = calls("hops.caller", 60 * SECOND);
    let response = plain().get(url).send_through(&caller).await;
    assert_eq!(response.unwrap().text().await.unwrap(), "done");
    let [Some(first), Some(second)] = began(&mut happened).await else {
        panic!("no time was sent")
    };
    assert!(60 * SECOND > first, "{first:?} at the first hop");
    assert!(
        first > second,
        "{second:?} at the second hop after {first:?}"
    );
    assert!(second > Duration::ZERO);
}

/// Both handlers have been dropped where they were, and neither has gone on.
async fn both_were_dropped(mut happened: UnboundedReceiver<Happened>) {
    let mut dropped = Vec::new();
    for _ in 0..2 {
        match happened.recv().await {
            Some(Happened::Dropped(who)) => dropped.push(who),
            other => panic!("{other:?} after the caller gave up"),
        }
    }
    dropped.sort_unstable();
    assert_eq!(dropped, ["first", "second"]);
}

#[tokio::test]
async fn no_handler_continues_after_the_caller_gave_up() {
    let (url, mut happened) = services(Trust::Everyone, "/hangs").await;
    let caller = calls("hops.impatient", 2 * SECOND);
    let late = plain().get(url).send_through(&caller);
    let (late, _) = tokio::join!(late, began(&mut happened));
    match late {
        // Or the service was quicker.
        Ok(response) => assert_eq!(response.status(), 504),
        Err(Error::Rejected(rejected)) => assert_eq!(rejected.reason, Reason::Deadline),
        Err(other) => panic!("{other:?}"),
    }
    both_were_dropped(happened).await;
}

#[tokio::test]
async fn it_is_the_header_that_ends_the_work_not_the_end_of_the_connection() {
    let (url, mut happened) = services(Trust::Everyone, "/hangs").await;
    // It has no timeout.
    let request = plain().get(url).header("grpc-timeout", "2S");
    let (response, [first, second]) = tokio::join!(request.send(), began(&mut happened));
    assert_eq!(first, Some(2 * SECOND));
    assert!(second.is_some_and(|left| left < 2 * SECOND), "{second:?}");
    assert_eq!(response.unwrap().status(), 504);
    both_were_dropped(happened).await;
}

#[tokio::test]
async fn a_request_that_comes_too_late_reaches_no_handler() {
    let (url, mut happened) = services(Trust::Everyone, "/").await;
    let request = plain().get(url).header("grpc-timeout", "0n");
    assert_eq!(request.send().await.unwrap().status(), 504);
    assert!(happened.try_recv().is_err());
}

#[tokio::test]
async fn a_strangers_header_is_ignored() {
    let (url, mut happened) = services(Trust::Nobody, "/").await;
    let request = plain().get(url).header("grpc-timeout", "0n");
    let response = request.send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "done");
    // The first service gets the header; the second one gets none.
    assert_eq!(began(&mut happened).await, [Some(Duration::ZERO), None]);
}

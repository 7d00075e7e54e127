//! How often each kind of request is sent after each kind of failure, against real HTTP/1 and HTTP/2 servers that fail on
//! command. The table is `matrix.json`.

mod blame;
mod server;

use std::collections::BTreeMap;
use std::convert::identity;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::Error;
use buttress::backoff::{Backoff, Jitter};
use buttress::http::{ClientConfig, IdempotencyKeys, client};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::RetryConfig;
use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

use self::server::{Fault, Server};

#[derive(Deserialize)]
struct Table {
    classes: Vec<Class>,
    rows: Vec<Row>,
}

/// A class of requests with the same rules.
#[derive(Deserialize)]
struct Class {
    name: String,
    methods: Vec<String>,
    key: Option<Key>,
    #[serde(default)]
    honored: bool,
    #[serde(default)]
    proxy: bool,
    /// Whether its body cannot be cloned.
    #[serde(default)]
    streamed: bool,
}

/// The origin of a request's idempotency key.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Key {
    Generated,
    Own,
}

#[derive(Deserialize)]
struct Row {
    fault: Fault,
    protocols: Vec<String>,
    /// Whether the first request may have been executed.
    state: String,
    /// How often each class is sent, by its name. Without classes that depend on timing: how much of a streamed body was read
    /// when an early response arrives.
    sent: BTreeMap<String, usize>,
    /// The result of a call that is not retried; a retried call gets a 200.
    alone: String,
    /// The number of connections of a retried call.
    connections: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_sent_as_often_as_the_table_says() {
    let table: Table = serde_json::from_str(include_str!("matrix.json")).unwrap();
    let mut calls = tokio::task::JoinSet::new();
    // A few at a time: a machine that is too busy to answer looks like a server that stalls.
    let turns = Arc::new(Semaphore::new(32));
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in &table.rows {
        for protocol in &row.protocols {
            for class in &table.classes {
                let Some(&sent) = row.sent.get(&class.name) else {
                    assert!(class.streamed && matches!(row.fault, Fault::AnswerEarly(_)));
                    continue;
                };
                for method in &class.methods {
                    let what = format!(
                        "{:?} ({}) over {protocol}: {method}, {}",
                        row.fault, row.state, class.name
                    );
                    let expected = Came {
                        sent,
                        to: match (sent, method.as_str()) {
                            // There is no body to be cut in half.
                            (1, "HEAD") if protocol == "h1" => row.alone.replace(", half", ""),
                            (1, _) => row.alone.clone(),
                            _ => "200".to_owned(),
                        },
                        connections: match &row.fault {
                            Fault::Refuse => sent - 1,
                            _ if sent > 1 => row.connections,
                            _ => 1,
                        },
                        alike: true,
                    };
                    let case = Case::new(row, class, method, protocol == "h2");
                    count += 1;
                    let turns = Arc::clone(&turns);
                    calls.spawn(async move {
                        let _turn = turns.acquire().await;
                        (what, expected, case.run().await)
                    });
                }
            }
        }
    }
    while let Some(done) = calls.join_next().await {
        let (what, expected, came) = done.unwrap();
        if came != expected {
            wrong.push(format!(
                "{what}\n    expected {expected:?}\n    but      {came:?}"
            ));
        }
    }
    wrong.sort();
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The result of a call.
#[derive(Debug, PartialEq)]
struct Came {
    sent: usize,
    to: String,
    connections: usize,
    /// Whether all complete requests were equal, key and body included.
    alike: bool,
}

struct Case {
    fault: Fault,
    http2: bool,
    method: Method,
    key: Option<Key>,
    streamed: bool,
    config: ClientConfig,
}

impl Case {
    fn new(row: &Row, class: &Class, method: &str, http2: bool) -> Self {
        let at_once = Backoff::constant(Duration::from_millis(1)).jitter(Jitter::None);
        // Only what stalls needs a limit, and machines may be slow.
        let attempt = match row.fault {
            Fault::Stall => Duration::from_millis(1500),
            _ => Duration::from_secs(5),
        };
        let mut config = ClientConfig::default()
            .attempt(attempt)
            .retry(RetryConfig::default().backoff(at_once))
            .proxy(class.proxy);
        if class.honored {
            config = config.idempotency_keys(IdempotencyKeys::Honored);
        }
        Self {
            fault: row.fault.clone(),
            http2,
            method: method.parse().unwrap(),
            key: class.key,
            streamed: class.streamed,
            config,
        }
    }

    async fn run(self) -> Came {
        let server = server::start(&self.fault, self.http2).await;
        let layer = client("matrix", self.config.clone()).unwrap();
        // Generated outside, where it says nothing about who honors it.
        let key = IdempotencyKeyLayer::new().generate(self.key == Some(Key::Generated));
        let order = Full::new(Bytes::from("two apples"));
        let to = if self.streamed {
            let stack = layer
                .replay(|replay| replay.map_request_body(identity))
                .layer(self.hyper(&server));
            let order = UnsyncBoxBody::new(order);
            outcome(key.layer(stack).oneshot(self.request(&server, order)).await).await
        } else {
            let stack = layer.layer(self.hyper(&server));
            outcome(key.layer(stack).oneshot(self.request(&server, order)).await).await
        };
        Came::new(&server, to, &self.fault)
    }

    fn hyper<B>(&self, server: &Server) -> Client<Connector, B>
    where
        B: Body<Data: Send> + Send,
    {
        let connector = Connector {
            http: HttpConnector::new(),
            first: Arc::new(Mutex::new(Some(server.first))),
        };
        Client::builder(TokioExecutor::new())
            .http2_only(self.http2)
            .retry_canceled_requests(false)
            .build(connector)
    }

    fn request<B>(&self, server: &Server, order: B) -> Request<B> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(format!("http://{}/order", server.address))
            .body(order)
            .unwrap();
        if self.key == Some(Key::Own) {
            let key = "\"the-order-of-two-apples\"".parse().unwrap();
            request.headers_mut().insert("idempotency-key", key);
        }
        request
    }
}

async fn outcome<B: Body, E>(result: Result<Response<B>, Error<E>>) -> String {
    match result {
        Err(Error::Rejected(rejected)) => format!("{:?}", rejected.reason),
        Err(Error::Inner(_)) => "error".to_owned(),
        Ok(response) => {
            let status = response.status().as_u16().to_string();
            match response.into_body().collect().await {
                Ok(_) => status,
                Err(_) => format!("{status}, half"),
            }
        }
    }
}

impl Came {
    fn new(server: &Server, to: String, fault: &Fault) -> Self {
        let seen = server.seen.lock().unwrap();
        let refused = usize::from(matches!(fault, Fault::Refuse));
        let mut whole = seen
            .requests
            .iter()
            .filter(|request| request.ends_with("apples"));
        let first = whole.next();
        Self {
            sent: seen.requests.len() + refused,
            to,
            connections: seen.connections,
            alike: whole.all(|request| Some(request) == first),
        }
    }
}

/// Connects elsewhere the first time.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    first: Arc<Mutex<Option<SocketAddr>>>,
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = <HttpConnector as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self.first.lock().unwrap().take() {
            Some(first) => self.http.call(format!("http://{first}/").parse().unwrap()),
            None => self.http.call(uri),
        }
    }
}

//! What is sent how often: methods × outcomes × what is known to have happened, against real HTTP/1 and HTTP/2 servers that
//! fail on command. The table is `matrix.json`.

mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::Backoff;
use buttress::backoff::Jitter;
use buttress::http::{ClientConfig, Keys, client};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::RetryConfig;
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tower::{Layer, Service, ServiceExt};

use self::server::{Fault, Server};

#[derive(Deserialize)]
struct Table {
    classes: Vec<Class>,
    rows: Vec<Row>,
}

/// Requests that are treated alike.
#[derive(Deserialize)]
struct Class {
    name: String,
    methods: Vec<String>,
    key: Option<Key>,
    #[serde(default)]
    honoured: bool,
    #[serde(default)]
    proxy: bool,
}

/// Where a request's idempotency key comes from.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Key {
    Minted,
    Own,
}

#[derive(Deserialize)]
struct Row {
    fault: Fault,
    protocols: Vec<String>,
    /// What is known of the first request once it has failed.
    state: String,
    /// How often each class is sent, by its name.
    sent: BTreeMap<String, usize>,
    /// What a call comes to that is not repeated; one that is repeated comes to 200.
    alone: String,
    /// How many connections a repeated call takes.
    connections: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_sent_as_often_as_it_may_be() {
    let table: Table = serde_json::from_str(include_str!("matrix.json")).unwrap();
    let mut calls = tokio::task::JoinSet::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in &table.rows {
        for protocol in &row.protocols {
            for class in &table.classes {
                let sent = row.sent[&class.name];
                for method in &class.methods {
                    let what = format!(
                        "{:?} ({}) over {protocol}: {method}, {}",
                        row.fault, row.state, class.name
                    );
                    let expected = Came {
                        sent,
                        to: match (sent, method.as_str()) {
                            // There is no body to be cut in half.
                            (1, "HEAD") => row.alone.replace(", half", ""),
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
                    calls.spawn(async move { (what, expected, case.run().await) });
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

/// What a call came to.
#[derive(Debug, PartialEq)]
struct Came {
    sent: usize,
    to: String,
    connections: usize,
    /// Whether every request that was seen whole was the same, key and body included.
    alike: bool,
}

struct Case {
    fault: Fault,
    http2: bool,
    method: Method,
    key: Option<Key>,
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
        if class.honoured {
            config = config.keys(Keys::Honoured);
        }
        Self {
            fault: row.fault.clone(),
            http2,
            method: method.parse().unwrap(),
            key: class.key,
            config,
        }
    }

    async fn run(self) -> Came {
        let server = server::start(&self.fault, self.http2).await;
        let connector = Connector {
            http: HttpConnector::new(),
            first: Arc::new(Mutex::new(Some(server.first))),
        };
        let hyper = Client::builder(TokioExecutor::new())
            .http2_only(self.http2)
            .retry_canceled_requests(false)
            .build::<_, Full<Bytes>>(connector);
        let stack = client("matrix", self.config).unwrap().layer(hyper);
        // Minted outside, where it says nothing about who honours it.
        let service = IdempotencyKeyLayer::new()
            .mint(self.key == Some(Key::Minted))
            .layer(stack);
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("http://{}/order", server.address))
            .body(Full::from("two apples"))
            .unwrap();
        if self.key == Some(Key::Own) {
            let key = "\"the-order-of-two-apples\"".parse().unwrap();
            request.headers_mut().insert("idempotency-key", key);
        }
        let to = match service.oneshot(request).await {
            Err(buttress::Error::Rejected(rejected)) => format!("{:?}", rejected.reason),
            Err(buttress::Error::Inner(_)) => "error".to_owned(),
            Ok(response) => {
                let status = response.status().as_u16().to_string();
                match response.into_body().collect().await {
                    Ok(_) => status,
                    Err(_) => format!("{status}, half"),
                }
            }
        };
        Came::new(&server, to, self.fault)
    }
}

impl Came {
    fn new(server: &Server, to: String, fault: Fault) -> Self {
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

//! `buttress::reqwest::Client`, over real connections.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get};
use buttress::http::{ClientConfig, IdempotencyKeys, Redirects};
use buttress::reqwest::Client;
use buttress::retry::RetryConfig;
use buttress::{CallOptions, Error, Executed, Reason};
use http_body_util::BodyExt;
use tokio::net::TcpListener;

use crate::common::{MS, SECOND};

/// A server that responds with what it received: method, path and query, headers, body.
#[derive(Clone, Default)]
struct Echo {
    calls: Arc<AtomicUsize>,
    /// How many of the first calls fail with 503.
    failing: usize,
}

impl Echo {
    async fn serve(self) -> SocketAddr {
        let echo = move |request: Request| {
            let this = self.clone();
            async move { this.respond(request).await }
        };
        let routes = Router::new()
            .route("/moved", get(|| async { Redirect::to("/v1/orders") }))
            .route(
                "/elsewhere",
                get(|| async { Redirect::to("http://other.invalid/") }),
            )
            .fallback(any(echo));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    async fn respond(&self, request: Request) -> Response {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call < self.failing {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut text = format!("{} {}\n", head.method, head.uri);
        for name in ["authorization", "content-type", "x-a", "idempotency-key"] {
            if let Some(value) = head.headers.get(name) {
                let value = value.to_str().unwrap();
                writeln!(text, "{name}: {value}").unwrap();
            }
        }
        (text + std::str::from_utf8(&body).unwrap()).into_response()
    }
}

fn client(name: &str, address: SocketAddr, config: ClientConfig) -> Client {
    let client = Client::builder(name)
        .config(config)
        .base_url(format!("http://{address}/v1"));
    client.build().unwrap()
}

async fn text(request: buttress::reqwest::RequestBuilder) -> String {
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_request_passes_the_stack() {
    let echo = Echo {
        failing: 1,
        ..Echo::default()
    };
    let calls = Arc::clone(&echo.calls);
    let client = client("passes", echo.serve().await, ClientConfig::default());
    assert_eq!(
        text(client.get("orders/7?full=1")).await,
        "GET /v1/orders/7?full=1\n"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 2, "the 503 is retried");
    let request = reqwest::Request::new(
        reqwest::Method::GET,
        client
            .get("/a")
            .map(|request| request)
            .send()
            .await
            .unwrap()
            .url()
            .clone(),
    );
    let response = client.execute(request).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "GET /v1/a\n");
}

#[tokio::test]
async fn every_part_of_a_request_arrives() {
    let client = client(
        "parts",
        Echo::default().serve().await,
        ClientConfig::default(),
    );
    for (request, expected) in [
        (
            client.put("/a").json(&["x"]).header("x-a", "1"),
            "PUT /v1/a\ncontent-type: application/json\nx-a: 1\n[\"x\"]",
        ),
        (
            client
                .patch("a/")
                .form(&[("b", "c d")])
                .idempotency_key("k"),
            "PATCH /v1/a/\ncontent-type: application/x-www-form-urlencoded\nidempotency-key: \"k\"\nb=c+d",
        ),
        (
            client.delete("a").query(&[("q", 1)]).bearer_auth("t"),
            "DELETE /v1/a?q=1\nauthorization: Bearer t\n",
        ),
        (
            client.get("").basic_auth("u", Some("p")),
            "GET /v1/\nauthorization: Basic dTpw\n",
        ),
        (
            client
                .post("a")
                .headers(
                    [("x-a".parse().unwrap(), "2".parse().unwrap())]
                        .into_iter()
                        .collect(),
                )
                .options(CallOptions::new().idempotency_key("key"))
                .body("text"),
            "POST /v1/a\nx-a: 2\nidempotency-key: \"key\"\ntext",
        ),
    ] {
        assert_eq!(text(request).await, expected);
    }
    let response = client.head("a").send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_post_is_retried_where_keys_are_honored() {
    let echo = Echo {
        failing: 1,
        ..Echo::default()
    };
    let calls = Arc::clone(&echo.calls);
    let config = ClientConfig::default().idempotency_keys(IdempotencyKeys::Honored);
    let client = client("honored", echo.serve().await, config);
    let charged = text(client.post("charges").body("7 EUR")).await;
    assert!(charged.contains("idempotency-key: \""), "{charged}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_timeout_replaces_the_total_of_the_client() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ClientConfig::default()
        .attempt(SECOND)
        .total(SECOND)
        .retry(None);
    let client = client("impatient", silent.local_addr().unwrap(), config);
    let late = client.get("a").timeout(50 * MS).send().await;
    match late.unwrap_err() {
        Error::Rejected(rejected) => assert_eq!(rejected.reason, Reason::Deadline),
        other @ Error::Inner(_) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn own_retries_and_redirects_to_other_servers_stay_off() {
    let address = Echo::default().serve().await;
    let client = Client::builder("redirected")
        .base_url(format!("http://{address}"))
        .reqwest(|reqwest| reqwest.redirect(reqwest::redirect::Policy::limited(10)))
        .build()
        .unwrap();
    assert_eq!(text(client.get("moved")).await, "GET /v1/orders\n");
    let elsewhere = client.get("elsewhere").send().await.unwrap();
    assert_eq!(elsewhere.status(), 303);
    let config = ClientConfig::default().redirects(Redirects::None);
    let none = Client::new("follows-none", config).unwrap();
    let moved = none.get(format!("http://{address}/moved")).send().await;
    assert_eq!(moved.unwrap().status(), 303);
}

#[tokio::test]
async fn settings_change_without_a_new_client() {
    let echo = Echo {
        failing: 2,
        ..Echo::default()
    };
    let calls = Arc::clone(&echo.calls);
    let client = client("changes", echo.serve().await, ClientConfig::default());
    let other = client.clone();
    let once = RetryConfig::default().max_attempts(1);
    other
        .reconfigure(ClientConfig::default().retry(once))
        .unwrap();
    assert_eq!(client.get("a").send().await.unwrap().status(), 503);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_base_url_is_checked() {
    let whole = "must be an absolute URL, such as \"https://api.example.com/v1\"";
    let scheme = "must be a URL that starts with http:// or https://";
    for (url, expected) in [
        ("", whole),
        ("api.example.com/v1", whole),
        ("/v1", whole),
        ("http://", whole),
        ("localhost:8080", scheme),
        ("ftp://api.example.com", scheme),
        (
            "http://h/?q=1",
            "must be a URL without a query and a fragment",
        ),
        ("https://h", "has no TLS; run `cargo add reqwest@0.13`"),
    ] {
        let error = Client::builder("based").base_url(url).build().unwrap_err();
        assert_eq!(error.field, "base_url");
        assert_eq!(error.owner.as_deref(), Some("client `based`"));
        assert!(error.to_string().contains(expected), "{error}");
    }
    let secret = Client::builder("secret").base_url("http://me:secret@h/");
    let shown = format!(
        "{secret:?} {:?}",
        Client::builder("secret")
            .base_url("http://me:secret@h/")
            .build()
    );
    assert!(
        shown.contains("(not shown)") && !shown.contains("me:secret"),
        "{shown}"
    );
    let error = Client::builder("secret")
        .base_url("ftp://me:secret@h/")
        .build();
    assert!(!error.unwrap_err().to_string().contains("me:secret"));
    let error = Client::new("", ClientConfig::default()).unwrap_err();
    assert_eq!(error.field, "name");
    let agent = |reqwest: reqwest::ClientBuilder| reqwest.user_agent("\n");
    let error = Client::builder("agent").reqwest(agent).build().unwrap_err();
    assert_eq!(error.field, "reqwest");
    assert_eq!(
        error.value,
        "\"builder error: failed to parse header value\""
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_says_what_to_write() {
    let client = Client::new("unsent", ClientConfig::default()).unwrap();
    for (url, expected) in [
        (
            "orders/7?token=secret",
            "`orders/7` is a relative URL; write the whole URL, or set",
        ),
        ("https://api.example.com/", "run `cargo add reqwest@0.13`"),
    ] {
        match client.get(url).send().await.unwrap_err() {
            Error::Rejected(rejected) => {
                assert_eq!(rejected.executed, Executed::No);
                let shown = rejected.to_string();
                assert!(
                    shown.contains(expected) && !shown.contains("secret"),
                    "{shown}"
                );
            }
            other @ Error::Inner(_) => panic!("{url}: {other:?}"),
        }
    }
    let error = client.get("//me:secret@h/").send().await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected(it) if !it.to_string().contains("secret")),
        "{error:?}"
    );
    for url in ["localhost:8080/a", "http://[", "http:///"] {
        let error = client.get(url).send().await.unwrap_err();
        assert!(
            matches!(&error, Error::Inner(error) if error.is_builder()),
            "{url}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_call_runs_in_a_task_of_its_own() {
    let client = client(
        "spawned",
        Echo::default().serve().await,
        ClientConfig::default(),
    );
    let sent = client.get("a").send();
    drop(client);
    let response = tokio::spawn(sent).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
}

//! reqwest over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Redirect;
use axum::routing::{any, post};
use buttress::backoff::{Backoff, Jitter};
use buttress::http::{ClientConfig, ErrorOutcome, Redirects};
use buttress::reqwest::{SendThrough, same_origin_redirects};
use buttress::retry::RetryConfig;
use buttress::{Error, Outcome, Reason, Rejected, RetryAdvice, Unprocessed};
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tower::Layer;

use crate::http::{Does, NOT_CONNECTED, nobody, server};

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().retry(reqwest::retry::never())
}

fn client() -> reqwest::Client {
    builder().build().unwrap()
}

async fn error(client: reqwest::Client, does: Does) -> reqwest::Error {
    let url = format!("http://{}/", server(does).await);
    client.get(url).send().await.unwrap_err()
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_not_executed() {
    struct NoNames;
    impl reqwest::dns::Resolve for NoNames {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(std::future::ready(Err("no such name".into())))
        }
    }
    let client = builder().dns_resolver(NoNames).build().unwrap();
    let error = client.get("http://nowhere.invalid/").send().await;
    assert_eq!(error.unwrap_err().outcome(), NOT_CONNECTED);
}

#[tokio::test]
async fn a_request_that_fails_after_it_was_sent_may_have_been_executed() {
    for does in [Does::Close, Does::Reset, Does::Respond(b"nonsense\r\n\r\n")] {
        assert_eq!(
            error(client(), does).await.outcome(),
            Outcome::TRANSIENT,
            "{does:?}"
        );
    }
    let impatient = builder()
        .timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let late = error(impatient, Does::Hang).await;
    assert!(late.is_timeout());
    assert_eq!(late.outcome(), Outcome::TRANSIENT);
}

#[tokio::test]
async fn a_stream_that_the_server_did_not_process_is_unprocessed() {
    for (does, how) in [
        (Does::Refuse, Unprocessed::StreamRefused),
        (Does::GoAway, Unprocessed::ConnectionClosing),
    ] {
        let client = builder().http2_prior_knowledge().build().unwrap();
        let outcome = error(client, does).await.outcome();
        assert_eq!(outcome, Outcome::unprocessed(how), "{does:?}");
    }
}

#[tokio::test]
async fn errors_of_the_caller_are_permanent() {
    const LOOP: &[u8] = b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    let error = error(client(), Does::Respond(LOOP)).await;
    assert!(error.is_redirect());
    assert_eq!(error.outcome(), Outcome::PERMANENT);
    let url = format!("http://{}/", server(Does::Respond(FINE)).await);
    let response = client().get(url).send().await.unwrap();
    let error = response.json::<u32>().await.unwrap_err();
    assert_eq!(
        error.outcome(),
        Outcome::PERMANENT,
        "a body that is no JSON"
    );
}

#[tokio::test]
async fn a_body_that_ends_too_soon_is_a_failure_of_the_service() {
    const SHORT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello";
    let url = format!("http://{}/", server(Does::Respond(SHORT)).await);
    let response = client().get(&url).send().await.unwrap();
    let error = response.bytes().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::TRANSIENT);
    // Through the standard stack, it is no timeout either.
    let stack = buttress::http::client("reqwest-broken", ClientConfig::default());
    let stack = stack.unwrap().layer(client());
    let response = client().get(&url).send_through(&stack).await.unwrap();
    let error = response.bytes().await.unwrap_err();
    assert!(!error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn an_error_from_a_status_has_the_outcome_of_the_status() {
    const BAD: &[u8] = b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n";
    let url = format!("http://{}/", server(Does::Respond(BAD)).await);
    let response = client().get(url).send().await.unwrap();
    assert_eq!(
        response.error_for_status().unwrap_err().outcome(),
        Outcome::TRANSIENT
    );
}

#[tokio::test]
async fn the_standard_stack_preserves_responses_of_reqwest() {
    fn is_shared<S: Clone + Send + Sync + 'static>(_: &S) {}
    let missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello";
    let stack = buttress::http::client("reqwest", ClientConfig::default())
        .unwrap()
        .layer(client());
    is_shared(&stack);
    let address = server(Does::Respond(missing)).await;
    let url = format!("http://{address}/a?b");
    let response = client().get(&url).send_through(&stack);
    let response = tokio::spawn(response).await.unwrap().unwrap();
    assert_eq!(response.url().as_str(), url);
    assert_eq!(response.content_length(), Some(5));
    assert_eq!(response.remote_addr(), Some(address));
    let error = response.error_for_status().unwrap_err();
    assert_eq!(error.url().map(reqwest::Url::as_str), Some(url.as_str()));
}

#[tokio::test]
async fn the_standard_stack_preserves_errors_of_reqwest() {
    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let config = ClientConfig::default().retry(RetryConfig::new().backoff(at_once));
    let short = builder().timeout(Duration::from_millis(50));
    let stack = buttress::http::client("reqwest", config)
        .unwrap()
        .layer(short.build().unwrap());
    let call = async |url: String| match client().get(url).send_through(&stack).await {
        Err(Error::Inner(error)) => error,
        other => panic!("not an error of reqwest: {other:?}"),
    };
    let refused = call(format!("http://{}/", nobody().await)).await;
    assert!(refused.is_connect() && !refused.is_timeout(), "{refused:?}");
    assert_eq!(refused.outcome(), NOT_CONNECTED);
    let late = call(format!("http://{}/", server(Does::Hang).await)).await;
    assert!(late.is_timeout() && !late.is_connect(), "{late:?}");
    let unbuilt = call("not a url".to_owned()).await;
    assert!(unbuilt.is_builder(), "{unbuilt:?}");
    let never = Outcome::NEUTRAL.retry(RetryAdvice::Never);
    assert_eq!(unbuilt.outcome(), never);
}

#[tokio::test]
async fn a_body_that_a_limit_ends_is_a_timeout_to_reqwest() {
    const STALLS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello";
    let short = Duration::from_millis(50);
    let minute = Duration::from_secs(60);
    for (idle, total) in [(short, minute), (minute, short)] {
        let config = ClientConfig::default()
            .attempt(short)
            .total(total)
            .body_idle(idle)
            .breaker(None);
        let stack = buttress::http::client("reqwest-cut", config)
            .unwrap()
            .layer(client());
        let url = format!("http://{}/", server(Does::RespondAndHang(STALLS)).await);
        let response = client().get(&url).send_through(&stack).await.unwrap();
        let error = response.bytes().await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let mut source = std::error::Error::source(&error);
        let mut rejected = None;
        while let Some(error) = source {
            rejected = rejected.or(error.downcast_ref::<Rejected>());
            source = error.source();
        }
        let limit = short;
        let reason = if total == short {
            Reason::Deadline
        } else {
            Reason::BodyIdle { limit }
        };
        assert_eq!(rejected.map(|rejected| &rejected.reason), Some(&reason));
    }
}

/// A server whose `/orders` reports the key of each request, and whose other paths redirect.
async fn shop(elsewhere: String) -> (String, UnboundedReceiver<HeaderValue>) {
    let (report, keys) = unbounded_channel();
    let orders = async move |headers: HeaderMap| {
        report.send(headers["idempotency-key"].clone()).unwrap();
        "one of each"
    };
    let app = Router::new()
        .route("/orders", post(orders))
        .route("/here", post(async || Redirect::temporary("/orders")))
        .route("/away", post(async move || Redirect::temporary(&elsewhere)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url, keys)
}

#[tokio::test]
async fn a_key_never_leaves_the_origin_under_our_redirect_policy() {
    for (policy, status, reached) in [
        (Policy::default(), StatusCode::OK, 1),
        (same_origin_redirects(), StatusCode::TEMPORARY_REDIRECT, 0),
    ] {
        let (elsewhere, mut keys_elsewhere) = shop(String::new()).await;
        let (url, mut keys) = shop(format!("{elsewhere}/orders")).await;
        let client = builder().no_proxy().redirect(policy).build().unwrap();
        let stack = buttress::http::client("shop", ClientConfig::default())
            .unwrap()
            .layer(client.clone());
        let send = async |path: &str| {
            let order = client.post(format!("{url}{path}"));
            let order = order.header("idempotency-key", "\"the-key-of-this-order\"");
            order.send_through(&stack).await.unwrap().status()
        };
        assert_eq!(send("/here").await, StatusCode::OK);
        assert_eq!(keys.len(), 1, "a redirect to the same server is followed");
        keys.recv().await.unwrap();
        assert_eq!(send("/away").await, status);
        assert_eq!(keys_elsewhere.len(), reached);
        if reached > 0 {
            let key = keys_elsewhere.recv().await.unwrap();
            assert_eq!(key, "\"the-key-of-this-order\"");
        }
    }
}

/// A name that resolves to this server except at the second lookup.
struct NotTheSecondTime {
    server: SocketAddr,
    lookups: AtomicUsize,
}

impl reqwest::dns::Resolve for NotTheSecondTime {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let second = self.lookups.fetch_add(1, Ordering::SeqCst) == 1;
        let found: reqwest::dns::Addrs = Box::new(std::iter::once(self.server));
        Box::pin(async move {
            if second {
                return Err("scripted: nobody there".into());
            }
            Ok(found)
        })
    }
}

/// The number of POSTs that a server receives whose response is this redirect, if its target is unreachable at first.
async fn posted(redirects: Redirects, policy: Policy, redirect: Redirect) -> usize {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&posts);
    let order = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        ([("connection", "close")], redirect)
    };
    let app = Router::new()
        .route("/orders", post(order))
        .route("/orders/7", any(async || "one of each"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    let names = NotTheSecondTime {
        server,
        lookups: AtomicUsize::new(0),
    };
    let client = builder()
        .no_proxy()
        .dns_resolver(Arc::new(names))
        .redirect(policy)
        .build()
        .unwrap();
    let stack = buttress::http::client("shop", ClientConfig::default().redirects(redirects))
        .unwrap()
        .layer(client.clone());
    let order = client.post(format!("http://shop.test:{}/orders", server.port()));
    let _ = order.body("7 EUR").send_through(&stack).await;
    posts.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_post_that_got_a_redirect_counts_as_executed() {
    let page = || Redirect::to("/orders/7");
    let marked = Redirects::Marked;
    assert_eq!(posted(marked, same_origin_redirects(), page()).await, 1);
    let temporary = || Redirect::temporary("/orders/7");
    assert_eq!(
        posted(marked, same_origin_redirects(), temporary()).await,
        2,
        "it was not executed here"
    );
    for (redirect, policy) in [
        (page(), Policy::default()),
        (temporary(), Policy::default()),
        (page(), same_origin_redirects()),
    ] {
        let unknown = Redirects::ClientDefault;
        assert_eq!(posted(unknown, policy, redirect).await, 1);
    }
    // Proves that the test can fail.
    assert_eq!(posted(Redirects::None, Policy::default(), page()).await, 2);
}

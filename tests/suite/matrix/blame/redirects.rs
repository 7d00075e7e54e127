//! Errors of a request that was redirected, which the client reports as those of the first request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::any;
use buttress::http::{Redirects, client};
use buttress::reqwest::SendThrough;
use http::Method;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tower::Layer;

use super::{Attempts, Saw, config};
use crate::http::nobody;

/// A shop that redirects `/orders` to a dead host and `/early` to a 425, and how often either was called.
async fn shop() -> (String, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let dead = format!("http://{}/orders/7", nobody().await);
    let leads = |to: String| {
        let calls = Arc::clone(&calls);
        any(async move || {
            calls.fetch_add(1, Ordering::Relaxed);
            Redirect::to(&to)
        })
    };
    let app = Router::new()
        .route("/orders", leads(dead))
        .route("/early", leads("/page".to_owned()))
        .route("/page", any(async || StatusCode::TOO_EARLY));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url, calls)
}

async fn sent(redirects: Redirects, policy: Policy, method: Method, url: &str) -> Saw {
    let reqwest = reqwest::Client::builder().retry(reqwest::retry::never());
    let reqwest = reqwest.no_proxy().redirect(policy).build().unwrap();
    let layer = client("redirects", config().redirects(redirects)).unwrap();
    let attempts = Attempts::default();
    let stack = layer.layer(attempts.of(reqwest.clone()));
    let _ = reqwest.request(method, url).send_through(&stack).await;
    attempts.saw(&layer)
}

/// A refused connection: one free retry, then two that cost a token.
const REPEATED: Saw = Saw {
    attempts: 4,
    counted: 4,
    failed: 4,
    budget: 0,
};

/// One attempt that failed.
const ONCE: Saw = Saw {
    attempts: 1,
    counted: 1,
    failed: 1,
    budget: 20,
};

#[tokio::test]
async fn a_post_that_may_have_been_redirected_to_a_dead_host_is_executed_once() {
    for redirects in [Redirects::ClientDefault, Redirects::Followed] {
        let (url, calls) = shop().await;
        let url = format!("{url}/orders");
        let saw = sent(redirects, Policy::default(), Method::POST, &url).await;
        assert_eq!((saw, calls.load(Ordering::Relaxed)), (ONCE, 1));
        let saw = sent(redirects, Policy::default(), Method::GET, &url).await;
        assert_eq!((saw, calls.load(Ordering::Relaxed)), (REPEATED, 1 + 4));
    }
}

#[tokio::test]
async fn a_post_that_was_redirected_to_an_unprocessed_page_is_sent_once() {
    let (url, calls) = shop().await;
    let url = format!("{url}/early");
    sent(
        Redirects::ClientDefault,
        Policy::default(),
        Method::POST,
        &url,
    )
    .await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    sent(
        Redirects::ClientDefault,
        Policy::default(),
        Method::PUT,
        &url,
    )
    .await;
    assert_eq!(calls.load(Ordering::Relaxed), 1 + 2);
}

#[tokio::test]
async fn a_post_whose_connection_is_refused_is_retried_if_no_redirect_is_followed_unreported() {
    let dead = format!("http://{}/", nobody().await);
    for (redirects, policy, expected) in [
        (Redirects::None, Policy::none(), REPEATED),
        (
            Redirects::Marked,
            buttress::reqwest::same_origin_redirects(),
            REPEATED,
        ),
        (Redirects::ClientDefault, Policy::default(), ONCE),
    ] {
        let saw = sent(redirects, policy, Method::POST, &dead).await;
        assert_eq!(saw, expected, "{redirects:?}");
    }
}

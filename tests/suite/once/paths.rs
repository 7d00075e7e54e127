//! The path that a record belongs to, in nested routers, merged routers and fallbacks.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};

/// The response names the path that was executed.
async fn pay(_: Operation, OriginalUri(uri): OriginalUri) -> (StatusCode, String) {
    (StatusCode::CREATED, uri.to_string())
}

fn layer() -> IdempotencyLayer {
    super::layer(IdempotencyConfig::default())
}

/// A router that is used in two places, guarded by the layer.
fn guarded(layer: &IdempotencyLayer) -> Router {
    Router::new()
        .route("/pay", post(pay))
        .layer(handle_rejections(layer.clone()))
}

/// Status, whether it is a replay, and body.
async fn sent(router: &Router, uri: &str) -> (u16, bool, String) {
    let mut request = super::payment("0123456789abcdef", "10 EUR");
    *request.uri_mut() = uri.parse().unwrap();
    let (status, replayed, body) = super::sent(router, request).await;
    (status.as_u16(), replayed.is_some(), body)
}

/// Each of these requests is executed once, and its repetition gets its own response.
async fn assert_separate(router: &Router, uris: &[&str]) {
    for replayed in [false, true] {
        for uri in uris {
            let executed = (201, replayed, (*uri).to_owned());
            assert_eq!(sent(router, uri).await, executed, "{uris:?}");
        }
    }
}

const CHARGES_AND_REFUNDS: &[&str] = &["/charges/pay", "/refunds/pay"];

#[tokio::test]
async fn nested_routers_and_services_with_the_same_tail_share_no_record() {
    let once = layer();
    let router = Router::new()
        .nest("/charges", guarded(&once))
        .nest("/refunds", guarded(&once));
    assert_separate(&router, CHARGES_AND_REFUNDS).await;
    let once = layer();
    let router = Router::new()
        .nest_service("/charges", guarded(&once))
        .nest_service("/refunds", guarded(&once));
    assert_separate(&router, CHARGES_AND_REFUNDS).await;
    // Without a router inside.
    let once = layer();
    let service = || handle_rejections(once.clone());
    let router = Router::new()
        .nest_service("/charges", post(pay).layer(service()))
        .nest_service("/refunds", post(pay).layer(service()));
    assert_separate(&router, CHARGES_AND_REFUNDS).await;
}

#[tokio::test]
async fn two_levels_of_nesting_share_no_record() {
    let once = layer();
    let inner = || Router::new().nest("/card", guarded(&once));
    let router = Router::new()
        .nest("/charges", inner())
        .nest(
            "/refunds",
            Router::new().nest_service("/card", guarded(&once)),
        )
        .nest("/v2", Router::new().nest("/charges", inner()));
    let uris = [
        "/charges/card/pay",
        "/refunds/card/pay",
        "/v2/charges/card/pay",
    ];
    assert_separate(&router, &uris).await;
}

#[tokio::test]
async fn merged_routers_share_no_record() {
    let once = layer();
    let charges = Router::new().nest("/charges", guarded(&once));
    let refunds = Router::new().nest("/refunds", guarded(&once));
    let router = charges.merge(refunds).merge(guarded(&once));
    assert_separate(&router, &["/charges/pay", "/refunds/pay", "/pay"]).await;
}

#[tokio::test]
async fn fallbacks_share_no_record() {
    let once = layer();
    let guarded = || {
        Router::new()
            .fallback(pay)
            .layer(handle_rejections(once.clone()))
    };
    let router = Router::new()
        .nest("/charges", guarded())
        .nest_service("/refunds", guarded())
        .fallback_service(guarded());
    assert_separate(&router, &["/charges/pay", "/refunds/pay", "/pay"]).await;
}

#[tokio::test]
async fn a_layer_outside_the_nest_separates_the_routers() {
    let inner = || Router::new().route("/pay", post(pay));
    let nested = Router::new()
        .nest("/charges", inner())
        .nest_service("/refunds", inner());
    let router = nested.clone().layer(handle_rejections(layer()));
    assert_separate(&router, CHARGES_AND_REFUNDS).await;
    // Outside the whole router, before any router has seen the request.
    let router =
        Router::new().fallback_service(tower::Layer::layer(&handle_rejections(layer()), nested));
    assert_separate(&router, CHARGES_AND_REFUNDS).await;
}

#[tokio::test]
async fn paths_that_are_written_in_two_ways_stay_different() {
    let once = layer();
    let fallback = || {
        Router::new()
            .fallback(pay)
            .layer(handle_rejections(once.clone()))
    };
    let router = Router::new().nest("/charges", fallback());
    let uris = [
        "/charges/pay",
        "/charges/pay/",
        "/charges/p%61y",
        "/charges//pay",
        "/charges/Pay",
    ];
    assert_separate(&router, &uris).await;
}

#[tokio::test]
async fn the_closures_of_a_layer_see_the_full_path() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let seen = Arc::clone(&seen);
        move |uri: &Uri| seen.lock().unwrap().push((what, uri.to_string()))
    };
    let (guard, tenant) = (note("guard"), note("tenant"));
    let (route, fingerprint) = (note("route"), note("fingerprint"));
    let scope = Scope::by(move |parts| {
        tenant(&parts.uri);
        Some("tenant".into())
    });
    let config = IdempotencyConfig::default();
    let once = IdempotencyLayer::new("paths", MemoryStore::new(), scope, config)
        .unwrap()
        .guard(move |parts| {
            guard(&parts.uri);
            true
        })
        .route(move |parts| {
            route(&parts.uri);
            parts.uri.path().to_owned()
        })
        .fingerprint(move |parts, body| {
            fingerprint(&parts.uri);
            body.to_vec()
        });
    let nested = Router::new()
        // The handler sees the stripped path, as without the layer.
        .route("/pay", post(async |uri: Uri| uri.to_string()))
        .layer(handle_rejections(once));
    let router = Router::new().nest("/v1", Router::new().nest("/charges", nested));
    let (status, _, body) = sent(&router, "/v1/charges/pay?of=7").await;
    assert_eq!((status, &*body), (200, "/pay?of=7"));
    let seen = seen.lock().unwrap();
    for what in ["guard", "tenant", "route", "fingerprint"] {
        let full = (what, "/v1/charges/pay?of=7".to_owned());
        assert!(seen.contains(&full), "{what}: {seen:?}");
    }
    assert_eq!(seen.len(), 4);
}

#[tokio::test]
async fn a_matched_path_stands_for_all_paths_of_its_route() {
    let once = layer().route_by_matched_path();
    let guarded = || {
        Router::new()
            .route("/{order}/pay", post(pay))
            .fallback(pay)
            .layer(handle_rejections(once.clone()))
    };
    let router = Router::new()
        .nest("/charges", guarded())
        .nest_service("/refunds", guarded());
    // The pattern has the prefix of the nest.
    assert_separate(&router, &["/charges/1/pay", "/refunds/1/pay"]).await;
    // One key for two orders of one route: the second request is not a retry of the first.
    assert_eq!(sent(&router, "/charges/2/pay").await.0, 422);
    assert_eq!(sent(&router, "/refunds/2/pay").await.0, 422);
    // Without a route it is the full path.
    assert_separate(&router, &["/charges/none", "/refunds/none"]).await;
}

#[tokio::test]
async fn a_matched_path_is_known_to_a_layer_outside_the_nest() {
    let inner = || Router::new().route("/{order}/pay", post(pay));
    let router = Router::new()
        .nest("/charges", inner())
        // Its pattern is not known here: the full path stands for it.
        .nest_service("/refunds", inner())
        .layer(handle_rejections(layer().route_by_matched_path()));
    let uris = ["/charges/1/pay", "/refunds/1/pay", "/refunds/2/pay"];
    assert_separate(&router, &uris).await;
    assert_eq!(sent(&router, "/charges/2/pay").await.0, 422);
}

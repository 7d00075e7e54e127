//! Look-up and repair of operations through the layer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::routing::post;
use buttress::event::{Event, subscribe};
use buttress::http::handle_rejections;
use buttress::idempotency::lookup::{
    Found, ListFilter, OperationState, RecordOf, Repair, RepairError,
};
use buttress::idempotency::store::{Claim, Fingerprint, MemoryStore, RecordKey, Store};
use buttress::idempotency::{AfterCrash, IdempotencyConfig, IdempotencyLayer, Scope};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use tokio::time::{advance, sleep};
use tower::ServiceExt;
use tracing::Level;

use super::shop::{Fate, Flow, Scripted, Shop, flow, frames, payment, reply, settle};
use crate::log::Log;

const NAME: &str = "shop";
const KEY: &str = "0123456789abcdef";

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default()
}

/// An operator's own layer on the same store.
fn operator(store: &MemoryStore, config: IdempotencyConfig) -> IdempotencyLayer {
    IdempotencyLayer::new(NAME, store.clone(), Scope::Global, config).unwrap()
}

async fn found(layer: &IdempotencyLayer) -> Found {
    let record = layer.record(&RecordOf::post("/payments", KEY));
    layer.find(&record).await.unwrap().expect("a record")
}

/// Writes a record whose lease is over, and returns its key.
async fn stopped(layer: &IdempotencyLayer, store: &impl Store) -> RecordKey {
    let record = layer.record(&RecordOf::post("/payments", KEY));
    let claim = Claim::new(Fingerprint([7; 32]), Duration::ZERO, config().ttl);
    store.begin(&record, &claim).await.unwrap();
    record
}

/// The repair is rejected with an error whose text has all of these parts.
async fn refused(
    layer: &IdempotencyLayer,
    seen: &Found,
    repair: Repair,
    parts: &[&str],
) -> RepairError {
    let error = layer.repair(seen, repair).await.unwrap_err();
    let shown = error.to_string();
    assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");
    error
}

fn recorded(status: u16, body: &'static str) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

/// An operation with an unknown outcome: the handler is dropped at `max_run`.
async fn unknown(shop: &mut Shop) {
    let (sent, mut called) = shop.running(payment("10 EUR")).await;
    sleep(Duration::from_secs(600)).await;
    called.dropped().await;
    let seen = sent.await.unwrap();
    assert_eq!(seen.problem(), "Unknown");
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_found_by_tenant_method_path_and_key() {
    let store = MemoryStore::new();
    let tenant = |parts: &Parts| Some(parts.headers.get("tenant")?.to_str().ok()?.to_owned());
    let by = || {
        let scope = Scope::by(tenant);
        IdempotencyLayer::new(NAME, store.clone(), scope, config()).unwrap()
    };
    let (layer, routed) = (by(), by().route(|_: &Parts| "the refunds".to_owned()));
    let pay = || post(async || "paid").patch(async || "changed");
    let inner = Router::new()
        .route("/pay", pay())
        .layer(handle_rejections(layer.clone()));
    let app: Router = Router::new()
        .route("/plain%20path", pay())
        .route("/refunds", pay().layer(handle_rejections(routed.clone())))
        .nest("/charges", inner)
        .layer(handle_rejections(layer.clone()));
    let send = async |method: Method, path: &str, tenant: &str, key: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("tenant", tenant)
            .header("idempotency-key", format!("\"{key}\""));
        let request = request.body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    };
    let keys = [
        "key-of-the-first-one",
        "key-of-the-second",
        "key-of-the-third-",
    ];
    send(Method::POST, "/plain%20path?q=1", "acme", keys[0]).await;
    send(Method::PATCH, "/charges/pay", "zeta", keys[1]).await;
    send(Method::POST, "/refunds?q=1", "acme", keys[2]).await;

    let plain = RecordOf::post("/plain%20path", keys[0]);
    let nested = RecordOf::new(Method::PATCH, "/charges/pay", keys[1]);
    let is_there = async |layer: &IdempotencyLayer, of: RecordOf| {
        let found = layer.find(&layer.record(&of)).await.unwrap();
        found.is_some_and(|found| found.state() == OperationState::Stored)
    };
    assert!(is_there(&layer, plain.clone().tenant("acme")).await);
    // The layer outside the nested router and the one inside have a record each.
    let inside = nested.clone().tenant("zeta").inner_path("/pay");
    assert!(is_there(&layer, inside).await);
    assert!(is_there(&layer, nested.clone().tenant("zeta")).await);
    // A layer with a route, and a tool that does not have the function.
    let named = RecordOf::post("ignored", keys[2]).route("the refunds");
    assert!(is_there(&layer, named.tenant("acme")).await);
    let path = RecordOf::post("the refunds", keys[2]).tenant("acme");
    assert!(is_there(&routed, path).await);

    for other in [
        plain.clone(),
        plain.clone().tenant("zeta"),
        RecordOf::new(Method::PATCH, "/plain%20path", keys[0]).tenant("acme"),
        RecordOf::post("/plain path", keys[0]).tenant("acme"),
        RecordOf::post("/plain%20path", keys[1]).tenant("acme"),
        plain.clone().tenant("acme").inner_path("/path"),
        plain.clone().tenant("acme").route("/plain%20path"),
    ] {
        assert!(!is_there(&layer, other.clone()).await, "{other:?}");
    }
    let shown = format!("{:?}", plain.tenant("acme"));
    assert!(
        shown.contains("acme") && !shown.contains(keys[0]),
        "{shown}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_up_shows_state_run_times_and_response() {
    let store = MemoryStore::new();
    let mut shop = Shop::with(store.clone(), config().max_response_body(100));
    let layer = operator(&store, config());
    let record = layer.record(&RecordOf::post("/payments", KEY));
    assert!(layer.find(&record).await.unwrap().is_none());

    let (sent, called) = shop.running(payment("10 EUR")).await;
    advance(Duration::from_secs(10)).await;
    let running = found(&layer).await;
    assert_eq!(running.state(), OperationState::Running);
    assert_eq!((running.run(), running.record()), (1, record));
    assert_eq!(running.age(), Duration::from_secs(10));
    assert_eq!(running.lease(), Some(Duration::from_secs(80)));
    assert_eq!(running.stopped_since(), None);
    assert!(running.status().is_none() && running.response().is_none());

    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "7".parse().unwrap());
    let data = Frame::data(Bytes::from_static(b"paid in secret"));
    let body = frames(vec![data, Frame::trailers(trailers)]);
    let response = Response::builder()
        .status(201)
        .header("location", "/payments/1");
    assert_eq!(
        called
            .finish(sent, response.body(body).unwrap())
            .await
            .status,
        201
    );
    let stored = found(&layer).await;
    assert_eq!(stored.state(), OperationState::Stored);
    assert_eq!(stored.status(), Some(StatusCode::CREATED));
    assert_eq!(stored.age(), Duration::from_secs(10));
    assert_eq!(stored.expires_in(), Duration::from_secs(24 * 3600));
    assert_eq!((stored.lease(), stored.stopped_since()), (None, None));
    let response = stored.response().unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/payments/1");
    assert_eq!(&response.body()[..], b"paid in secret");
    assert_eq!(stored.trailers().unwrap()["checksum"], "7");
    let shown = format!("{stored:?}");
    assert!(!shown.contains("secret"), "{shown}");
    assert!(
        shown.contains(&stored.operation_id().to_string()),
        "{shown}"
    );
    let page = layer.list(&ListFilter::new(), None, 10).await.unwrap();
    let shown = format!("{page:?}");
    assert!(!shown.contains("secret"), "{shown}");

    let repair = format!("{:?}", Repair::record(recorded(201, "secret")));
    assert!(
        repair.contains("201") && repair.contains("6 bytes"),
        "{repair}"
    );
    assert!(!repair.contains("secret"), "{repair}");

    let id = stored.operation_id().to_string();
    assert_eq!(id, record.to_hex()[..32]);
    assert_eq!(id.parse(), Ok(stored.operation_id()));
    assert!("not an id".parse::<buttress::event::OperationId>().is_err());
}

#[tokio::test(start_paused = true)]
async fn each_end_of_an_operation_has_a_state() {
    let too_large = || flow("x".repeat(101));
    for (end, expected) in [
        ("panic", OperationState::Failed),
        ("too large", OperationState::NotStored),
        ("too long", OperationState::Unknown),
        ("crash", OperationState::Stopped),
    ] {
        let store = MemoryStore::new();
        let mut shop = Shop::with(store.clone(), config().max_response_body(100));
        let layer = operator(&store, config());
        match end {
            "panic" => {
                let sent = shop.send(payment("10 EUR"));
                shop.called().await.panics();
                sent.await.unwrap();
            }
            "too large" => {
                let large: Response<Flow> = Response::new(too_large());
                shop.served(payment("10 EUR"), large).await;
            }
            "too long" => unknown(&mut shop).await,
            _ => {
                stopped(&layer, &store).await;
                advance(Duration::from_secs(5)).await;
                let since = found(&layer).await.stopped_since();
                assert_eq!(since, Some(Duration::from_secs(5)));
            }
        }
        settle().await;
        let found = found(&layer).await;
        assert_eq!(found.state(), expected, "{end}");
        assert!(found.response().is_none() && found.status().is_none());
        let page = layer.list(&ListFilter::new(), None, 10).await.unwrap();
        assert_eq!(page.operations[0].state(), expected, "{end}");
    }
    for state in OperationState::ALL {
        assert_eq!(state.to_string().parse(), Ok(state));
    }
    let error = "done".parse::<OperationState>().unwrap_err();
    assert!(
        error.contains("`done`") && error.contains("not_stored"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_is_filtered_by_state_age_and_prefix_page_by_page() {
    let store = MemoryStore::new();
    let mut shop = Shop::with(store.clone(), config());
    let layer = shop.layer.clone();
    shop.served(payment("10 EUR"), reply(201, "paid")).await;
    advance(Duration::from_secs(60)).await;
    for number in 0..9_u8 {
        let claim = Claim::new(Fingerprint([7; 32]), Duration::ZERO, config().ttl);
        store.begin(&RecordKey([number; 32]), &claim).await.unwrap();
    }
    let all = async |filter: ListFilter| {
        let (mut operations, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = layer.list(&filter, after.as_deref(), 4).await;
            let page = page.unwrap();
            operations.extend(page.operations);
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 3, "an empty page is not the end");
        operations
    };
    assert_eq!(all(ListFilter::new()).await.len(), 10);
    let stopped = all(ListFilter::new().state(OperationState::Stopped)).await;
    assert_eq!(stopped.len(), 9);
    let old = all(ListFilter::new().older_than(Duration::from_secs(60))).await;
    assert_eq!(old.len(), 1);
    assert_eq!(old[0].state(), OperationState::Stored);
    assert_eq!(old[0].status(), Some(StatusCode::CREATED));
    assert!(old[0].response().is_none(), "a list has no responses");
    let older = ListFilter::new().older_than(Duration::from_secs(61));
    assert!(all(older).await.is_empty());
    for prefix in ["03", "0303", &"03".repeat(16), &"03".repeat(32)] {
        let one = all(ListFilter::new().prefix(prefix)).await;
        let keys: Vec<RecordKey> = one.iter().map(Found::record).collect();
        assert_eq!(keys, [RecordKey([3; 32])], "{prefix}");
    }
    let record = found(&layer).await.record().to_hex().to_uppercase();
    assert_eq!(all(ListFilter::new().prefix(record)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recorded_response_is_sent_to_every_retry() {
    let mut shop = Shop::new(config());
    let layer = shop.layer.clone();
    unknown(&mut shop).await;
    let seen = found(&layer).await;
    let mut response = recorded(201, "paid, as the provider says");
    for (name, value) in [
        ("content-length", "999"),
        ("connection", "close"),
        ("set-cookie", "a=1"),
        ("location", "/payments/1"),
    ] {
        let headers = response.headers_mut();
        headers.insert(name, value.parse().unwrap());
    }
    layer.repair(&seen, Repair::record(response)).await.unwrap();
    let repeated = shop.call_with(payment("10 EUR")).await;
    assert_eq!(repeated.of(), (201, true, "paid, as the provider says"));
    assert_eq!(repeated.headers["location"], "/payments/1");
    for name in ["content-length", "connection", "set-cookie"] {
        assert!(!repeated.headers.contains_key(name), "{name}");
    }
    assert_eq!(shop.call_with(payment("11 EUR")).await.problem(), "Reused");
    shop.assert_not_called().await;
    let now = found(&layer).await;
    assert_eq!((now.state(), now.run()), (OperationState::Stored, 1));
    assert_eq!(now.expires_in(), config().ttl);
}

#[tokio::test(start_paused = true)]
async fn a_running_operation_is_never_repaired() {
    let mut shop = Shop::new(config());
    let layer = shop.layer.clone();
    let (sent, called) = shop.running(payment("10 EUR")).await;
    let seen = found(&layer).await;
    for repair in [Repair::release(), Repair::record(recorded(201, "paid"))] {
        for force in [false, true] {
            let repair = repair.clone().force(force);
            let error = refused(&layer, &seen, repair, &["running"]).await;
            assert!(matches!(error, RepairError::Running), "{error:?}");
        }
    }
    called.pays(sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_waits_for_the_longest_run_unless_it_is_forced() {
    let store = MemoryStore::new();
    let layer = operator(&store, config());
    let record = stopped(&layer, &store).await;
    advance(Duration::from_secs(599)).await;
    let seen = found(&layer).await;
    refused(&layer, &seen, Repair::release(), &["599s", "600s", "force"]).await;
    // After another second, the same look-up is accepted.
    advance(Duration::from_secs(1)).await;
    layer.repair(&seen, Repair::release()).await.unwrap();
    stopped(&layer, &store).await;
    let seen = found(&layer).await;
    let forced = Repair::release().force(true);
    layer.repair(&seen, forced).await.unwrap();
    assert!(layer.find(&record).await.unwrap().is_none());

    // The same for an outcome that was stored as unknown by the next request.
    let down = Scripted::new(|what, _| match what {
        "renew" | "complete" => Fate::Down,
        _ => Fate::Done,
    });
    let mut crashed = Shop::with(down.clone(), config());
    let _sent = crashed.send(payment("10 EUR"));
    let _called = crashed.called().await;
    sleep(Duration::from_secs(90)).await;
    let refuses = config().after_crash(AfterCrash::Refuse);
    let shop = Shop::with(down.inner.clone(), refuses);
    let layer = operator(&down.inner, config());
    assert_eq!(shop.call_with(payment("10 EUR")).await.problem(), "Unknown");
    let seen = found(&layer).await;
    assert_eq!((seen.state(), seen.run()), (OperationState::Unknown, 2));
    let error = layer.repair(&seen, Repair::release()).await.unwrap_err();
    assert!(matches!(error, RepairError::TooRecent { .. }), "{error:?}");
    sleep(Duration::from_secs(510)).await;
    let seen = found(&layer).await;
    layer.repair(&seen, Repair::release()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_a_forced_repair_replaces_a_stored_result() {
    let mut shop = Shop::new(config());
    let layer = shop.layer.clone();
    shop.served(payment("10 EUR"), reply(500, "broken")).await;
    let seen = found(&layer).await;
    let repair = Repair::record(recorded(201, "paid after all"));
    let error = refused(&layer, &seen, repair.clone(), &["`stored`"]).await;
    let is_done = matches!(error, RepairError::Done(OperationState::Stored));
    assert!(is_done, "{error:?}");
    layer.repair(&seen, repair.force(true)).await.unwrap();
    let repeated = shop.call_with(payment("10 EUR")).await;
    assert_eq!(repeated.of(), (201, true, "paid after all"));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_changed_or_is_gone_is_not_repaired() {
    let store = MemoryStore::new();
    let mut shop = Shop::with(store.clone(), config().max_response_body(100));
    let layer = shop.layer.clone();
    unknown(&mut shop).await;
    let seen = found(&layer).await;
    let large = Response::new(Bytes::from(vec![b'x'; 101]));
    refused(
        &layer,
        &seen,
        Repair::record(large),
        &["`max_response_body`", "100"],
    )
    .await;
    let first = Repair::record(recorded(201, "paid"));
    layer.repair(&seen, first).await.unwrap();
    // A second operator, with the earlier look-up.
    for force in [false, true] {
        let second = Repair::release().force(force);
        let error = layer.repair(&seen, second).await.unwrap_err();
        assert!(matches!(error, RepairError::Changed), "{error:?}");
    }
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.of(),
        (201, true, "paid")
    );
    let seen = found(&layer).await;
    let forced = Repair::release().force(true);
    layer.repair(&seen, forced.clone()).await.unwrap();
    let error = layer.repair(&seen, forced.clone()).await.unwrap_err();
    assert!(matches!(error, RepairError::Missing), "{error:?}");
    // The key belongs to another operation now.
    shop.served(payment("12 EUR"), reply(201, "12 paid")).await;
    let error = layer.repair(&seen, forced).await.unwrap_err();
    assert!(matches!(error, RepairError::Changed), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_run_cannot_overwrite_what_an_operator_recorded() {
    let store = Scripted::first("renew", usize::MAX, Fate::Down);
    let mut shop = Shop::with(store.clone(), config());
    let layer = operator(&store.inner, config());
    let (sent, called) = shop.running(payment("10 EUR")).await;
    sleep(Duration::from_secs(90)).await;
    let seen = found(&layer).await;
    assert_eq!(seen.state(), OperationState::Stopped);
    let repair = Repair::record(recorded(200, "refunded by support"));
    layer.repair(&seen, repair.force(true)).await.unwrap();
    called.responds(reply(201, "paid"));
    // Its caller gets the recorded response as well.
    assert_eq!(sent.await.unwrap().text(), "refunded by support");
    let repeated = shop.call_with(payment("10 EUR")).await;
    assert_eq!(repeated.of(), (200, true, "refunded by support"));
}

#[tokio::test(start_paused = true)]
async fn every_repair_is_reported_and_a_rejected_one_is_not() {
    let name = "repair events";
    let steps = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&steps);
    let _subscription = subscribe(move |event: &Event<'_>| {
        if let Event::Operation { source, step, .. } = event {
            if &**source.name() == name {
                sink.lock().unwrap().push(step.as_str());
            }
        }
    });
    let log = Log::install();
    let store = MemoryStore::new();
    let layer = IdempotencyLayer::new(name, store.clone(), Scope::Global, config()).unwrap();
    let record = layer.record(&RecordOf::post("/payments", KEY));
    for repair in [Repair::release(), Repair::record(recorded(201, "secret"))] {
        stopped(&layer, &store).await;
        let seen = found(&layer).await;
        layer.repair(&seen, repair.clone()).await.unwrap_err();
        layer.repair(&seen, repair.force(true)).await.unwrap();
    }
    let expected = ["released_by_operator", "recorded_by_operator"];
    assert_eq!(*steps.lock().unwrap(), expected);
    let lines = log.take();
    let lines: Vec<_> = lines
        .iter()
        .filter(|(_, line)| line.contains(name))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for ((level, line), step) in lines.into_iter().zip(expected) {
        assert_eq!(*level, Level::INFO);
        assert!(line.contains(&record.operation_id().to_string()), "{line}");
        assert!(
            line.contains("an operator released or recorded an operation"),
            "{line}"
        );
        assert!(line.contains(step) && !line.contains("secret"), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repair_with_a_failed_store_is_an_error() {
    // This store has no look-up.
    let store = Scripted::new(|_, _| Fate::Done);
    let layer = IdempotencyLayer::new(NAME, store.clone(), Scope::Global, config()).unwrap();
    let record = layer.record(&RecordOf::post("/payments", KEY));
    let error = layer.find(&record).await.unwrap_err().to_string();
    assert!(error.contains("cannot look up records"), "{error}");
    let listed = layer.list(&ListFilter::new(), None, 10).await;
    assert!(listed.is_err());
    stopped(&layer, &store).await;
    let seen = found(&operator(&store.inner, config())).await;
    let forced = Repair::release().force(true);
    let error = refused(&layer, &seen, forced, &["look up the record again"]).await;
    assert!(matches!(error, RepairError::Store(_)), "{error:?}");
}

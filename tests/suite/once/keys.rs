//! What is a key, whose it is, and what it stands for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use buttress::http::answer;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{HeaderPolicy, IdempotencyConfig, IdempotencyLayer, Scope};
use http::request::Parts;
use http::{HeaderValue, Request};
use tower::Layer;

use super::shop::{Fate, Flow, Scripted, Shop, flow, payment, says, send_to};

fn with_lines(lines: &[&[u8]]) -> Request<Flow> {
    let mut request = Request::post("/payments").body(flow("10 EUR")).unwrap();
    for line in lines {
        let line = HeaderValue::from_bytes(line).unwrap();
        request.headers_mut().append("idempotency-key", line);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_refused_before_anything_is_looked_up() {
    let long = format!("\"{}\"", "k".repeat(256));
    for (lines, lenient, problem) in [
        (&[][..], false, "Missing"),
        (&[&b""[..]], false, "Malformed"),
        (&[b""], true, "Malformed"),
        (&[b"\"\""], true, "Malformed"),
        (&[b"\"0123456789abcde\""], false, "Malformed"),
        (&[long.as_bytes()], false, "Malformed"),
        (&[&long.as_bytes()[1..257]], true, "Malformed"),
        (&["\"größe-0123456789\"".as_bytes()], true, "Malformed"),
        (&["größe-0123456789".as_bytes()], true, "Malformed"),
        (&[b"\"0123456789\xff0123456\""], true, "Malformed"),
        (
            &[b"\"0123456789abcdef\"", b"\"0123456789abcdef\""],
            true,
            "Malformed",
        ),
        (
            &[b"\"0123456789abcdef", b"0123456789abcdef\""],
            true,
            "Malformed",
        ),
        (
            &[b"\"0123456789abcdef\", \"0123456789abcdef\""],
            true,
            "Malformed",
        ),
        (&[b"0123456789abcdef, 0123456789abcdef"], true, "Malformed"),
        (&[b"0123456789abcdef,0123456789abcdef"], true, "Malformed"),
        (&[b"\"0123456789\tabcdef\""], true, "Malformed"),
        (&[b"\t\"0123456789abcdef\""], true, "Malformed"),
        (&[b"0123456789 abcdef"], true, "Malformed"),
        (&[b"0123456789abcdef"], false, "Malformed"),
        (&[b"0123456789abcdef;a=1"], true, "Malformed"),
        (&[b":MDEyMzQ1Njc4OWFiY2RlZg==:"], false, "Malformed"),
        (&[b"123456789012345"], false, "Malformed"),
        (&[b"(\"0123456789abcdef\")"], true, "Malformed"),
        (&[b"\"0123456789abcdef\" x"], true, "Malformed"),
        (&[b"\"0123456789abcdef\";A=1"], true, "Malformed"),
        (&[b"\"0123456789abcdef"], true, "Malformed"),
        (&[b"\"0123456789\\abcdef\""], true, "Malformed"),
    ] {
        let store = Scripted::new(|_, _| Fate::Done);
        let config = IdempotencyConfig::default().lenient(lenient);
        let mut shop = Shop::with(store.clone(), config);
        let seen = shop.ask(with_lines(lines)).await;
        assert_eq!((seen.status, &*seen.problem()), (400, problem), "{lines:?}");
        assert!(!seen.headers.contains_key("retry-after"));
        assert_eq!(store.asked(), [""; 0], "{lines:?}");
        shop.calls_nobody().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_the_same_however_it_is_written() {
    let longest = format!("\"{}\"", "k".repeat(255));
    for (line, again, lenient) in [
        (
            &b"\"0123456789abcdef\""[..],
            &b"\"0123456789abcdef\""[..],
            false,
        ),
        (b"\"0123456789abcdef\"", b"0123456789abcdef", true),
        (b"0123456789abcdef", b"\"0123456789abcdef\"", true),
        (
            b"\"0123456789abcdef\"",
            b"\"0123456789abcdef\";v=1; w",
            false,
        ),
        (b"  \"0123456789abcdef\"  ", b"\"0123456789abcdef\"", false),
        (
            b"\"0123456789 \\\"abc\\\\\"",
            b"\"0123456789 \\\"abc\\\\\"",
            false,
        ),
        (longest.as_bytes(), longest.as_bytes(), false),
        (longest.as_bytes(), &longest.as_bytes()[1..256], true),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default().lenient(lenient));
        let first = shop.served(with_lines(&[line]), says(201, "paid")).await;
        assert_eq!(first.of(), (201, false, "paid"), "{line:?}");
        let again = shop.ask(with_lines(&[again])).await;
        assert_eq!(again.of(), (201, true, "paid"), "{line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_knows_its_key_without_quotes_and_has_keys_of_its_own_to_send_on() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let sent = shop.send(with_lines(&[b"\"0123456789 \\\"abc\\\\\""]));
    let called = shop.called().await;
    let operation = called.operation.clone().unwrap();
    assert_eq!(operation.key(), "0123456789 \"abc\\");
    assert_eq!(operation.run(), 1);
    let derived = operation.derived_key("provider");
    assert_eq!(derived, operation.derived_key("provider"));
    assert_ne!(derived, operation.derived_key("mail"));
    assert_eq!(derived.len(), 36);
    for shown in [format!("{operation:?}"), format!("{:?}", shop.layer)] {
        assert!(!shown.contains("0123456789"), "{shown}");
    }
    called.answers(says(201, ""));
    sent.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_key_with_another_request_is_a_mistake() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let other = || {
        let of_another_kind = {
            let mut request = payment("10 EUR");
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert("content-type", json);
            request
        };
        let with_another_query = {
            let mut request = payment("10 EUR");
            *request.uri_mut() = "/payments?of=8".parse().unwrap();
            request
        };
        [payment("11 EUR"), of_another_kind, with_another_query]
    };
    let sent = shop.send(payment("10 EUR"));
    let called = shop.called().await;
    for request in other() {
        let seen = shop.ask(request).await;
        assert_eq!(
            (seen.status, &*seen.problem()),
            (422, "Reused"),
            "under way"
        );
    }
    called.answers(says(201, "paid"));
    assert_eq!(sent.await.unwrap().status, 201);
    for request in other() {
        let seen = shop.ask(request).await;
        assert_eq!((seen.status, &*seen.problem()), (422, "Reused"), "done");
    }
    assert_eq!(shop.ask(payment("10 EUR")).await.of(), (201, true, "paid"));
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_one_operation_of_one_method_route_and_layer() {
    let store = MemoryStore::new();
    let config = IdempotencyConfig::default();
    let mut shop = Shop::with(store.clone(), config.clone());
    shop.served(payment("10 EUR"), says(201, "first")).await;
    let mut patch = payment("10 EUR");
    *patch.method_mut() = http::Method::PATCH;
    let seen = shop.served(patch, says(200, "patched")).await;
    assert_eq!(seen.of(), (200, false, "patched"));
    let mut elsewhere = payment("10 EUR");
    *elsewhere.uri_mut() = "/orders".parse().unwrap();
    let seen = shop.served(elsewhere, says(200, "ordered")).await;
    assert_eq!(seen.of(), (200, false, "ordered"));
    let other = IdempotencyLayer::new("other", store.clone(), Scope::Global, config.clone());
    let mut other = Shop::of(other.unwrap());
    let seen = other.served(payment("10 EUR"), says(201, "other")).await;
    assert_eq!(seen.of(), (201, false, "other"));
    // Another process, with a layer of the same name.
    let same = Shop::with(store, config);
    assert_eq!(same.ask(payment("10 EUR")).await.of(), (201, true, "first"));
}

fn tenant(parts: &Parts) -> Option<String> {
    let tenant = parts.headers.get("x-account")?;
    Some(tenant.to_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn tenants_do_not_see_each_others_answers() {
    let store = Scripted::new(|_, _| Fate::Done);
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("shop", store.clone(), Scope::by(tenant), config);
    let mut shop = Shop::of(layer.unwrap());
    let by = |account: &'static str| {
        let mut request = payment("10 EUR");
        let account = HeaderValue::from_static(account);
        request.headers_mut().insert("x-account", account);
        request
    };
    let seen = shop.ask(payment("10 EUR")).await;
    assert_eq!((seen.status, &*seen.problem()), (403, "NoTenant"));
    assert_eq!(store.asked(), [""; 0]);
    let first = shop.served(by("a"), says(201, "of a")).await;
    assert_eq!(first.of(), (201, false, "of a"));
    let other = shop.served(by("b"), says(201, "of b")).await;
    assert_eq!(other.of(), (201, false, "of b"));
    assert_eq!(shop.ask(by("a")).await.of(), (201, true, "of a"));
    assert_eq!(shop.ask(by("b")).await.of(), (201, true, "of b"));
}

#[tokio::test(start_paused = true)]
async fn a_route_and_a_fingerprint_of_ones_own_take_the_place_of_path_and_request() {
    let layer = IdempotencyLayer::new(
        "shop",
        MemoryStore::new(),
        Scope::Global,
        IdempotencyConfig::default(),
    );
    let layer = layer
        .unwrap()
        .route(|_| "payments".to_owned())
        .fingerprint(|_, body| body.to_ascii_lowercase());
    let mut shop = Shop::of(layer);
    shop.served(payment("10 EUR"), says(201, "paid")).await;
    let mut same = payment("10 eur");
    *same.uri_mut() = "/v1/payments/".parse().unwrap();
    assert_eq!(shop.ask(same).await.of(), (201, true, "paid"));
    assert_eq!(shop.ask(payment("11 EUR")).await.problem(), "Reused");
}

#[tokio::test(start_paused = true)]
async fn only_what_is_guarded_is_guarded() {
    let config = IdempotencyConfig::default().methods(["PUT", "POST"]);
    let layer = IdempotencyLayer::new("shop", MemoryStore::new(), Scope::Global, config);
    let layer = layer.unwrap();
    let layer = layer.guard(|parts| parts.uri.path() != "/search");
    let mut shop = Shop::of(layer);
    for (method, path) in [
        ("PATCH", "/payments"),
        ("POST", "/search"),
        ("GET", "/payments"),
    ] {
        for _ in 0..2 {
            let mut request = payment("10 EUR");
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = path.parse().unwrap();
            let sent = shop.send(request);
            let called = shop.called().await;
            assert!(called.operation.is_none(), "{method} {path}");
            assert_eq!((called.body.as_str(), called.left), ("10 EUR", None));
            called.answers(says(409, "as it is"));
            assert_eq!(sent.await.unwrap().of(), (409, false, "as it is"));
        }
    }
    let mut put = payment("10 EUR");
    *put.method_mut() = http::Method::PUT;
    let sent = shop.send(put);
    let called = shop.called().await;
    assert!(called.operation.is_some());
    called.answers(says(200, ""));
    sent.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_optional_protects_those_who_send_one() {
    let config = IdempotencyConfig::default().required(false);
    let mut shop = Shop::new(config);
    for _ in 0..2 {
        let sent = shop.send(with_lines(&[]));
        let called = shop.called().await;
        assert!(called.operation.is_none());
        called.answers(says(201, "paid"));
        assert_eq!(sent.await.unwrap().of(), (201, false, "paid"));
    }
    shop.served(payment("10 EUR"), says(201, "paid")).await;
    assert!(shop.ask(payment("10 EUR")).await.replayed());
    let malformed = shop.ask(with_lines(&[b"bare-0123456789abcdef"])).await;
    assert_eq!(
        (malformed.status, &*malformed.problem()),
        (400, "Malformed")
    );
}

#[tokio::test(start_paused = true)]
async fn a_header_of_another_name_carries_the_key() {
    let config = IdempotencyConfig::default().header("X-Request-Id");
    let mut shop = Shop::new(config);
    assert_eq!(shop.ask(payment("10 EUR")).await.problem(), "Missing");
    let request = || {
        let mut request = payment("10 EUR");
        let key = request.headers_mut().remove("idempotency-key").unwrap();
        request.headers_mut().insert("x-request-id", key);
        request
    };
    shop.served(request(), says(201, "paid")).await;
    assert!(shop.ask(request()).await.replayed());
}

#[tokio::test(start_paused = true)]
async fn a_layer_counts_over_all_services_it_has_made() {
    let shop = Shop::new(IdempotencyConfig::default());
    let runs = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let count = Arc::clone(&runs);
        let handler = tower::service_fn(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok::<_, &'static str>(says(201, "paid")))
        });
        let service = answer(shop.layer.clone()).layer(handler);
        assert_eq!(
            send_to(service, payment("10 EUR")).await.unwrap().status,
            201
        );
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_setting_that_cannot_work_names_itself() {
    let config = IdempotencyConfig::default;
    let zero = std::time::Duration::ZERO;
    let second = std::time::Duration::from_secs(1);
    for (config, field) in [
        (config().header("a b"), "header"),
        (config().methods([""; 0]), "methods"),
        (config().methods(["a b"]), "methods"),
        // It would guard nothing: methods are in capitals.
        (config().methods(["post"]), "methods"),
        (config().shortest_key(0), "shortest_key"),
        (config().shortest_key(256), "shortest_key"),
        (config().ttl(zero), "ttl"),
        (config().max_run(zero), "max_run"),
        (config().store_timeout(zero), "store_timeout"),
        (config().lease(2 * second), "lease"),
        (config().store_timeout(31 * second), "lease"),
        (
            config().headers(HeaderPolicy::Only(vec![String::new()])),
            "headers",
        ),
    ] {
        let made = IdempotencyLayer::new("shop", MemoryStore::new(), Scope::Global, config);
        let error = made.unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains("`shop`"), "{error}");
    }
}

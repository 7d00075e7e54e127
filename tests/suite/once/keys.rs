//! Keys: their format, their tenant, and the operation that they identify.

use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{HeaderPolicy, IdempotencyConfig, IdempotencyLayer, Scope};
use http::request::Parts;
use http::{HeaderValue, Request};

use super::shop::{Fate, Flow, Scripted, Shop, at, flow, payment, reply, with_header};

fn with_lines(lines: &[&[u8]]) -> Request<Flow> {
    let mut request = Request::post("/payments").body(flow("10 EUR")).unwrap();
    for line in lines {
        let line = HeaderValue::from_bytes(line).unwrap();
        request.headers_mut().append("idempotency-key", line);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn a_malformed_key_is_rejected_before_the_store_is_called() {
    let long = format!("\"{}\"", "k".repeat(256));
    for (lines, accept_unquoted) in [
        (&[][..], false),
        (&[&b""[..]], false),
        (&[b""], true),
        (&[b"\"\""], true),
        (&[b"\"0123456789abcde\""], false),
        (&[long.as_bytes()], false),
        (&[&long.as_bytes()[1..257]], true),
        (&["\"größe-0123456789\"".as_bytes()], true),
        (&["größe-0123456789".as_bytes()], true),
        (&[b"\"0123456789\xff0123456\""], true),
        (&[b"\"0123456789abcdef\"", b"\"0123456789abcdef\""], true),
        (&[b"\"0123456789abcdef", b"0123456789abcdef\""], true),
        (&[b"\"0123456789abcdef\", \"0123456789abcdef\""], true),
        (&[b"0123456789abcdef, 0123456789abcdef"], true),
        (&[b"0123456789abcdef,0123456789abcdef"], true),
        (&[b"\"0123456789\tabcdef\""], true),
        (&[b"\t\"0123456789abcdef\""], true),
        (&[b"0123456789 abcdef"], true),
        (&[b"0123456789abcdef"], false),
        (&[b"0123456789abcdef;a=1"], true),
        (&[b":MDEyMzQ1Njc4OWFiY2RlZg==:"], false),
        (&[b"123456789012345"], false),
        (&[b"(\"0123456789abcdef\")"], true),
        (&[b"\"0123456789abcdef\" x"], true),
        (&[b"\"0123456789abcdef\";A=1"], true),
        (&[b"\"0123456789abcdef"], true),
        (&[b"\"0123456789\\abcdef\""], true),
    ] {
        let store = Scripted::new(|_, _| Fate::Done);
        let config = IdempotencyConfig::default().accept_unquoted(accept_unquoted);
        let mut shop = Shop::with(store.clone(), config);
        let seen = shop.call_with(with_lines(lines)).await;
        let problem = if lines.is_empty() {
            "Missing"
        } else {
            "Malformed"
        };
        assert_eq!((seen.status, &*seen.problem()), (400, problem), "{lines:?}");
        assert!(!seen.headers.contains_key("retry-after"));
        assert_eq!(store.calls(), [""; 0], "{lines:?}");
        shop.assert_not_called().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_equal_in_all_spellings() {
    let longest = format!("\"{}\"", "k".repeat(255));
    for (line, again, accept_unquoted) in [
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
        let mut shop = Shop::new(IdempotencyConfig::default().accept_unquoted(accept_unquoted));
        let first = shop.served(with_lines(&[line]), reply(201, "paid")).await;
        assert_eq!(first.of(), (201, false, "paid"), "{line:?}");
        let again = shop.call_with(with_lines(&[again])).await;
        assert_eq!(again.of(), (201, true, "paid"), "{line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_its_key_without_quotes_and_derived_keys() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let (sent, called) = shop
        .running(with_lines(&[b"\"0123456789 \\\"abc\\\\\""]))
        .await;
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
    called.finish(sent, reply(201, "")).await;
}

#[tokio::test(start_paused = true)]
async fn a_used_key_with_another_request_is_rejected() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let other = || {
        [
            payment("11 EUR"),
            with_header(payment("10 EUR"), "content-type", "application/json"),
            at(payment("10 EUR"), "POST", "/payments?of=8"),
        ]
    };
    let (sent, called) = shop.running(payment("10 EUR")).await;
    for request in other() {
        let seen = shop.call_with(request).await;
        assert_eq!(
            (seen.status, &*seen.problem()),
            (422, "Reused"),
            "under way"
        );
    }
    assert_eq!(called.finish(sent, reply(201, "paid")).await.status, 201);
    for request in other() {
        let seen = shop.call_with(request).await;
        assert_eq!((seen.status, &*seen.problem()), (422, "Reused"), "done");
    }
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.of(),
        (201, true, "paid")
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_identifies_one_operation_of_a_method_route_and_layer() {
    let store = MemoryStore::new();
    let config = IdempotencyConfig::default();
    let mut shop = Shop::with(store.clone(), config.clone());
    shop.served(payment("10 EUR"), reply(201, "first")).await;
    let patch = at(payment("10 EUR"), "PATCH", "/payments?of=7");
    let seen = shop.served(patch, reply(200, "patched")).await;
    assert_eq!(seen.of(), (200, false, "patched"));
    let elsewhere = at(payment("10 EUR"), "POST", "/orders");
    let seen = shop.served(elsewhere, reply(200, "ordered")).await;
    assert_eq!(seen.of(), (200, false, "ordered"));
    let other = IdempotencyLayer::new("other", store.clone(), Scope::Global, config.clone());
    let mut other = Shop::of(other.unwrap());
    let seen = other.served(payment("10 EUR"), reply(201, "other")).await;
    assert_eq!(seen.of(), (201, false, "other"));
    // Another process, with a layer of the same name.
    let same = Shop::with(store, config);
    assert_eq!(
        same.call_with(payment("10 EUR")).await.of(),
        (201, true, "first")
    );
}

fn tenant(parts: &Parts) -> Option<String> {
    let tenant = parts.headers.get("x-account")?;
    Some(tenant.to_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn tenants_do_not_get_each_others_responses() {
    let store = Scripted::new(|_, _| Fate::Done);
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("shop", store.clone(), Scope::by(tenant), config);
    let mut shop = Shop::of(layer.unwrap());
    let by = |account: &str| with_header(payment("10 EUR"), "x-account", account);
    shop.rejects(payment("10 EUR"), 403, "NoTenant").await;
    assert_eq!(store.calls(), [""; 0]);
    let first = shop.served(by("a"), reply(201, "of a")).await;
    assert_eq!(first.of(), (201, false, "of a"));
    let other = shop.served(by("b"), reply(201, "of b")).await;
    assert_eq!(other.of(), (201, false, "of b"));
    assert_eq!(shop.call_with(by("a")).await.of(), (201, true, "of a"));
    assert_eq!(shop.call_with(by("b")).await.of(), (201, true, "of b"));
}

#[tokio::test(start_paused = true)]
async fn a_custom_route_and_fingerprint_replace_path_and_request() {
    let layer = super::layer(IdempotencyConfig::default())
        .route(|_| "payments".to_owned())
        .fingerprint(|_, body| body.to_ascii_lowercase());
    let mut shop = Shop::of(layer);
    shop.served(payment("10 EUR"), reply(201, "paid")).await;
    let same = at(payment("10 eur"), "POST", "/v1/payments/");
    assert_eq!(shop.call_with(same).await.of(), (201, true, "paid"));
    assert_eq!(shop.call_with(payment("11 EUR")).await.problem(), "Reused");
}

#[tokio::test(start_paused = true)]
async fn unguarded_requests_pass_through_unchanged() {
    let config = IdempotencyConfig::default().methods(["PUT", "POST"]);
    let layer = super::layer(config).guard(|parts| parts.uri.path() != "/search");
    let mut shop = Shop::of(layer);
    for (method, path) in [
        ("PATCH", "/payments"),
        ("POST", "/search"),
        ("GET", "/payments"),
    ] {
        for _ in 0..2 {
            let request = at(payment("10 EUR"), method, path);
            let (sent, called) = shop.running(request).await;
            assert!(called.operation.is_none(), "{method} {path}");
            assert_eq!((called.body.as_str(), called.left), ("10 EUR", None));
            assert_eq!(
                called.finish(sent, reply(409, "as it is")).await.of(),
                (409, false, "as it is")
            );
        }
    }
    let put = at(payment("10 EUR"), "PUT", "/payments");
    let (sent, called) = shop.running(put).await;
    assert!(called.operation.is_some());
    called.finish(sent, reply(200, "")).await;
}

#[tokio::test(start_paused = true)]
async fn an_optional_key_protects_requests_that_have_one() {
    let config = IdempotencyConfig::default().required(false);
    let mut shop = Shop::new(config);
    for _ in 0..2 {
        let (sent, called) = shop.running(with_lines(&[])).await;
        assert!(called.operation.is_none());
        called.pays(sent).await;
    }
    shop.served(payment("10 EUR"), reply(201, "paid")).await;
    assert!(shop.call_with(payment("10 EUR")).await.replayed());
    shop.rejects(with_lines(&[b"bare-0123456789abcdef"]), 400, "Malformed")
        .await;
}

#[test]
fn an_invalid_setting_is_an_error_with_its_name() {
    let config = IdempotencyConfig::default;
    let zero = std::time::Duration::ZERO;
    let second = std::time::Duration::from_secs(1);
    for (config, field) in [
        (config().header("a b"), "header"),
        (config().methods([""; 0]), "methods"),
        (config().methods(["a b"]), "methods"),
        // It would match no request: methods are in capitals.
        (config().methods(["post"]), "methods"),
        (config().min_key_len(0), "min_key_len"),
        (config().min_key_len(256), "min_key_len"),
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

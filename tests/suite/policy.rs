//! What a service publishes of its idempotency keys follows its settings.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::{get, post};
use buttress::http::answer;
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{
    AfterCrash, HeaderPolicy, IdempotencyConfig, IdempotencyLayer, Normalize, Scope, StoragePolicy,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

fn layer(config: IdempotencyConfig) -> IdempotencyLayer {
    IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, config).unwrap()
}

fn both(layer: &IdempotencyLayer) -> (String, Value) {
    let policy = layer.policy();
    let data = serde_json::from_str(&policy.to_json()).unwrap();
    (policy.to_string(), data)
}

/// A setting that was changed, what the page says then and did not say before, and where the data says it.
struct Changed(IdempotencyLayer, &'static str, &'static str, Value);

#[expect(clippy::too_many_lines, reason = "a row for each setting")]
fn changes() -> Vec<Changed> {
    let config = IdempotencyConfig::default;
    let secs = Duration::from_secs;
    let of = |config, page, place, value| Changed(layer(config), page, place, value);
    let once = || layer(config());
    let by = Scope::by(|_| None);
    let tenants = IdempotencyLayer::new("payments", MemoryStore::new(), by, config()).unwrap();
    let renamed = IdempotencyLayer::new("orders", MemoryStore::new(), Scope::Global, config());
    let only = |names: &[&str]| HeaderPolicy::Only(names.iter().map(|&name| name.into()).collect());
    vec![
        of(
            config().header("X-Key"),
            "`x-key: \"8e03",
            "/key/header",
            json!("x-key"),
        ),
        of(
            config().required(false),
            "It is **optional**",
            "/key/required",
            json!(false),
        ),
        of(
            config().lenient(true),
            "without quotes",
            "/key/unquoted_accepted",
            json!(true),
        ),
        of(
            config().methods(["PUT"]),
            "on `PUT`, on",
            "/methods",
            json!(["PUT"]),
        ),
        of(
            config().shortest_key(20),
            "20 to 255 characters",
            "/key/shortest",
            json!(20),
        ),
        of(
            config().ttl(secs(72 * 3600)),
            "kept for **72 h**",
            "/answer/kept_for",
            json!(259_200.0),
        ),
        of(
            config().lease(secs(30)),
            "not heard of for 30 s,",
            "/run/lease",
            json!(30.0),
        ),
        of(
            config().max_run(secs(120)),
            "takes 2 min at most",
            "/run/longest",
            json!(120.0),
        ),
        of(
            config().wait(Duration::from_millis(2500)),
            "waits 2.5s for its answer",
            "/run/wait",
            json!(2.5),
        ),
        of(
            config().store_timeout(secs(2)),
            "within 2 s, a request is refused",
            "/store/timeout",
            json!(2.0),
        ),
        of(
            config().max_request_body(2048),
            "Its body has 2 KiB at most",
            "/request/max_bytes",
            json!(2048),
        ),
        of(
            config().max_response_body(999),
            "more than 999 bytes",
            "/answer/max_bytes",
            json!(999),
        ),
        of(
            config().keep(StoragePolicy::SuccessOnly),
            "Only responses below 400",
            "/answer/kept",
            json!("success_only"),
        ),
        of(
            config().keep(StoragePolicy::DeleteOnError),
            "Responses below 500",
            "/answer/kept",
            json!("delete_on_error"),
        ),
        of(
            config().headers(only(&["location", "etag"])),
            "of its headers `location` and `etag`",
            "/answer/headers",
            json!(["location", "etag"]),
        ),
        of(
            config().headers(only(&[])),
            "none of its headers",
            "/answer/headers",
            json!([]),
        ),
        of(
            config().fail_open(true),
            "as if it had no key",
            "/store/unavailable",
            json!("unprotected"),
        ),
        of(
            config().after_crash(AfterCrash::Refuse),
            "is not run again under its key",
            "/run/after_crash",
            json!("refuse"),
        ),
        of(
            config().max_running(7),
            "at most 7 operations at a time. Beyond",
            "/run/at_most",
            json!(7),
        ),
        of(
            config().max_running_per_tenant(Some(3)),
            "at most 3 of one client",
            "/run/at_most_per_tenant",
            json!(3),
        ),
        of(
            config().max_waiting(5),
            "At most 5 requests wait",
            "/run/waiting_at_most",
            json!(5),
        ),
        of(
            config().handlers_take_operation(true),
            "from before the operation began",
            "/run/released_if_not_taken",
            json!(true),
        ),
        of(
            config().expires_header(true),
            "`Idempotency-Expires` is the time",
            "/answer/expires_header",
            json!(true),
        ),
        Changed(
            tenants,
            "Your keys are your own",
            "/key/scope",
            json!("tenant"),
        ),
        Changed(
            renamed.unwrap(),
            "keys of `orders`",
            "/name",
            json!("orders"),
        ),
        Changed(
            once().guard(|_| true),
            "where the service says so",
            "/guards",
            json!("some"),
        ),
        Changed(
            once().route(|_| "pay".into()),
            "another method or route",
            "/key/route",
            json!("custom"),
        ),
        Changed(
            once().fingerprint(|_, body| body.to_vec()),
            "what the service compares of it",
            "/request/compared",
            json!("custom"),
        ),
        Changed(
            once().normalize(Normalize::new()),
            "host, method, path, query, `content-type` and body are the same",
            "/request/compared",
            json!([
                "authority",
                "method",
                "path",
                "query",
                "content-type",
                "body"
            ]),
        ),
        Changed(
            once().normalize(
                Normalize::new()
                    .any_authority()
                    .canonical_json()
                    .multipart(),
            ),
            "Not compared: the order of members, white space and string escapes in JSON; the boundary of a multipart body.",
            "/request/ignored",
            json!(["json_notation", "multipart_boundary"]),
        ),
    ]
}

#[test]
fn page_and_data_follow_every_setting() {
    let (page, data) = both(&layer(IdempotencyConfig::default()));
    for Changed(layer, says, place, value) in changes() {
        let (page_now, data_now) = both(&layer);
        assert!(page_now.contains(says), "{says}: {page_now}");
        assert!(!page.contains(says), "{says}");
        assert_eq!(data_now.pointer(place), Some(&value), "{data_now}");
        let before = data.pointer(place);
        assert!(
            before.is_some_and(|before| *before != value),
            "{place}: {before:?}"
        );
    }
}

#[test]
fn no_setting_is_forgotten() {
    let toml = toml::to_string(&IdempotencyConfig::default()).unwrap();
    let plain = both(&layer(IdempotencyConfig::default())).1;
    let changed: Vec<_> = changes().into_iter().map(|change| change.0).collect();
    for line in toml.lines() {
        let setting = line.split(" = ").next().unwrap();
        // A change of this setting, and of none besides, is among those above.
        let is_changed = changed.iter().any(|layer| {
            let now = toml::to_string(layer.config()).unwrap();
            let differs = |old: &&str| !now.lines().any(|line| line == *old);
            toml.lines().filter(differs).eq([line]) && both(layer).1 != plain
        });
        assert!(is_changed, "{setting}");
    }
}

/// The variants of `KeyProblem`, as its file has them.
fn variants() -> Vec<String> {
    let file = include_str!("../../src/key_problem.rs");
    let body = file.split_once("pub enum KeyProblem {").unwrap().1;
    let body = body.split_once("\n}").unwrap().0;
    let lines = body.lines().map(str::trim);
    let lines = lines.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    lines
        .map(|line| line.split(['(', ',']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_problem_is_listed_once_with_what_to_do() {
    let variants = variants();
    assert_eq!(variants.len(), 15, "{variants:?}");
    // A client refuses this one; no server returns it.
    let variants: Vec<_> = variants
        .into_iter()
        .filter(|one| one != "SecondCall")
        .collect();
    let (page, data) = both(&layer(IdempotencyConfig::default()));
    let problems = data["problems"].as_array().unwrap();
    assert_eq!(problems.len(), variants.len());
    for variant in &variants {
        let end = format!("#variant.{variant}");
        let rows: Vec<_> = page.lines().filter(|line| line.contains(&end)).collect();
        assert_eq!(rows.len(), 1, "{variant}");
        let problem = problems
            .iter()
            .find(|problem| problem["type"].as_str().unwrap().ends_with(&end));
        let problem = problem.unwrap_or_else(|| panic!("{variant}"));
        let status = problem["status"].as_u64().unwrap();
        assert!(rows[0].starts_with(&format!("| {status} | ")), "{rows:?}");
        assert!(!problem["what_to_do"].as_str().unwrap().is_empty());
    }
}

#[test]
fn what_cannot_come_up_and_what_is_done_about_it_follow_the_settings() {
    let told = |layer: &IdempotencyLayer, title: &str| {
        let data = both(layer).1;
        let problems = data["problems"].as_array().unwrap().clone();
        let problem = problems.into_iter().find(|one| one["title"] == title);
        let problem = problem.unwrap();
        (problem["occurs"].clone(), problem["send_again"].clone())
    };
    let config = IdempotencyConfig::default;
    let (missing, nobody) = (
        "Idempotency key missing",
        "Owner of the idempotency key unknown",
    );
    let plain = layer(config());
    assert_eq!(told(&plain, missing), (json!(true), json!("corrected")));
    let optional = layer(config().required(false));
    assert_eq!(told(&optional, missing).0, false);
    assert!(both(&optional).0.contains("Does not occur here."));
    assert_eq!(told(&plain, nobody).0, false);
    assert_eq!(told(&plain, "Operation in progress").1, "same");
    assert_eq!(told(&plain, "Operation failed").1, "never");
    let freed = layer(config().keep(StoragePolicy::DeleteOnError));
    assert_eq!(told(&freed, "Operation failed").1, "same");
}

#[tokio::test]
async fn the_types_are_those_of_the_answers() {
    let once = layer(IdempotencyConfig::default());
    let (page, _) = both(&once);
    let router = Router::new()
        .route("/payments", post(async || "paid"))
        .layer(answer(once))
        .route("/idempotency", get(async || page));
    let request = Request::post("/payments").body(Body::empty()).unwrap();
    let refused = router.clone().oneshot(request).await.unwrap();
    let status = refused.status();
    let problem = refused.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    let request = Request::get("/idempotency").body(Body::empty()).unwrap();
    let page = router.oneshot(request).await.unwrap();
    let page = page.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let kind = problem["type"].as_str().unwrap();
    let row = page.lines().find(|line| line.contains(kind)).unwrap();
    let start = format!(
        "| {} | {} | ",
        status.as_u16(),
        problem["title"].as_str().unwrap()
    );
    assert!(row.starts_with(&start), "{row}");
}

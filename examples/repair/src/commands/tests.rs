use buttress::http::handle_rejections;
use buttress::idempotency::store::{Claim, Fingerprint, MemoryStore, RecordKey, Store};
use clap::Parser;

use super::*;
use crate::args::Cli;
use crate::stores;

const KEY: RecordKey = RecordKey([0xab; 32]);
const ID: &str = "abababababababababababababababab";

/// Runs this command line against a store in memory.
async fn repair(store: &MemoryStore, line: &str) -> Result<String, String> {
    let line = std::iter::once("repair").chain(line.split_whitespace());
    let cli = Cli::try_parse_from(line).unwrap();
    let layer = stores::layer(store.clone(), &cli.layer).unwrap();
    let ran = run(&layer, cli.command).await;
    ran.map_err(|error| error.to_string())
}

/// A record whose process died.
async fn stopped(store: &MemoryStore) -> Claim {
    let hour = Duration::from_secs(3600);
    let claim = Claim::new(Fingerprint([7; 32]), Duration::ZERO, hour);
    store.begin(&KEY, &claim).await.unwrap();
    claim
}

#[tokio::test(start_paused = true)]
async fn list_shows_states_and_no_response() {
    let store = MemoryStore::new();
    let claim = stopped(&store).await;
    let listed = repair(&store, "list").await.unwrap();
    assert!(
        listed.contains(ID) && listed.contains("stopped"),
        "{listed}"
    );
    assert!(listed.ends_with("1 operations"), "{listed}");
    let none = repair(&store, "list --state unknown").await.unwrap();
    assert!(!none.contains(ID), "{none}");
    let none = repair(&store, "list --older-than 1m").await.unwrap();
    assert!(!none.contains(ID), "{none}");
    let answer = "1AHTTP/1.1 201 \r\nx: y\r\n\r\n\r\nsecret";
    let ended = store.complete(&KEY, claim.token, answer.into(), Duration::from_secs(60));
    ended.await.unwrap();
    let listed = repair(&store, "list --state stored").await.unwrap();
    assert!(
        listed.contains("201") && !listed.contains("secret"),
        "{listed}"
    );
}

#[tokio::test(start_paused = true)]
async fn show_names_a_record_by_its_first_digits_and_prints_a_response_on_request() {
    let store = MemoryStore::new();
    let claim = stopped(&store).await;
    let answer = "1AHTTP/1.1 201 \r\nx: y\r\n\r\n\r\nsecret";
    let ended = store.complete(&KEY, claim.token, answer.into(), Duration::from_secs(60));
    ended.await.unwrap();
    for record in ["abababab", ID, &KEY.to_hex()] {
        let shown = repair(&store, &format!("show {record}")).await.unwrap();
        assert!(
            shown.contains("stored 201") && shown.contains("6 bytes"),
            "{shown}"
        );
        assert!(!shown.contains("secret"), "{shown}");
        let whole = repair(&store, &format!("show {record} --body"))
            .await
            .unwrap();
        assert!(
            whole.contains("x: y") && whole.ends_with("secret"),
            "{whole}"
        );
    }
    for (record, why) in [
        ("ababab", "8 to 64"),
        ("not-digits", "8 to 64"),
        ("cdcdcdcd", "there is no record"),
    ] {
        let error = repair(&store, &format!("show {record}")).await.unwrap_err();
        assert!(error.contains(why), "{record}: {error}");
    }
    let mut other = KEY;
    other.0[31] = 0;
    let claim = Claim::new(Fingerprint([7; 32]), Duration::ZERO, Duration::MAX);
    store.begin(&other, &claim).await.unwrap();
    let error = repair(&store, "show abababab").await.unwrap_err();
    assert!(error.contains("more than one"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_running_operation_is_refused_with_the_reason() {
    let store = MemoryStore::new();
    let hour = Duration::from_secs(3600);
    let claim = Claim::new(Fingerprint([7; 32]), hour, hour);
    store.begin(&KEY, &claim).await.unwrap();
    for line in [
        "release abababab --run 1",
        "release abababab --run 1 --force",
        "record abababab --run 1 --status 201 --force",
    ] {
        let error = repair(&store, line).await.unwrap_err();
        assert!(
            error.contains("the operation is running"),
            "{line}: {error}"
        );
    }
    assert!(store.renew(&KEY, claim.token, hour, hour).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_repair_names_the_run_and_waits_for_the_longest_run() {
    let store = MemoryStore::new();
    stopped(&store).await;
    let error = repair(&store, "release abababab --run 2")
        .await
        .unwrap_err();
    assert!(
        error.contains("run 1") && error.contains("run 2"),
        "{error}"
    );
    let error = repair(&store, "release abababab --run 1")
        .await
        .unwrap_err();
    assert!(error.contains("may still be running"), "{error}");
    let short = "--max-run 1s release abababab --run 1";
    assert!(repair(&store, short).await.is_err());
    tokio::time::advance(Duration::from_secs(1)).await;
    let released = repair(&store, short).await.unwrap();
    assert!(released.contains(ID), "{released}");
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_is_found_and_its_repetition_gets_the_recorded_response() {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::post;
    use tower::ServiceExt;

    let store = MemoryStore::new();
    let cli = Cli::try_parse_from(["repair", "list"]).unwrap();
    let layer = stores::layer(store.clone(), &cli.layer).unwrap();
    let app = Router::new()
        .route("/payments", post(async || "paid"))
        .layer(handle_rejections(layer));
    let pay = async || {
        let request = Request::post("/payments").header("idempotency-key", "\"0123456789abcdef\"");
        let request = request.body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap()
    };
    assert_eq!(pay().await.status(), 200);
    let shown = repair(&store, "find /payments --key 0123456789abcdef").await;
    let shown = shown.unwrap();
    let id = shown.lines().next().unwrap().split_whitespace().last();
    let record = format!(
        "record {} --run 1 --status 201 --header location:/payments/1 --body paid-by-hand",
        id.unwrap()
    );
    let error = repair(&store, &record).await.unwrap_err();
    assert!(error.contains("force the repair"), "{error}");
    repair(&store, &format!("{record} --force")).await.unwrap();
    let response = pay().await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/payments/1");
    assert_eq!(response.headers()["idempotent-replayed"], "true");
    for line in [
        "find /payments --key 0123456789abcdef --tenant acme",
        "find /payments --key 0123456789abcdef --method PATCH",
        "find /payments/ --key 0123456789abcdef",
    ] {
        let error = repair(&store, line).await.unwrap_err();
        assert!(error.contains("no record of this request"), "{error}");
    }
}

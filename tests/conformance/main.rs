//! Black-box cases drawn from the test suites of the reference systems (Polly, Resilience4j, failsafe-go, Finagle, Envoy,
//! gRPC, the AWS SDKs, Sentinel, …), as data: a file a group, run by a small driver through the public API on paused time.
//!
//! A row records the behavior of its source, in words. Its `cases` are run here. Where this crate differs on purpose, `ours`
//! describes its behavior and `reason` gives the reason. A row whose pattern does not exist yet, or a part of it, is
//! `waiting`; one that cannot be driven from the outside is `shown` by the unit test it names. None is skipped in silence.
//!
//! The letters of the scripts: `S` success, `F` failure, `N` neutral, `R` refused; C closed, O open, H half-open, I isolated,
//! M metrics only.

#![expect(clippy::disallowed_methods, reason = "tests may read the paused clock")]

mod backoff;
mod body;
mod breaker;
mod budget;
mod build;
mod fields;
mod stack;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: String,
    title: String,
    /// All rows of the group, by name.
    ids: Vec<String>,
    rows: Vec<Row>,
}

/// One row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    /// The test it was drawn from.
    source: String,
    config: String,
    events: String,
    expected: String,
    /// What this crate does instead, on purpose.
    ours: Option<String>,
    /// Why.
    reason: Option<String>,
    #[serde(default)]
    cases: Vec<Value>,
    /// The unit test that shows it, as `file: name`.
    shown: Option<String>,
    /// What it waits for.
    waiting: Option<String>,
}

/// Runs every case of a table, each by the driver that its first field names.
async fn run(text: &str) {
    let table: Table = serde_json::from_str(text).expect("a table");
    let ids: BTreeSet<_> = table.ids.iter().collect();
    let rows: BTreeSet<_> = table.rows.iter().map(|row| &row.id).collect();
    assert_eq!(ids, rows, "group {}", table.group);
    assert_eq!((ids.len(), rows.len()), (table.ids.len(), table.rows.len()));
    println!("{}: {}", table.group, table.title);
    for row in &table.rows {
        let Row {
            id,
            source,
            config,
            events,
            expected,
            ..
        } = row;
        println!("  {id} ({source})\n    {config}: {events}\n    theirs: {expected}");
        assert_eq!(row.ours.is_some(), row.reason.is_some(), "{id}");
        if let (Some(ours), Some(reason)) = (&row.ours, &row.reason) {
            println!("    ours: {ours}, because {reason}");
        }
        match (&row.waiting, &row.shown, &row.cases[..]) {
            (Some(what), None, _) => println!("    waiting for {what}"),
            (None, Some(place), []) => assert!(exists(place), "{id}: there is no {place}"),
            (None, None, [_, ..]) => {}
            _ => panic!("{id} is to be run, shown or waiting: one of them"),
        }
        for (number, case) in row.cases.iter().enumerate() {
            let at = format!("{id}, case {number}");
            drive(&at, case).await;
        }
    }
}

async fn drive(at: &str, case: &Value) {
    let object = case.as_object().expect("a case is an object");
    let has = |field| object.contains_key(field);
    let case = case.clone();
    if has("breaker") {
        breaker::drive(at, read(at, case)).await;
    } else if has("backoff") {
        backoff::drive(at, &read(at, case));
    } else if has("budget") {
        budget::drive(at, read(at, case)).await;
    } else if has("stack") {
        stack::drive(at, read(at, case)).await;
    } else if has("body") {
        body::drive(at, read(at, case)).await;
    } else if has("refused") {
        build::refused(at, read(at, case));
    } else if has("response") {
        build::classified(at, read(at, case));
    } else if has("parts") {
        build::shows(at, &read(at, case));
    } else {
        panic!("{at}: no driver for it");
    }
}

fn read<T: serde::de::DeserializeOwned>(at: &str, value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{at}: {error}"))
}

/// Whether the test that a row names exists.
fn exists(place: &str) -> bool {
    let (file, name) = place.split_once(": ").expect("`file: name`");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.contains(&format!("fn {name}("))
}

#[tokio::test(start_paused = true)]
async fn a_breaker_by_failures_in_a_row() {
    run(include_str!("a.json")).await;
}

#[tokio::test(start_paused = true)]
async fn b_breaker_over_the_last_calls() {
    run(include_str!("b.json")).await;
}

#[tokio::test(start_paused = true)]
async fn c_breaker_over_time() {
    run(include_str!("c.json")).await;
}

#[tokio::test(start_paused = true)]
async fn d_breaker_half_open_and_manual() {
    run(include_str!("d.json")).await;
}

#[tokio::test(start_paused = true)]
async fn e_breaker_by_slow_calls() {
    run(include_str!("e.json")).await;
}

#[tokio::test(start_paused = true)]
async fn f_retry_and_backoff() {
    run(include_str!("f.json")).await;
}

#[tokio::test(start_paused = true)]
async fn g_retry_budget() {
    run(include_str!("g.json")).await;
}

#[tokio::test(start_paused = true)]
async fn l_timeout_and_deadline() {
    run(include_str!("l.json")).await;
}

#[tokio::test(start_paused = true)]
async fn m_composition() {
    run(include_str!("m.json")).await;
}

#[tokio::test(start_paused = true)]
async fn r_what_has_bitten_users() {
    run(include_str!("r.json")).await;
}

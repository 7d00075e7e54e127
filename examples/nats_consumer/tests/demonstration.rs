//! The demonstration in quick mode, with the server at `NATS_URL`.

use std::io::Write;
use std::process::{Command, Output};

/// Runs the program, if there is a server.
fn run(arguments: &[&str]) -> Option<Output> {
    if std::env::var_os("NATS_URL").is_none() {
        // Not by `eprintln`, whose output is hidden in a test that passes.
        let text = "\n!! NOT RUN: the demonstration needs NATS_URL. Run it by: \
                    scripts/services.sh --nats cargo test -p nats_consumer\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    }
    let program = env!("CARGO_BIN_EXE_nats_consumer");
    Some(Command::new(program).args(arguments).output().unwrap())
}

/// The number in the line with this name.
fn number(output: &Output, name: &str) -> usize {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or_else(|| panic!("`{name}` is not in the report:\n{text}{errors}"))
}

#[test]
fn applies_each_order_once_while_consumers_are_killed() {
    let Some(output) = run(&["--quick"]) else {
        return;
    };
    assert_eq!(number(&output, "orders"), 60);
    assert_eq!(number(&output, "messages"), 121);
    assert!(number(&output, "deliveries") >= 121);
    assert_eq!(number(&output, "dead letters"), 1);
    assert_eq!(number(&output, "applied  "), 60);
    // Consumers were killed in the middle of an operation.
    let later = number(&output, "applied by a later run") + number(&output, "found by a later run");
    assert!(later > 0);
    assert_eq!(number(&output, "applied twice"), 0);
    assert_eq!(number(&output, "not applied"), 0);
    assert_eq!(output.status.code(), Some(0));
}

/// The count is not zero because nothing is ever counted.
#[test]
fn applies_orders_twice_without_the_layer() {
    let Some(output) = run(&["--quick", "--ignore-key"]) else {
        return;
    };
    assert_eq!(number(&output, "applied twice"), 60);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn explains_what_to_do_without_a_server() {
    let output = Command::new(env!("CARGO_BIN_EXE_nats_consumer"))
        .env_remove("NATS_URL")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("scripts/services.sh --nats"), "{text}");
}

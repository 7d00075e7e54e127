//! The rules of the house that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Every source file with its path below `src` and its code: without comments, and without the tests at its foot.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file");
            let code: String = text
                .lines()
                .take_while(|line| {
                    !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test")
                })
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| [line, "\n"])
                .collect();
            let name = path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/");
            (name, code)
        })
        .collect()
}

const PATTERNS: &[&str] = &["breaker", "budget", "idempotency", "retry", "timeout"];
const RIM: &[&str] = &["http", "reqwest", "telemetry", "testing"];

#[test]
fn machines_and_configs_know_no_runtime_no_lock_and_no_clock() {
    let banned = [
        "tokio",
        "tower",
        "Future",
        "Mutex",
        "Arc<",
        "Arc::",
        "chance::draw",
        "Now",
        "async ",
    ];
    for (name, code) in files() {
        if name.ends_with("/machine.rs")
            || name.ends_with("/config.rs")
            || ["window.rs", "backoff.rs"].contains(&&*name)
        {
            for word in banned {
                assert!(!code.contains(word), "{name} knows `{word}`");
            }
        }
    }
}

#[test]
fn arrows_never_turn_back() {
    let everything = PATTERNS.iter().chain(RIM).chain(&["gate"]);
    for (name, code) in files() {
        let home = name
            .split('/')
            .next()
            .expect("a path")
            .trim_end_matches(".rs");
        for module in everything.clone() {
            let allowed = match home {
                "lib" => true,
                _ if home == *module => true,
                // The rim knows the patterns; no pattern knows it.
                _ if RIM.contains(&home) => true,
                // Patterns know the gate. What two of them need stands alone: the budget, and the limit's timer.
                _ if PATTERNS.contains(&home) => {
                    *module == "gate"
                        || (home == "retry"
                            && (*module == "budget"
                                || (*module == "timeout" && only_the_alarm(&code))))
                }
                _ => false,
            };
            assert!(
                allowed || !code.contains(&format!("crate::{module}")),
                "{name} imports `{module}`"
            );
        }
    }
}

fn only_the_alarm(code: &str) -> bool {
    code.matches("crate::timeout").count() == code.matches("crate::timeout::Alarm").count()
}

#[test]
fn only_the_clock_reads_the_clock_and_only_chance_draws() {
    for (name, code) in files() {
        for call in ["Instant::now", "SystemTime::now"] {
            assert!(
                name == "clock.rs" || !code.contains(call),
                "{name} calls `{call}`"
            );
        }
        for call in ["rand::rng", "rand::random", "thread_rng"] {
            assert!(
                name == "chance.rs" || !code.contains(call),
                "{name} calls `{call}`"
            );
        }
    }
}

#[test]
fn files_stay_small() {
    for (name, code) in files() {
        // Compiled for tests only.
        if name.ends_with("/model.rs") {
            continue;
        }
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{name} has {lines} lines of code");
    }
}

//! Rules of the source code that the compiler does not check.

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

/// The path below `src` and the code of every source file, without comments and without unit tests.
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
const EDGES: &[&str] = &["http", "reqwest", "telemetry", "testing"];

#[test]
fn machines_and_configs_use_no_runtime_no_lock_and_no_clock() {
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
                assert!(!code.contains(word), "{name} uses `{word}`");
            }
        }
    }
}

#[test]
fn modules_depend_on_lower_layers_only() {
    let everything = PATTERNS.iter().chain(EDGES).chain(&["gate"]);
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
                // The edges may use the patterns; no pattern uses an edge.
                _ if EDGES.contains(&home) => true,
                // Patterns use the gate. The retry also uses the budget and the timer of the limits.
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
fn the_crate_depends_on_no_store_crate() {
    let manifest = include_str!("../../Cargo.toml");
    let dependency = manifest.lines().find(|line| line.starts_with("buttress-"));
    assert_eq!(dependency, None);
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

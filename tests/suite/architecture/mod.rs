//! Rules of the source code that the compiler does not check.

mod dependencies;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::dependencies::{Crate, Dependency};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

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

/// The code without comments and without top-level items for tests.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut skips = false;
    for line in text.lines() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            skips = true;
        } else if skips {
            // An item that rustfmt has formatted ends with the first unindented `}` or `;`.
            skips = !(line.starts_with('}') || (!line.starts_with(' ') && line.ends_with(';')));
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The path below `src` and the code of every source file.
fn files() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file");
            let name = path.strip_prefix(&root).expect("below src");
            (name.to_string_lossy().replace('\\', "/"), code_of(&text))
        })
        .collect()
}

const PATTERNS: &[&str] = &["breaker", "budget", "idempotency", "retry", "timeout"];
const EDGES: &[&str] = &["http", "reqwest", "telemetry", "testing"];

/// The first name of a path below `src`.
fn home(file: &str) -> &str {
    let first = file.split('/').next().expect("a path");
    first.trim_end_matches(".rs")
}

fn is_foundation(home: &str) -> bool {
    home != "gate" && home != "lib" && !PATTERNS.contains(&home) && !EDGES.contains(&home)
}

/// Whether the layers allow this dependency.
fn points_down(dependency: &Dependency) -> bool {
    let (from, to) = (home(&dependency.from), home(&dependency.to));
    if from == to || from == "lib" || EDGES.contains(&from) {
        return to != "lib" || from == "lib";
    }
    if PATTERNS.contains(&from) {
        return is_foundation(to)
            || to == "gate"
            || (from == "retry" && (to == "budget" || dependency.to == "timeout/alarm.rs"));
    }
    is_foundation(to)
}

/// Cycles of files: sets of files each of which depends on each other one, directly or not.
fn cycles(dependencies: &BTreeSet<Dependency>) -> Vec<BTreeSet<&str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for dependency in dependencies.iter().filter(|dependency| !dependency.test) {
        let to = next.entry(&dependency.from).or_default();
        to.insert(&dependency.to);
    }
    let reachable = |from: &str| {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = next.get(from).into_iter().flatten().copied().collect();
        while let Some(file) = open.pop() {
            if found.insert(file) {
                open.extend(next.get(file).into_iter().flatten());
            }
        }
        found
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|file| (*file, reachable(file))).collect();
    let mut cycles = Vec::new();
    for (file, all) in &reached {
        let returns = |other: &&&str| reached.get(**other).is_some_and(|all| all.contains(file));
        let cycle: BTreeSet<&str> = all.iter().filter(returns).copied().collect();
        if cycle.contains(file) && !cycles.contains(&cycle) {
            cycles.push(cycle);
        }
    }
    cycles
}

/// The dependencies between the files of a cycle, a line each.
fn show_cycle(cycle: &BTreeSet<&str>, dependencies: &BTreeSet<Dependency>) -> String {
    dependencies
        .iter()
        .filter(|it| !it.test && cycle.contains(&*it.from) && cycle.contains(&*it.to))
        .fold("cycle:".to_owned(), |shown, it| {
            format!("{shown}\n  {} -> {} ({})", it.from, it.to, it.path)
        })
}

#[test]
fn every_file_is_a_module_of_the_crate() {
    let all = files();
    let listed: BTreeSet<&str> = all.iter().map(|(name, _)| &**name).collect();
    assert_eq!(Crate::of_folder(&root()).files(), listed);
}

#[test]
fn modules_depend_on_lower_layers_only() {
    let dependencies = Crate::of_folder(&root()).dependencies();
    let backward: Vec<_> = dependencies.iter().filter(|it| !points_down(it)).collect();
    assert!(backward.is_empty(), "upward dependencies: {backward:#?}");
}

#[test]
fn no_files_depend_on_each_other() {
    let dependencies = Crate::of_folder(&root()).dependencies();
    let cycles = cycles(&dependencies);
    let shown: Vec<_> = cycles
        .iter()
        .map(|cycle| show_cycle(cycle, &dependencies))
        .collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

/// Whether this is a file of a pattern with this name.
fn is_named(file: &str, name: &str) -> bool {
    let rest = file.strip_suffix(name);
    PATTERNS.contains(&home(file)) && rest.is_some_and(|folder| folder.ends_with('/'))
}

#[test]
fn machines_and_configs_depend_on_foundations_and_their_own_pattern_only() {
    let dependencies = Crate::of_folder(&root()).dependencies();
    let is_pure = |file: &str| is_named(file, "machine.rs") || is_named(file, "config.rs");
    for it in dependencies.iter().filter(|it| is_pure(&it.from)) {
        let (from, to) = (home(&it.from), home(&it.to));
        assert!(
            from == to || is_foundation(to),
            "{} uses {}",
            it.from,
            it.path
        );
    }
}

/// A machine is split into files, such as the breaker's trip rule: each of them is as pure as the machine.
#[test]
fn all_parts_of_a_machine_are_pure() {
    let dependencies = Crate::of_folder(&root()).dependencies();
    let code: BTreeMap<String, String> = files().into_iter().collect();
    let machines = code.keys().filter(|file| is_named(file, "machine.rs"));
    let mut open: Vec<&str> = machines.map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    while let Some(file) = open.pop() {
        if seen.insert(file) {
            assert_no_runtime(file, &code[file]);
            let used = dependencies.iter().filter(|it| it.from == file && !it.test);
            open.extend(used.map(|it| &*it.to).filter(|to| home(to) == home(file)));
        }
    }
    assert!(seen.contains("breaker/trip.rs"), "{seen:?}");
}

fn assert_no_runtime(name: &str, code: &str) {
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
    for word in banned {
        assert!(!code.contains(word), "{name} uses `{word}`");
    }
}

#[test]
fn machines_and_configs_use_no_runtime_no_lock_and_no_clock() {
    for (name, code) in files() {
        let is_plain = name.ends_with("/machine.rs") || name.ends_with("/config.rs");
        if is_plain || ["window.rs", "backoff.rs"].contains(&&*name) {
            assert_no_runtime(&name, &code);
        }
    }
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
    let manifest = include_str!("../../../Cargo.toml");
    let dependency = manifest.lines().find(|line| line.starts_with("buttress-"));
    assert_eq!(dependency, None);
}

#[test]
fn files_stay_small() {
    for (name, code) in files() {
        // Compiled for tests only.
        if name.ends_with("/model.rs") || name.ends_with("/tests.rs") {
            continue;
        }
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{name} has {lines} lines of code");
    }
}

/// A made-up crate in which the foundation `call` reaches back up in every way there is.
#[test]
fn the_check_sees_every_way_up() {
    let files = |call: &'static str| {
        Crate::of_texts(&[
            (
                "lib.rs",
                "mod call; pub mod gate; pub mod http; pub use crate::http::Client;",
            ),
            ("call.rs", call),
            (
                "gate/mod.rs",
                "mod policy; pub(crate) use self::policy::Admit;",
            ),
            (
                "gate/policy.rs",
                "use crate::call::Call; pub struct Admit; impl Call {}",
            ),
            ("http/mod.rs", "mod client; pub use self::client::*;"),
            ("http/client.rs", "pub struct Client; pub fn send() {}"),
        ])
        .dependencies()
    };
    for (call, to) in [
        ("pub struct Call; use crate::gate::Admit;", "gate/policy.rs"),
        ("pub struct Call; use super::Client;", "http/client.rs"),
        (
            "pub struct Call; use super::gate::{self, Admit as A};",
            "gate/policy.rs",
        ),
        ("pub struct Call(crate::gate::Admit);", "gate/policy.rs"),
        (
            "#[cfg(test)] mod t { use super::*; } pub struct Call(super::Client);",
            "http/client.rs",
        ),
        (
            "pub struct Call; mod a { use super::super::{call::Call, http}; fn f() { http::send() } }",
            "http/client.rs",
        ),
        (
            "pub struct Call; fn f() { assert!(x == \"a::b\", \"{}\", crate::http::send()) }",
            "http/client.rs",
        ),
        (
            "pub struct Call; fn f() { use crate::*; let _ = Client; }",
            "http/client.rs",
        ),
    ] {
        let found = files(call);
        let is_found = |it: &&Dependency| it.from == "call.rs" && it.to == to && !it.test;
        let back = found.iter().find(is_found);
        let back = back.unwrap_or_else(|| panic!("{call}: {found:?}"));
        assert!(!points_down(back), "{call}");
        if to.starts_with("gate") {
            assert_eq!(cycles(&found), [BTreeSet::from(["call.rs", to])], "{call}");
        }
    }
    let test_only = "pub struct Call; #[cfg(test)] mod tests { use crate::gate::Admit; }";
    let found = files(test_only);
    assert!(found.iter().any(|it| it.test && !points_down(it)));
    assert!(cycles(&found).is_empty(), "tests may look up");
    let plain = files("pub struct Call; pub(in crate::call) fn f() { other::gate() }");
    assert!(plain.iter().all(points_down), "{plain:?}");
}

//! Usual mistakes get a compiler error that names the fix, and the fix compiles.
//!
//! Each file in `tests/mistakes` makes one mistake under the cfg `mistake`. After `//~`, it lists expected text: the first line in the
//! first error, the others anywhere. This text comes from our `#[diagnostic]` attributes, which every rustc prints the same way.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const KNOWN: [&str; 9] = [
    "axum",
    "buttress",
    "bytes",
    "http",
    "http_body_util",
    "hyper",
    "reqwest",
    "tonic",
    "tower",
];

/// The compiler, with the libraries that this test binary was linked with. Nothing is rebuilt.
struct Rustc {
    libraries: BTreeMap<String, String>,
    /// `…/debug/deps`, which contains this binary and its dependencies.
    deps: PathBuf,
}

impl Rustc {
    fn new() -> Self {
        let binary = env::current_exe().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["test", "--test", "suite", "--all-features", "--no-run"])
            .args(["--offline", "--message-format", "json", "--target-dir"])
            .arg(binary.ancestors().nth(3).unwrap());
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "{}", errors(&built));
        let mut libraries = BTreeMap::new();
        for line in String::from_utf8(built.stdout).unwrap().lines() {
            let artifact: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = artifact["target"]["name"].as_str().unwrap_or_default();
            let mut files = artifact["filenames"].as_array().into_iter().flatten();
            let is_library = |file: &&str| Path::new(file).extension() == Some("rlib".as_ref());
            let library = files.find_map(|file| file.as_str().filter(is_library));
            if let Some(library) = library {
                libraries.insert(name.replace('-', "_"), library.to_owned());
            }
        }
        let deps = binary.parent().unwrap().to_owned();
        Self { libraries, deps }
    }

    fn check(&self, file: &Path, mistake: bool) -> Output {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut rustc = Command::new(rustc);
        rustc
            .arg(file)
            .args(["--edition", "2024", "--crate-type", "lib"])
            .args(["--emit", "metadata", "--cap-lints", "allow"])
            .args(["--out-dir", env!("CARGO_TARGET_TMPDIR")])
            .args(["--check-cfg", "cfg(mistake)"])
            .arg("-L")
            .arg(format!("dependency={}", self.deps.display()));
        for name in KNOWN {
            let library = &self.libraries[name];
            rustc.args(["--extern", &format!("{name}={library}")]);
        }
        if mistake {
            rustc.args(["--cfg", "mistake"]);
        }
        rustc.output().unwrap()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn usual_mistakes_get_an_error_that_names_the_fix() {
    let rustc = Rustc::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.display();
        let fixed = rustc.check(&file, false);
        assert!(fixed.status.success(), "{name}, fixed:\n{}", errors(&fixed));

        let mistaken = rustc.check(&file, true);
        assert!(!mistaken.status.success(), "{name} compiles");
        let errors = errors(&mistaken);
        let first = errors.lines().find(|line| line.starts_with("error"));
        let text = fs::read_to_string(&file).unwrap();
        let wanted: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("//~ "))
            .collect();
        assert!(wanted.len() > 1, "{name} lists too few lines");
        assert!(
            first.is_some_and(|line| line.contains(wanted[0])),
            "the first error of {name} is not `{}`:\n{errors}",
            wanted[0]
        );
        for line in wanted {
            assert!(errors.contains(line), "{name}: no `{line}` in\n{errors}");
        }
        seen += 1;
    }
    assert!(seen > 0, "there are no mistakes");
}

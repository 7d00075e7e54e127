//! What the README refers to is there, in the repository and on the crate page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

/// The link definitions, `[name]: target`, of these lines.
fn definitions<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<(&'a str, &'a str)> {
    lines
        .filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
        .collect()
}

#[test]
fn what_the_readme_links_to_is_there_and_the_crate_page_knows_where() {
    let readme = read("README.md");
    let page = read("src/lib.rs");
    let quoted = page.lines().filter_map(|line| {
        let line = line.strip_prefix("#![doc = \"")?;
        line.strip_suffix("\"]")
    });
    let elsewhere = definitions(quoted);
    let links = definitions(readme.lines());
    assert!(!links.is_empty());
    for (name, target) in links {
        read(target);
        let is_known = elsewhere
            .iter()
            .any(|(other, url)| *other == name && url.ends_with(target));
        assert!(is_known, "src/lib.rs does not define [{name}]");
    }
}

#[test]
fn every_feature_has_a_row_in_the_readme() {
    let readme = read("README.md");
    let manifest = read("Cargo.toml");
    let features = manifest
        .lines()
        .skip_while(|line| *line != "[features]")
        .skip(1)
        .take_while(|line| !line.starts_with("[dep"))
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| *name != "default" && !name.starts_with('#'));
    for (name, _) in features {
        assert!(readme.contains(&format!("\n| `{name}` |")), "{name}");
    }
}

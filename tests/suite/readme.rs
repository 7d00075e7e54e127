//! The links of the README and the pages are valid.

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
fn the_links_of_the_readme_exist_in_the_repository_and_on_the_crate_page() {
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

/// The pages with code to copy.
fn pages() -> Vec<String> {
    let mut pages = vec!["docs/idempotency.md".to_owned()];
    for folder in ["docs/recipes", "docs/migrating"] {
        let inside = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        for page in inside {
            let name = page.unwrap().file_name().into_string().unwrap();
            pages.push(format!("{folder}/{name}"));
        }
    }
    pages
}

#[test]
fn every_page_with_code_is_compiled() {
    let compiled = read("src/doc_pages.rs");
    for page in pages() {
        let has_code = read(&page).contains("```rust");
        let is_compiled = compiled.contains(&format!("include_str!(\"../{page}\")"));
        assert_eq!(has_code, is_compiled, "{page}");
    }
}

#[test]
fn the_links_of_the_pages_exist() {
    for page in pages() {
        let folder = Path::new(&page).parent().unwrap();
        let text = read(&page);
        let links = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split([')', '#']).next().unwrap());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            let target = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(folder)
                .join(link);
            assert!(target.exists(), "{page} links to {link}");
        }
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

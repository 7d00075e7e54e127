//! The small language of the tables.

use std::time::Duration;

/// The words of a script. `F*5` is repeated, and so is `(S F)*20`.
pub(crate) fn words(script: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = script.trim();
    while !rest.is_empty() {
        let (item, after) = if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').expect("a closing bracket");
            (self::words(&inner[..end]), &inner[end + 1..])
        } else {
            let end = rest.find([' ', '*']).unwrap_or(rest.len());
            (vec![rest[..end].to_owned()], &rest[end..])
        };
        let (times, after) = match after.strip_prefix('*') {
            Some(count) => {
                let end = count.find(' ').unwrap_or(count.len());
                (count[..end].parse().expect("a number"), &count[end..])
            }
            None => (1, after),
        };
        for _ in 0..times {
            words.extend_from_slice(&item);
        }
        rest = after.trim_start();
    }
    words
}

pub(crate) fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

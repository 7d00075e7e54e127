//! The `RateLimit` and `RateLimit-Policy` headers, as far as a client needs them: when the quota that stopped it is
//! available again.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::AGE;
use sfv::{BareItem, List, ListEntry, Parser};

/// The longest time until a spent policy (`r=0`) resets; if `limited`, and no policy is marked as spent, until any resets.
///
/// A spent policy without a reset time (`t`) resets at the end of its window (`w`) at the latest, if a
/// `RateLimit-Policy` names one. The headers of a response from a cache are ignored, because its quota is out of date.
pub(in crate::http) fn reset(headers: &HeaderMap, limited: bool) -> Option<Duration> {
    if headers.get(AGE).is_some_and(|age| age != "0") {
        return None;
    }
    let limits = policies(headers, "ratelimit", "r", "t")?;
    let spent = || limits.iter().filter(|limit| limit.units == 0);
    let mut wait = spent().filter_map(|limit| limit.seconds).max();
    if spent().any(|limit| limit.seconds.is_none()) {
        let windows = policies(headers, "ratelimit-policy", "q", "w").unwrap_or_default();
        let is_spent =
            |name: &_| spent().any(|limit| limit.seconds.is_none() && limit.name == *name);
        wait = windows
            .into_iter()
            .filter(|window| is_spent(&window.name))
            .filter_map(|window| window.seconds)
            .chain(wait)
            .max();
    }
    if limited && wait.is_none() {
        wait = limits.iter().filter_map(|limit| limit.seconds).max();
    }
    wait.map(Duration::from_secs)
}

/// One item of either header: `"burst";r=0;t=30` or `"burst";q=100;w=60`.
struct Policy {
    name: sfv::String,
    /// Those that remain (`r`), or all there are (`q`).
    units: u64,
    /// Until more are there (`t`), or for which they are there (`w`).
    seconds: Option<u64>,
}

/// All lines of a header as one list. If any is malformed, all are ignored.
fn policies(headers: &HeaderMap, header: &str, units: &str, seconds: &str) -> Option<Vec<Policy>> {
    let mut found = Vec::new();
    for line in headers.get_all(header) {
        for entry in Parser::new(line.as_bytes()).parse::<List>().ok()? {
            let ListEntry::Item(item) = entry else {
                return None;
            };
            let BareItem::String(name) = item.bare_item else {
                return None;
            };
            found.push(Policy {
                name,
                units: whole(item.params.get(units)?)?,
                seconds: match item.params.get(seconds) {
                    Some(value) => Some(whole(value)?),
                    None => None,
                },
            });
        }
    }
    Some(found)
}

/// An integer that is not negative.
fn whole(value: &BareItem) -> Option<u64> {
    match value {
        BareItem::Integer(value) => u64::try_from(*value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, text) in lines {
            headers.append(*name, value(text));
        }
        headers
    }

    fn seconds(lines: &[(&'static str, &str)], limited: bool) -> Option<u64> {
        reset(&headers(lines), limited).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_reset_of_a_spent_policy() {
        for (header, at_any, when_limited) in [
            (r#""default";r=0;t=30"#, Some(30), Some(30)),
            (r#""default";r=50;t=30"#, None, Some(30)),
            (r#""burst";r=0;t=3, "daily";r=0;t=40"#, Some(40), Some(40)),
            (r#""burst";r=0;t=3,"daily";r=9;t=40"#, Some(3), Some(3)),
            ("\"a\";r=0;t=3\t,\t\"b\";r=9;t=40", Some(3), Some(3)),
            (r#""a;t=9,\"b";t=5;r=0"#, Some(5), Some(5)),
            (r#""a"; r=0; t=5; pk=:cHs=:; qu="x;t=1""#, Some(5), Some(5)),
            (r#"  "a";r=0;t=5  "#, Some(5), Some(5)),
            (r#""";r=00;t=007"#, Some(7), Some(7)),
            (r#""a";r=9;t=1;r=0;t=5"#, Some(5), Some(5)),
            (r#""a";r=0;t="x";t=5"#, Some(5), Some(5)),
            (
                r#""a";r=0;t=999999999999999"#,
                Some(999_999_999_999_999),
                Some(999_999_999_999_999),
            ),
            (r#""a";r=0"#, None, None),
            ("", None, None),
        ] {
            let line = [("ratelimit", header)];
            let waits = (seconds(&line, false), seconds(&line, true));
            assert_eq!(waits, (at_any, when_limited), "{header}");
        }
        let two = [
            ("ratelimit", r#""a";r=0;t=1"#),
            ("ratelimit", r#""b";r=0;t=2"#),
        ];
        assert_eq!(seconds(&two, false), Some(2), "several lines are one list");
    }

    #[test]
    fn a_list_with_a_malformed_item_is_ignored() {
        for header in [
            r#""a";r=0;t=-5"#,
            r#""a";r=0;t=1.5"#,
            r#""a";r=0;t=5.0"#,
            r#""a";r=0;t=+5"#,
            r#""a";r=0;t="5""#,
            r#""a";r=0;t"#,
            r#""a";r=0;t="#,
            r#""a";r=0;t =5"#,
            r#""a";r=0;T=5"#,
            r#""a";r=-1;t=5"#,
            r#""a";r;t=5"#,
            r#""a";t=5"#,
            r#""a";r=0;t=9999999999999999"#,
            r#""a";r=0;t=5,"#,
            r#","a";r=0;t=5"#,
            r#""a";r=0;t=5,,"b";r=0;t=6"#,
            r#""a";r=0;t=5 "b";r=0;t=6"#,
            r#""a";r=0;t=5;"#,
            r#""a;r=0;t=5"#,
            r#""a\x";r=0;t=5"#,
            r#""ä";r=0;t=5"#,
            "'a';r=0;t=5",
            "default;r=0;t=5",
            "7;r=0;t=5",
            ":YQ==:;r=0;t=5",
            r#"("a" "b");r=0;t=5"#,
            r#"a="b";r=0;t=5"#,
            "limit=1, remaining=0, reset=7",
            "100, 100;w=60",
        ] {
            assert_eq!(seconds(&[("ratelimit", header)], true), None, "{header}");
            let beside = [("ratelimit", r#""b";r=0;t=2"#), ("ratelimit", header)];
            assert_eq!(seconds(&beside, true), None, "{header} in a second line");
        }
    }

    #[test]
    fn a_spent_policy_without_a_reset_resets_with_its_window() {
        let policy = (
            "ratelimit-policy",
            r#""burst";q=9;w=60, "daily";q=99;w=86400, "open";q=1"#,
        );
        for (header, wait) in [
            (r#""burst";r=0"#, Some(60)),
            (r#""burst";r=0, "daily";r=5"#, Some(60)),
            (r#""burst";r=0, "daily";r=0;t=30"#, Some(60)),
            (r#""burst";r=0, "daily";r=0;t=300"#, Some(300)),
            (r#""burst";r=0;t=7"#, Some(7)),
            (r#""open";r=0"#, None),
            (r#""other";r=0"#, None),
            (r#""burst";r=3"#, None),
            ("burst;r=0", None),
        ] {
            assert_eq!(
                seconds(&[policy, ("ratelimit", header)], false),
                wait,
                "{header}"
            );
        }
        assert_eq!(
            seconds(&[policy], true),
            None,
            "a policy without a limit has no reset"
        );
        for malformed in [
            r#""a";w=60"#,
            r#""a";q=1;w=1.5"#,
            "a;q=1;w=60",
            r#""a";q=1;w=60,"#,
        ] {
            let lines = [("ratelimit", r#""a";r=0"#), ("ratelimit-policy", malformed)];
            assert_eq!(seconds(&lines, true), None, "{malformed}");
        }
    }

    #[test]
    fn a_cached_response_is_ignored() {
        for (age, wait) in [("0", Some(30)), ("1", None), ("86400", None), ("old", None)] {
            let lines = [("age", age), ("ratelimit", r#""default";r=0;t=30"#)];
            assert_eq!(seconds(&lines, true), wait, "{age}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\\t]*", like in "[\"\\\\:;,=rtqw0-9é@%?()* ]{0,30}") {
            let spent = ("ratelimit", "\"\";r=0");
            for lines in [
                vec![("ratelimit", &*text), ("ratelimit", &like)],
                vec![spent, ("ratelimit", &like)],
                vec![spent, ("ratelimit-policy", &like)],
            ] {
                let _ = reset(&headers(&lines), true);
            }
        }
    }
}

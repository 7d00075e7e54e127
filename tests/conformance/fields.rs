//! The HTTP working group's cases for strings and items of RFC 9651, through the parser that reads our headers and through
//! a header that it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::http::retry_after;
use http::{HeaderValue, Response};
use serde::Deserialize;
use serde_json::Value;
use sfv::{BareItemFromInput, Parser};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The lines of the field.
    raw: Vec<String>,
    header_type: String,
    /// The value and its parameters.
    expected: Option<(Value, Vec<Value>)>,
    #[serde(default)]
    must_fail: bool,
    #[serde(default)]
    can_fail: bool,
    #[serde(rename = "canonical")]
    _canonical: Option<Vec<String>>,
}

fn cases() -> Vec<Case> {
    let files = [
        include_str!("structured-fields/item.json"),
        include_str!("structured-fields/string.json"),
        include_str!("structured-fields/string-generated.json"),
    ];
    files
        .into_iter()
        .flat_map(|text| serde_json::from_str::<Vec<Case>>(text).expect("cases"))
        .collect()
}

#[test]
fn every_string_and_item_is_read_as_the_working_group_says() {
    let mut run = BTreeMap::new();
    for case in cases() {
        assert_eq!(case.header_type, "item", "{}", case.name);
        assert_eq!(case.must_fail, case.expected.is_none(), "{}", case.name);
        let (value, parameters) = case.expected.unzip();
        assert!(parameters.unwrap_or_default().is_empty(), "{}", case.name);

        let joined = case.raw.join(", ");
        let read = Parser::new(&joined).parse_item::<BareItemFromInput>();
        let read = read.ok().map(|item| match item {
            BareItemFromInput::String(text) => Value::from(text.as_str()),
            BareItemFromInput::Integer(number) => Value::from(i64::from(number)),
            other => panic!("{}: {other:?}", case.name),
        });
        assert_eq!(read, value, "{}", case.name);

        // As the name of a spent quota: it counts if it is a string, and not one that two lines make together.
        let is_string = value.is_some_and(|value| value.is_string()) && !case.can_fail;
        let wait = is_string.then_some(Duration::from_secs(7));
        assert_eq!(wait_of_a_quota_named(&case.raw), wait, "{}", case.name);

        *run.entry(case.must_fail).or_insert(0) += 1;
    }
    assert_eq!(
        run,
        BTreeMap::from([(false, 103), (true, 172)]),
        "275 cases"
    );
}

/// None, too, if the name cannot stand in a header at all.
fn wait_of_a_quota_named(lines: &[String]) -> Option<Duration> {
    let mut response = Response::new(());
    for (number, line) in lines.iter().enumerate() {
        let last = number + 1 == lines.len();
        let line = format!("{line}{}", if last { ";r=0;t=7" } else { "" });
        let value = HeaderValue::from_bytes(line.as_bytes()).ok()?;
        response.headers_mut().append("ratelimit", value);
    }
    retry_after(&response)
}

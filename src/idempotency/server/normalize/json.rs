//! JSON with sorted members and without white space.

use std::ops::Range;

use serde_json::value::RawValue;

/// As deep as `serde_json` parses by default.
const MAX_DEPTH: usize = 128;

/// The text with members sorted by their names, strings with as few escapes as possible, numbers as they are written. `None` if the
/// body is not valid JSON, an object has two members of one name, or it is nested too deep.
pub(super) fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    // Parsed into a `Value`, numbers would lose digits, or not, by features that other crates switch on. So serde_json
    // checks the syntax, and the reader below only has to find where each token ends.
    let valid: &RawValue = serde_json::from_slice(body).ok()?;
    let mut reader = Reader(valid.get());
    let mut out = Vec::with_capacity(body.len());
    reader.value(&mut out, MAX_DEPTH)?;
    Some(out)
}

/// The rest of a text that is valid JSON.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(out, depth.checked_sub(1)?),
            b'[' => self.array(out, depth.checked_sub(1)?),
            b'"' => self.string(out),
            _ => {
                let end = self
                    .0
                    .find(|c: char| matches!(c, ',' | ']' | '}') || is_space(c));
                let scalar = self.take(end.unwrap_or(self.0.len()));
                out.extend_from_slice(scalar.as_bytes());
                Some(())
            }
        }
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.take(1);
        out.push(b'[');
        while self.peek()? != b']' {
            if self.peek()? == b',' {
                self.take(1);
                out.push(b',');
            }
            self.value(out, depth)?;
        }
        self.take(1);
        out.push(b']');
        Some(())
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        let mut members: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        self.take(1);
        out.push(b'{');
        let start = out.len();
        while self.peek()? != b'}' {
            if self.peek()? == b',' {
                self.take(1);
                self.peek();
                out.push(b',');
            }
            let from = out.len();
            self.string(out)?;
            let name = from..out.len();
            self.peek()?;
            self.take(1);
            out.push(b':');
            self.value(out, depth)?;
            members.push((name, from..out.len()));
        }
        self.take(1);
        let name = |one: &(Range<usize>, _)| &out[one.0.clone()];
        if !members.is_sorted_by(|one, next| name(one) < name(next)) {
            members.sort_by(|one, other| name(one).cmp(name(other)));
            if members.windows(2).any(|two| name(&two[0]) == name(&two[1])) {
                return None;
            }
            let sorted: Vec<&[u8]> = members.iter().map(|(_, all)| &out[all.clone()]).collect();
            let sorted = sorted.join(&b","[..]);
            out.truncate(start);
            out.extend_from_slice(&sorted);
        }
        out.push(b'}');
        Some(())
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let mut escaped = false;
        let end = self.0.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            is_end
        })?;
        // An escape that is half a surrogate pair is an error.
        let string: String = serde_json::from_str(self.take(end + 2)).ok()?;
        serde_json::to_writer(out, &string).ok()
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_start_matches(is_space);
        self.0.bytes().next()
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text(body: &str) -> Option<String> {
        canonical(body.as_bytes()).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn members_are_sorted_and_white_space_is_removed() {
        for (body, json) in [
            (
                " { \"b\" : [ 1 , { } , [ ] ] ,\r\n\t\"a\" : null } ",
                "{\"a\":null,\"b\":[1,{},[]]}",
            ),
            (
                "{\"a\":{\"d\":1,\"c\":2},\"B\":true}",
                "{\"B\":true,\"a\":{\"c\":2,\"d\":1}}",
            ),
            // The order of an array is content.
            ("[3,1,2]", "[3,1,2]"),
            // So is white space in a string.
            ("{\" \":\" a \"}", "{\" \":\" a \"}"),
            // Escapes are notation.
            (
                r#"["\u0061\u00e9\/\ud83d\ude00\\\"", "aé/😀\\\""]"#,
                r#"["aé/😀\\\"","aé/😀\\\""]"#,
            ),
            (r#"{"\u0062":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        ] {
            assert_eq!(text(body).as_deref(), Some(json), "{body}");
        }
    }

    #[test]
    fn ambiguous_json_is_not_normalized() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(text(&deep(MAX_DEPTH)).is_some());
        for body in [
            "",
            " ",
            "{",
            "{}{}",
            "nul",
            "{a:1}",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "\"\\x\"",
            "\u{feff}{}",
            "\"\n\"",
            // Two members of one name.
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"b\":2,\"\\u0061\":3}",
            "[{\"x\":{\"a\":1,\"a\":2}}]",
            // Half a surrogate pair.
            r#"["\ud83d"]"#,
            &deep(MAX_DEPTH + 1),
            &deep(500_000),
            &"[".repeat(1_000_000),
        ] {
            let start: String = body.chars().take(20).collect();
            assert_eq!(text(body), None, "{start}");
        }
        assert_eq!(canonical(b"\"\xff\""), None);
    }

    /// Writes a value with its members in another order, and with white space between the tokens.
    fn written(value: &Value, spaces: &mut impl Iterator<Item = &'static str>) -> String {
        let mut space = || spaces.next().unwrap_or_default().to_owned();
        let (before, after) = (space(), space());
        let inner = match value {
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if before.len() > after.len() {
                    members.reverse();
                }
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(name, value)| {
                        let name = Value::from(name.as_str());
                        format!("{}:{}", written(&name, spaces), written(value, spaces))
                    })
                    .collect();
                format!("{{{}{after}}}", members.join(","))
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| written(item, spaces)).collect();
                format!("[{}{after}]", items.join(","))
            }
            scalar => scalar.to_string(),
        };
        format!("{before}{inner}{after}")
    }

    fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ab\"\\\\{}\\[\\],: é\n]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[ab\"\\\\é]{0,3}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_notation_of_a_value_has_the_same_text(
            value in json(),
            spaces in proptest::collection::vec(prop_oneof![Just(""), Just(" "), Just("\r\n\t")], 1..50),
        ) {
            let body = written(&value, &mut spaces.into_iter().cycle());
            let json = text(&body);
            prop_assert_eq!(&json, &text(&value.to_string()), "{}", body);
            // Nothing is lost.
            let json = json.unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
            // And it is stable.
            prop_assert_eq!(text(&json), Some(json));
        }

        #[test]
        fn values_that_differ_have_different_texts(one in json(), other in json()) {
            let equal = text(&one.to_string()) == text(&other.to_string());
            prop_assert_eq!(equal, one == other);
        }

        #[test]
        fn nothing_panics(body in "[\\[\\]{}\",:\\\\ \t0-9eE.+\\-aunltrfsé]{0,40}") {
            let _ = text(&body);
        }
    }
}

//! Normalized fingerprints: differences in content count, and differences in notation can be ignored.

use buttress::idempotency::{IdempotencyConfig, Normalize};
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use proptest::prelude::*;

use super::shop::{Shop, payment, reply, with_header};

/// Every combination of settings.
fn every() -> impl Iterator<Item = Normalize> {
    (0..32).map(|bits| {
        let steps: [fn(Normalize) -> Normalize; 5] = [
            Normalize::canonical_json,
            Normalize::multipart,
            Normalize::media_type_only,
            Normalize::query_in_any_order,
            Normalize::any_authority,
        ];
        let set = steps.into_iter().enumerate();
        set.filter(|(step, _)| bits & (1 << step) != 0)
            .fold(Normalize::new(), |normalize, (_, step)| step(normalize))
    })
}

/// A request as a client writes it. All fields that are not set are empty.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    authority: String,
    in_uri: bool,
    method: &'static str,
    path: String,
    query: Option<String>,
    content_type: Option<String>,
    body: Vec<u8>,
}

impl Written {
    fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            authority: "shop.example".into(),
            in_uri: false,
            method: "POST",
            path: "/payments".into(),
            query: None,
            content_type: Some(content_type.into()),
            body: body.into(),
        }
    }

    fn fingerprint(&self, normalize: Normalize) -> Vec<u8> {
        let mut uri = self.path.clone();
        if let Some(query) = &self.query {
            uri = format!("{uri}?{query}");
        }
        let mut request = Request::builder().method(self.method);
        if self.in_uri {
            uri = format!("http://{}{uri}", self.authority);
        } else {
            request = request.header(HOST, &self.authority);
        }
        if let Some(content_type) = &self.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (parts, ()) = request.uri(uri).body(()).unwrap().into_parts();
        normalize.fingerprint(&parts, &self.body)
    }
}

fn json(body: &str) -> Written {
    Written::new("application/json", body)
}

/// A multipart body with these parts.
fn form(boundary: &str, parts: &[&str]) -> Written {
    let parts = parts.iter().enumerate().map(|(number, part)| {
        let head = format!("content-disposition: form-data; name=\"{number}\"");
        format!("--{boundary}\r\n{head}\r\n\r\n{part}\r\n")
    });
    let end = format!("--{boundary}--\r\n");
    let body: String = parts.chain([end]).collect();
    Written::new(
        &format!("multipart/form-data; boundary=\"{boundary}\""),
        body,
    )
}

fn query(query: &str) -> Written {
    Written {
        query: Some(query.into()),
        ..json("{}")
    }
}

fn at(authority: &str) -> Written {
    Written {
        authority: authority.into(),
        ..json("{}")
    }
}

/// Whether `normalize` has every setting of `other`.
fn includes(normalize: Normalize, other: Normalize) -> bool {
    let settings = |normalize: Normalize| {
        let text = format!("{normalize:?}");
        let settings = text.split(',').map(|setting| setting.contains("true"));
        settings.collect::<Vec<_>>()
    };
    let mut both = settings(normalize).into_iter().zip(settings(other));
    both.all(|(one, other)| one || !other)
}

#[test]
fn a_difference_in_notation_is_ignored_by_its_setting_and_by_no_other() {
    let new = Normalize::new;
    for (one, other, ignores) in [
        (
            json("{\"a\": 1, \"b\": [true, \"x\"]}"),
            json("{\"b\":[true,\"\\u0078\"],\"a\":1}"),
            new().canonical_json(),
        ),
        (
            Written::new("application/merge-patch+json", "{ }"),
            Written::new("application/merge-patch+json", "{}"),
            new().canonical_json(),
        ),
        (
            form("one", &["10 EUR", "\0\r\n--"]),
            form("another one", &["10 EUR", "\0\r\n--"]),
            new().multipart(),
        ),
        (
            Written::new("application/json", "1"),
            Written::new("Application/JSON; charset=UTF-8", "1"),
            new().media_type_only(),
        ),
        (
            Written::new("application/json", "{ }"),
            Written::new("application/json;v=1", "{}"),
            new().media_type_only().canonical_json(),
        ),
        (
            query("of=7&a=1&a=2&dry"),
            query("a=1&dry&a=2&of=7"),
            new().query_in_any_order(),
        ),
        (at("10.0.0.7:80"), at("10.0.0.8:80"), new().any_authority()),
        // The same for every setting: where the authority stands, and its case.
        (
            Written {
                in_uri: true,
                ..at("shop.example")
            },
            at("SHOP.example"),
            new(),
        ),
    ] {
        for normalize in every() {
            let equal = one.fingerprint(normalize) == other.fingerprint(normalize);
            let is_ignored = includes(normalize, ignores);
            assert_eq!(equal, is_ignored, "{one:?} {other:?} {normalize:?}");
        }
    }
}

#[test]
fn a_difference_in_content_is_ignored_by_no_setting() {
    let long = "9".repeat(30);
    for (one, other) in [
        // JSON: numbers by their text, arrays in their order, and nothing that only one parser accepts.
        (json("{\"a\":1}"), json("{\"a\":1.0}")),
        (json("1e2"), json("100")),
        (json("1e2"), json("1E2")),
        (json("0"), json("-0")),
        (json("[1,2]"), json("[2,1]")),
        (json(&format!("{long}1")), json(&format!("{long}2"))),
        (json("{\"a\":1,\"a\":2}"), json("{\"a\":2,\"a\":1}")),
        (json("{\"a\":1,\"a\":2}"), json("{\"a\":1, \"a\":2}")),
        (json("{a:1}"), json("{a: 1}")),
        (json("{\"a\":null}"), json("{}")),
        (json("\"a b\""), json("\"a  b\"")),
        // The same text without a content type of JSON.
        (
            Written::new("text/plain", "{}"),
            Written::new("text/plain", "{ }"),
        ),
        (json("{}"), Written::new("text/json", "{}")),
        (
            json("{}"),
            Written {
                content_type: None,
                ..json("{}")
            },
        ),
        // Multipart: parts, their order and their heads.
        (form("b", &["1", "2"]), form("b", &["2", "1"])),
        (form("b", &["12"]), form("b", &["1", "2"])),
        (form("b", &["1"]), form("b", &["1\r\n"])),
        (form("b", &[]), form("b", &[""])),
        // A body that cannot be split keeps its boundary.
        (
            Written::new("multipart/form-data; boundary=b", "--x--"),
            Written::new("multipart/form-data; boundary=x", "--x--"),
        ),
        (
            Written::new("multipart/form-data; boundary=b; boundary=c", "--b--"),
            Written::new("multipart/form-data; boundary=c; boundary=b", "--b--"),
        ),
        (
            Written::new("multipart/mixed; boundary=b", "--b--"),
            Written::new("multipart/form-data; boundary=b", "--b--"),
        ),
        // Queries: the values of one name in their order, whatever its notation.
        (query("a=1&a=2"), query("a=2&a=1")),
        (query("a=1&%61=2"), query("%61=2&a=1")),
        (query("z+=1&z%20=2"), query("z%20=2&z+=1")),
        (query("a=1"), query("a=%31")),
        (query("a"), query("a=")),
        (query("a&b"), query("a%26b")),
        (query(""), json("{}")),
        // The target.
        (
            Written {
                method: "PUT",
                ..json("{}")
            },
            json("{}"),
        ),
        (
            Written {
                path: "/refunds".into(),
                ..json("{}")
            },
            json("{}"),
        ),
    ] {
        for normalize in every() {
            let (one_is, other_is) = (one.fingerprint(normalize), other.fingerprint(normalize));
            assert_ne!(one_is, other_is, "{one:?} {other:?} {normalize:?}");
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-c%=&+;,\"\r\n -]{0,6}"
}

fn written() -> impl Strategy<Value = Written> {
    let content_type = prop_oneof![
        Just("application/json"),
        Just("application/json; charset=utf-8"),
        Just("multipart/form-data; boundary=b"),
        Just("text/plain"),
        Just("not a media type"),
    ];
    let body = prop_oneof![
        text().prop_map(String::into_bytes),
        "[\\[\\]{}\",:ab01 ]{0,8}".prop_map(String::into_bytes),
        proptest::collection::vec(text(), 0..3).prop_map(|parts| {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            form("b", &parts).body
        }),
    ];
    (
        "[ab]{1,3}(:80)?",
        any::<bool>(),
        prop_oneof![Just("POST"), Just("PUT")],
        "/[ab/%]{0,4}",
        proptest::option::of("[ab=&%+]{0,6}"),
        proptest::option::of(content_type.prop_map(str::to_owned)),
        body,
    )
        .prop_map(
            |(authority, in_uri, method, path, query, content_type, body)| Written {
                authority,
                in_uri,
                method,
                path,
                query,
                content_type,
                body,
            },
        )
}

proptest! {
    #[test]
    fn requests_have_one_fingerprint_only_if_they_are_equal(one in written(), other in written()) {
        let other = Written { in_uri: one.in_uri, ..other };
        let equal = one.fingerprint(Normalize::new()) == other.fingerprint(Normalize::new());
        prop_assert_eq!(equal, one == other);
    }
}

fn shop(normalize: Normalize) -> Shop {
    Shop::of(super::layer(IdempotencyConfig::default()).normalize(normalize))
}

#[tokio::test(start_paused = true)]
async fn a_layer_normalizes_requests_before_it_compares_them() {
    let mut shop = shop(Normalize::new().canonical_json());
    let paid = |body: &'static str| with_header(payment(body), "content-type", "application/json");
    shop.served(paid("{\"a\":1,\"b\":2}"), reply(201, "paid"))
        .await;
    let again = shop.call_with(paid("{ \"b\": 2, \"a\": 1 }")).await;
    assert_eq!(again.of(), (201, true, "paid"));
    let other = shop.call_with(paid("{\"a\":1,\"b\":2.0}")).await;
    assert_eq!(other.problem(), "Reused");
}

#[tokio::test(start_paused = true)]
async fn by_default_a_retry_may_reach_another_instance() {
    let to = |host: &str| with_header(payment("10 EUR"), "host", host);
    let mut default = Shop::new(IdempotencyConfig::default());
    default.served(to("10.0.0.7:80"), reply(201, "paid")).await;
    let again = default.call_with(to("10.0.0.8:80")).await;
    assert_eq!(again.of(), (201, true, "paid"));
    let mut strict = shop(Normalize::new());
    strict.served(to("a.example"), reply(201, "paid")).await;
    let again = strict.call_with(to("a.example")).await;
    assert_eq!(again.of(), (201, true, "paid"));
    assert_eq!(strict.call_with(to("b.example")).await.problem(), "Reused");
}

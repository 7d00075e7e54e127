//! The format of keys: generated, given by the caller, and received.

use std::borrow::Cow;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItemFromInput, ItemSerializer, Parser, StringRef};
use uuid::Builder;

use crate::chance::draw;
use crate::error::ConfigError;
#[cfg(feature = "idempotency")]
use crate::key_problem::KeyFault;

/// The header of the draft.
pub(crate) const DEFAULT_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key that is sent or accepted, in bytes.
pub(super) const MAX_LEN: usize = 255;

/// The format of a key in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a structured-field string (RFC 9651 §4.1.6).
    Quoted,
    /// Without quotes.
    Unquoted,
}

/// The header of this name, or the error that `field` holds none.
pub(crate) fn header_name(field: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::try_from(name).map_err(|_| ConfigError::new(field, name, "a header name"))
}

/// A new random key.
pub(super) fn generated(form: Form) -> HeaderValue {
    let mut bits = [0; 16];
    bits[..8].copy_from_slice(&draw().bits().to_le_bytes());
    bits[8..].copy_from_slice(&draw().bits().to_le_bytes());
    let uuid = Builder::from_random_bytes(bits).into_uuid().hyphenated();
    let mut text = [b'"'; 38];
    uuid.encode_lower(&mut text[1..37]);
    let text = match form {
        Form::Quoted => &text[..],
        Form::Unquoted => &text[1..37],
    };
    secret(HeaderValue::from_bytes(text).expect("digits, letters, hyphens and quotes"))
}

/// The header value of a key from the caller, or the reason why it cannot be sent.
pub(super) fn given(key: &str, form: Form) -> Result<HeaderValue, &'static str> {
    if !(1..=MAX_LEN).contains(&key.len()) {
        return Err("the idempotency key must have 1 to 255 characters");
    }
    let (text, why) = match form {
        Form::Quoted => {
            let text = StringRef::from_str(key).ok();
            let quoted = text.map(|text| ItemSerializer::new().bare_item(text).finish());
            (quoted, "the idempotency key must be printable ASCII")
        }
        // Without quotes, a space at an end would be lost on the way.
        Form::Unquoted => (
            key.bytes()
                .all(|byte| byte.is_ascii_graphic())
                .then(|| key.to_owned()),
            "the idempotency key must be printable ASCII without spaces",
        ),
    };
    let value = text.and_then(|text| HeaderValue::try_from(text).ok());
    value.map(secret).ok_or(why)
}

/// The key that a server finds in a header: a structured-field string, or text without quotes. A server ignores a
/// malformed key, so a request with one may be executed twice.
pub(crate) fn found<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next().filter(|_| lines.next().is_none())?;
    // White space around a value is not part of it (RFC 9110 §5.5).
    let text = value.to_str().ok()?.trim_matches([' ', '\t']);
    let is_key = if text.starts_with('"') {
        read(text).is_some_and(|key| !key.as_str().is_empty())
    } else {
        !text.is_empty()
    };
    is_key.then_some(value)
}

/// The key of a request to a server; `None` if it has none.
#[cfg(feature = "idempotency")]
pub(super) fn received(
    headers: &HeaderMap,
    name: &HeaderName,
    min_len: usize,
    accept_unquoted: bool,
) -> Result<Option<String>, KeyFault> {
    let mut lines = headers.get_all(name).iter();
    let Some(value) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(KeyFault::Repeated);
    }
    let text = value.to_str().map_err(|_| KeyFault::NotAscii)?;
    let key = match read(text) {
        Some(key) => key.as_str().to_owned(),
        None if accept_unquoted && is_unquoted(text) => text.to_owned(),
        None if is_unquoted(text) => {
            return Err(KeyFault::NotQuoted);
        }
        None => return Err(KeyFault::NotOneString),
    };
    match key.len() {
        len if len < min_len => {
            let min_len = u8::try_from(min_len).unwrap_or(u8::MAX);
            Err(KeyFault::TooShort(min_len))
        }
        len if len > MAX_LEN => Err(KeyFault::TooLong),
        _ => Ok(Some(key)),
    }
}

/// Whether this is a key without quotes. It has no character that starts a list, a string or a parameter.
#[cfg(feature = "idempotency")]
fn is_unquoted(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\",;".contains(&byte))
}

/// Parses a string (RFC 9651 §3.3.3). Parameters must be well-formed, and are ignored.
fn read(field: &str) -> Option<Cow<'_, StringRef>> {
    match Parser::new(field).parse_item().ok()? {
        BareItemFromInput::String(key) => Some(key),
        _ => None,
    }
}

/// Keeps the value out of `Debug` output and of HPACK's compression table.
fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &HeaderValue) -> &str {
        value.to_str().unwrap()
    }

    #[test]
    fn a_generated_key_is_a_uuid_of_version_4() {
        let quoted = generated(Form::Quoted);
        let uuid_text = text(&quoted)
            .strip_prefix('"')
            .unwrap()
            .strip_suffix('"')
            .unwrap();
        let uuid = uuid::Uuid::parse_str(uuid_text).unwrap();
        assert_eq!(uuid.get_version_num(), 4);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(text(&generated(Form::Unquoted)).len(), 36);
        assert_ne!(generated(Form::Unquoted), generated(Form::Unquoted));
    }

    #[test]
    fn a_given_key_is_sent_unchanged_or_rejected() {
        for (key, sent_quoted, sent_unquoted) in [
            ("order-4711", Some("\"order-4711\""), Some("order-4711")),
            ("a \"b\" \\", Some("\"a \\\"b\\\" \\\\\""), None),
            ("tail ", Some("\"tail \""), None),
            ("", None, None),
            ("größe", None, None),
            ("line\nbreak", None, None),
            ("\u{7f}", None, None),
        ] {
            let sent = |form| given(key, form).ok().map(|value| text(&value).to_owned());
            assert_eq!(sent(Form::Quoted).as_deref(), sent_quoted, "{key:?}");
            assert_eq!(sent(Form::Unquoted).as_deref(), sent_unquoted, "{key:?}");
        }
        assert!(given(&"k".repeat(255), Form::Quoted).is_ok());
        assert!(given(&"k".repeat(256), Form::Quoted).is_err());
    }

    #[test]
    fn a_key_is_found_as_a_server_finds_it() {
        let name = &DEFAULT_HEADER;
        for (lines, is_key) in [
            (&["\"order-4711\""][..], true),
            (&["order-4711"], true),
            (&["  \"a b\"  "], true),
            (&["\"a\";v=1; w"], true),
            (&["\"a \\\"b\\\" \\\\\""], true),
            (&["'single'"], true),
            (&[""], false),
            (&["   "], false),
            (&[" \t "], false),
            (&["\"\""], false),
            (&["\""], false),
            (&["\"open"], false),
            (&["\"a\\b\""], false),
            (&["\"a\" b"], false),
            (&["\"a\", \"b\""], false),
            (&["\"a\";"], false),
            (&["\"a\";V=1"], false),
            (&["\"größe\""], false),
            (&["größe"], false),
            (&["\"a\"", "\"a\""], false),
            (&["\"a", "b\""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(found(&headers, name).is_some(), is_key, "{lines:?}");
        }
        let long = format!("\"{}\"", "k".repeat(1024));
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::try_from(long).unwrap())]);
        assert!(found(&headers, name).is_some());
    }

    #[test]
    fn debug_shows_no_key() {
        for value in [
            generated(Form::Unquoted),
            given("order-4711", Form::Unquoted).unwrap(),
        ] {
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_key_is_read_back(key in "[ -~]{1,255}") {
            let sent = given(&key, Form::Quoted).unwrap();
            let read = read(text(&sent)).unwrap();
            prop_assert_eq!(read.as_str(), key);
        }
    }
}

//! What a key looks like.

use ::http::{HeaderName, HeaderValue};
use uuid::Builder;

use crate::chance::draw;
use crate::error::ConfigError;

/// The header of the draft.
pub(crate) const DEFAULT_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key that is sent, in bytes.
const LONGEST: usize = 255;

/// How a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a structured-field string (RFC 9651 §4.1.6).
    Quoted,
    /// As it is.
    Raw,
}

/// The header of this name, or the error that `field` holds none.
pub(crate) fn header_name(field: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::try_from(name).map_err(|_| ConfigError::new(field, name, "a header name"))
}

/// A new key, unlike any other.
pub(super) fn minted(form: Form) -> HeaderValue {
    let mut bits = [0; 16];
    bits[..8].copy_from_slice(&draw().bits().to_le_bytes());
    bits[8..].copy_from_slice(&draw().bits().to_le_bytes());
    let uuid = Builder::from_random_bytes(bits).into_uuid().hyphenated();
    let mut text = [b'"'; 38];
    uuid.encode_lower(&mut text[1..37]);
    let text = match form {
        Form::Quoted => &text[..],
        Form::Raw => &text[1..37],
    };
    secret(HeaderValue::from_bytes(text).expect("digits, letters, hyphens and quotes"))
}

/// The key that the caller gave, or why it cannot be sent.
pub(super) fn given(key: &str, form: Form) -> Result<HeaderValue, &'static str> {
    if !(1..=LONGEST).contains(&key.len()) {
        return Err("the idempotency key must have 1 to 255 characters");
    }
    let (allowed, why) = match form {
        Form::Quoted => (b' '..=b'~', "the idempotency key must be printable ASCII"),
        // Without quotes, a space at an end would be lost on the way.
        Form::Raw => (
            b'!'..=b'~',
            "the idempotency key must be printable ASCII without spaces",
        ),
    };
    if !key.bytes().all(|byte| allowed.contains(&byte)) {
        return Err(why);
    }
    let value = match form {
        Form::Quoted => HeaderValue::try_from(quoted(key)),
        Form::Raw => HeaderValue::from_str(key),
    };
    value.map(secret).map_err(|_| why)
}

fn quoted(key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 2);
    text.push('"');
    for letter in key.chars() {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
    text
}

/// Never shown by `Debug`, and never put into a compression table.
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
    fn a_minted_key_is_a_uuid_of_version_4() {
        let quoted = minted(Form::Quoted);
        let bare = text(&quoted)
            .strip_prefix('"')
            .unwrap()
            .strip_suffix('"')
            .unwrap();
        let uuid = uuid::Uuid::parse_str(bare).unwrap();
        assert_eq!(uuid.get_version_num(), 4);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(text(&minted(Form::Raw)).len(), 36);
        assert_ne!(minted(Form::Raw), minted(Form::Raw));
    }

    #[test]
    fn a_given_key_is_sent_as_it_is_or_not_at_all() {
        for (key, sent_quoted, sent_raw) in [
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
            assert_eq!(sent(Form::Raw).as_deref(), sent_raw, "{key:?}");
        }
        assert!(given(&"k".repeat(255), Form::Quoted).is_ok());
        assert!(given(&"k".repeat(256), Form::Quoted).is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        for value in [minted(Form::Raw), given("order-4711", Form::Raw).unwrap()] {
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
    }

    proptest! {
        #[test]
        fn quoting_keeps_the_key(key in "[ -~]{1,255}") {
            let sent = given(&key, Form::Quoted).unwrap();
            let mut letters = text(&sent)[1..].chars();
            let mut read = String::new();
            loop {
                match letters.next().unwrap() {
                    '"' => break,
                    '\\' => read.push(letters.next().unwrap()),
                    letter => read.push(letter),
                }
            }
            prop_assert_eq!(letters.next(), None);
            prop_assert_eq!(read, key);
        }
    }
}

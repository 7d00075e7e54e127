//! `content-type`, taken apart where that is certain.

use ::http::HeaderMap;
use ::http::header::{CONTENT_TYPE, HeaderValue};
use mime::Mime;

pub(super) enum ContentType<'a> {
    /// As it was received, and parsed.
    Parsed(&'a [u8], Mime),
    /// Not parsed: none, more than one, one that is no media type, or nobody needs it.
    Other(Vec<&'a [u8]>),
}

impl<'a> ContentType<'a> {
    pub(super) fn of(headers: &'a HeaderMap, parse: bool) -> Self {
        let values: Vec<&[u8]> = headers
            .get_all(CONTENT_TYPE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let parsed = match values[..] {
            [value] if parse => std::str::from_utf8(value)
                .ok()
                .and_then(|value| value.parse().ok()),
            _ => None,
        };
        match parsed {
            Some(media_type) => Self::Parsed(values[0], media_type),
            None => Self::Other(values),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        match self {
            Self::Parsed(_, media_type) => {
                let essence = media_type.essence_str();
                matches!(essence, "application/json" | "text/json") || essence.ends_with("+json")
            }
            Self::Other(_) => false,
        }
    }

    /// The boundary of a multipart body, if it has one that every parser reads alike.
    pub(super) fn boundary(&self) -> Option<&str> {
        let Self::Parsed(_, media_type) = self else {
            return None;
        };
        if media_type.type_() != mime::MULTIPART {
            return None;
        }
        let mut boundaries = media_type
            .params()
            .filter(|(name, _)| *name == mime::BOUNDARY)
            .map(|(_, value)| value.as_str());
        let boundary = boundaries.next().filter(|boundary| is_boundary(boundary))?;
        boundaries.next().is_none().then_some(boundary)
    }
}

/// By RFC 2046 §5.1.1.
fn is_boundary(boundary: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    (1..=70).contains(&boundary.len())
        && boundary.bytes().all(is_allowed)
        && !boundary.ends_with(' ')
}

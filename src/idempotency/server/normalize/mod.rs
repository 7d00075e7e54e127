//! Ready-made fingerprints.

mod content_type;
mod json;
mod multipart;
mod query;

use std::borrow::Cow;

use ::http::header::{HOST, HeaderValue};
use ::http::request::Parts;

use self::content_type::ContentType;
use super::digest::digest;

/// Normalizes requests before two with the same key are compared, for clients that write the same request in more than one way.
///
/// A [`new`](Self::new) one ignores nothing: authority (`Host` or `:authority`), method, full path, query, `content-type` and body must be equal,
/// byte for byte, or the second request gets 422. Each method makes the comparison ignore one difference in notation, never one
/// in content. They combine:
///
/// ```
/// use buttress::idempotency::store::MemoryStore;
/// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Normalize, Scope};
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let layer = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?
///     .normalize(Normalize::new().canonical_json().multipart().media_type_only().query_in_any_order());
/// # let _ = layer;
/// # Ok(()) }
/// ```
///
/// The default of [`IdempotencyLayer`](super::IdempotencyLayer) is `Normalize::new().any_authority()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each with a method of its own"
)]
pub struct Normalize {
    canonical_json: bool,
    multipart: bool,
    media_type_only: bool,
    query_in_any_order: bool,
    any_authority: bool,
}

impl Normalize {
    /// Ignores nothing.
    pub const fn new() -> Self {
        Self {
            canonical_json: false,
            multipart: false,
            media_type_only: false,
            query_in_any_order: false,
            any_authority: false,
        }
    }

    /// Ignores the order of object members, white space between tokens and the escapes of strings in JSON bodies (`application/json`,
    /// `text/json` and `…+json`).
    ///
    /// Numbers are compared by their text, because to parse them would lose digits: `1` and `1.0` differ. A body that is not valid JSON,
    /// has two members of one name in an object, or is nested more than 128 levels deep is compared byte for byte.
    #[must_use]
    pub const fn canonical_json(mut self) -> Self {
        self.canonical_json = true;
        self
    }

    /// Ignores the boundary of multipart bodies, which many clients choose anew for each attempt.
    ///
    /// The parts, their headers and their order are compared byte for byte; so is a multipart part inside another. A body that is not a
    /// well-formed multipart message is compared byte for byte, together with its boundary.
    #[must_use]
    pub const fn multipart(mut self) -> Self {
        self.multipart = true;
        self
    }

    /// Compares only the media type of `content-type`, without parameters such as `charset`.
    ///
    /// The boundary of a multipart body remains part of the comparison, unless [`multipart`](Self::multipart) removes it.
    #[must_use]
    pub const fn media_type_only(mut self) -> Self {
        self.media_type_only = true;
        self
    }

    /// Ignores the order of query parameters with different names. The values of one name keep their order.
    #[must_use]
    pub const fn query_in_any_order(mut self) -> Self {
        self.query_in_any_order = true;
        self
    }

    /// Ignores the authority: `Host`, or `:authority` in HTTP/2.
    ///
    /// Use it if clients reach the instances of a service by addresses of their own, as a client-side load balancer does: a retry
    /// at another instance then has another authority. Do not use it in a process that serves several hosts.
    #[must_use]
    pub const fn any_authority(mut self) -> Self {
        self.any_authority = true;
        self
    }

    /// The fingerprint of a request: a SHA-256 over what is compared. `parts.uri` is the full URI if the layer calls it.
    ///
    /// Call it to add what these settings leave out:
    ///
    /// ```
    /// use buttress::idempotency::store::MemoryStore;
    /// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Normalize, Scope};
    ///
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let normalize = Normalize::new().canonical_json();
    /// let layer = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?
    ///     .fingerprint(move |parts, body| {
    ///         let mut fingerprint = normalize.fingerprint(parts, body);
    ///         let version = parts.headers.get("api-version");
    ///         fingerprint.extend(version.map_or(&b""[..], |version| version.as_bytes()));
    ///         fingerprint
    ///     });
    /// # let _ = layer;
    /// # Ok(()) }
    /// ```
    pub fn fingerprint(self, parts: &Parts, body: &[u8]) -> Vec<u8> {
        let mut compared = Compared::default();
        if !self.any_authority {
            compared.add(b"authority");
            compared.add(authority(parts));
        }
        compared.add(parts.method.as_str().as_bytes());
        compared.add(parts.uri.path().as_bytes());
        match parts.uri.query() {
            None => compared.add(b"no query"),
            Some(query) => {
                compared.add(b"query");
                if self.query_in_any_order {
                    compared.add(query::sorted(query));
                } else {
                    compared.add(query.as_bytes());
                }
            }
        }
        let needs_media_type = self.canonical_json || self.multipart || self.media_type_only;
        let content_type = ContentType::of(&parts.headers, needs_media_type);
        self.add_body(&mut compared, &content_type, body);
        digest(compared.0.iter().map(|field| &**field)).to_vec()
    }

    fn add_body<'a>(
        self,
        compared: &mut Compared<'a>,
        content_type: &ContentType<'a>,
        body: &'a [u8],
    ) {
        let boundary = content_type.boundary().filter(|_| self.multipart);
        let parts = boundary.and_then(|boundary| multipart::split(body, boundary));
        let without_boundary = parts.is_some();
        match content_type {
            ContentType::Parsed(_, media_type) if self.media_type_only || without_boundary => {
                compared.add(b"media type");
                compared.add(media_type.essence_str().as_bytes().to_vec());
                for (name, value) in media_type.params() {
                    let is_compared = if name == mime::BOUNDARY {
                        !without_boundary
                    } else {
                        !self.media_type_only
                    };
                    if is_compared {
                        compared.add(b"parameter");
                        compared.add(name.as_str().as_bytes().to_vec());
                        compared.add(value.as_str().as_bytes().to_vec());
                    }
                }
            }
            ContentType::Parsed(raw, _) => {
                compared.add(b"content type");
                compared.add(*raw);
            }
            ContentType::Other(values) => {
                for value in values {
                    compared.add(b"content type");
                    compared.add(*value);
                }
            }
        }
        if let Some(parts) = parts {
            compared.add(b"multipart");
            for part in parts {
                compared.add(part);
            }
            return;
        }
        let is_json = self.canonical_json && content_type.is_json();
        if let Some(json) = is_json.then(|| json::canonical(body)).flatten() {
            compared.add(b"json");
            compared.add(json);
        } else {
            compared.add(b"body");
            compared.add(body);
        }
    }
}

/// The fields that are compared. Each list of fields begins with a name, which keeps different requests from having equal fields.
#[derive(Default)]
struct Compared<'a>(Vec<Cow<'a, [u8]>>);

impl<'a> Compared<'a> {
    fn add(&mut self, field: impl Into<Cow<'a, [u8]>>) {
        self.0.push(field.into());
    }
}

/// In lower case; an absolute URI outweighs `Host` (RFC 9112 §3.2.2), and HTTP/2 has its `:authority` there.
fn authority(parts: &Parts) -> Vec<u8> {
    let host = || parts.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = parts.uri.authority().map(|uri| uri.as_str().as_bytes());
    authority
        .or_else(host)
        .unwrap_or_default()
        .to_ascii_lowercase()
}

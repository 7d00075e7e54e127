//! The server of a request, the key of policies per server.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;
use std::str::FromStr;

use ::http::Uri;
use hashbrown::Equivalent;

use crate::error::ConfigError;

/// A server: scheme, lower-case host, and the port unless it is the scheme's own. Never a user name or a password.
///
/// Requests of `http` and of reqwest that go to the same server have equal authorities. A host is compared as text: an
/// IPv6 address written in two ways is two hosts, and so is a name with and without a dot at its end.
///
/// ```
/// use buttress::http::Authority;
///
/// let api: Authority = "https://user:secret@API.example.com:443/v1".parse()?;
/// assert_eq!(api.to_string(), "https://api.example.com");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Authority {
    scheme: Box<str>,
    host: Box<str>,
    port: Option<u16>,
}

impl Authority {
    /// The scheme, in lower case; empty if the request named none.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host, in lower case, an IPv6 address in brackets; empty if the request named none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, unless it is the scheme's own.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The server that a setting names. Stricter than a request's URI: nothing but a host and a port may
    /// be in the authority.
    pub(crate) fn of_setting(uri: &Uri) -> Option<Self> {
        let found = AuthorityRef::of_uri(uri);
        let text = uri.authority()?.as_str();
        let has_good_port =
            uri.port().is_some() || text.trim_end_matches(':').ends_with(found.host);
        let is_server = !found.scheme.is_empty()
            && is_host(found.host)
            && uri.host() == Some(found.host)
            && has_good_port;
        is_server.then(|| found.into())
    }

    fn as_ref(&self) -> AuthorityRef<'_> {
        AuthorityRef {
            scheme: &self.scheme,
            host: &self.host,
            port: self.port,
        }
    }
}

/// The authority of an absolute URL.
impl FromStr for Authority {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        let invalid = |shown: &str| {
            ConfigError::new(
                "authority",
                shown,
                "an absolute URL with a host, such as \"https://api.example.com\"",
            )
        };
        // The text may contain a password: an error shows only the authority parsed from it.
        let uri: Uri = url.parse().map_err(|_| invalid("unreadable"))?;
        let shown = || invalid(&Self::from(AuthorityRef::of_uri(&uri)).to_string());
        Self::of_setting(&uri).ok_or_else(shown)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}://", self.scheme)?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Authority {}

impl Hash for Authority {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

/// An [`Authority`] borrowed from a request. It hashes and compares like the authority it would be.
#[derive(Clone, Copy, Debug)]
pub struct AuthorityRef<'a> {
    pub(super) scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> AuthorityRef<'a> {
    /// From its parts, in any case; a port that is the scheme's own is dropped.
    pub fn new(scheme: &'a str, host: &'a str, port: Option<u16>) -> Self {
        Self {
            scheme,
            host,
            port: port.filter(|port| own_port(scheme) != Some(*port)),
        }
    }

    /// The host, an IPv6 address without its brackets.
    #[cfg(feature = "tracing")]
    pub(super) fn address(&self) -> &'a str {
        self.host.trim_matches(['[', ']'])
    }

    /// The port, the scheme's own if none is named.
    #[cfg(feature = "tracing")]
    pub(super) fn port_in_use(&self) -> Option<u16> {
        self.port.or_else(|| own_port(self.scheme))
    }

    /// Needed for every call, so it reads the text once, while `Uri` would search it for each part.
    pub(crate) fn of_uri(uri: &'a Uri) -> Self {
        let text = uri.authority().map_or("", ::http::uri::Authority::as_str);
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (rest, port) = text.split_at(text.len() - digits);
        let (place, port) = match rest.strip_suffix(':') {
            Some(place) => (place, port.parse().ok()),
            None => (text, None),
        };
        let host = place
            .bytes()
            .rposition(|byte| byte == b'@')
            .map_or(place, |at| &place[at + 1..]);
        Self::new(uri.scheme_str().unwrap_or_default(), host, port)
    }
}

impl From<AuthorityRef<'_>> for Authority {
    fn from(found: AuthorityRef<'_>) -> Self {
        Self {
            scheme: found.scheme.to_ascii_lowercase().into(),
            host: found.host.to_ascii_lowercase().into(),
            port: found.port,
        }
    }
}

/// `Uri` accepts any text in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| {
            let (address, _zone) = address.split_once('%').unwrap_or((address, ""));
            address.parse::<Ipv6Addr>().is_ok()
        }),
        None => !text.is_empty() && !text.contains([']', ':']),
    }
}

fn own_port(scheme: &str) -> Option<u16> {
    let is = |name| scheme.eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some(443)
    } else if is("http") || is("ws") {
        Some(80)
    } else {
        None
    }
}

impl PartialEq for AuthorityRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && same(self.host, other.host) && same(self.scheme, other.scheme)
    }
}

impl Eq for AuthorityRef<'_> {}

/// Equal but for case; mostly there is none to ignore.
fn same(a: &str, b: &str) -> bool {
    a == b || a.eq_ignore_ascii_case(b)
}

/// The bit that makes ASCII letters small. Few other characters of a host differ in it alone, and equality distinguishes them.
const SMALL: u64 = 0x2020_2020_2020_2020;

impl Hash for AuthorityRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut words = self.host.as_bytes().chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            state.write_u64(u64::from_ne_bytes(bytes) | SMALL);
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        state.write_u64(u64::from_ne_bytes(last) | SMALL);
        // The lengths distinguish the known schemes, and hosts with equal last words.
        let lengths = (self.host.len() << 4) ^ self.scheme.len();
        state.write_u64((lengths as u64) << 16 | u64::from(self.port.unwrap_or_default()));
    }
}

impl Equivalent<Authority> for AuthorityRef<'_> {
    fn equivalent(&self, key: &Authority) -> bool {
        *self == key.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;
    #[cfg(feature = "reqwest")]
    use crate::http::HttpRequest;

    fn of(url: &str) -> Authority {
        AuthorityRef::of_uri(&url.parse().unwrap()).into()
    }

    #[test]
    fn equal_servers_have_equal_keys() {
        let cases = [
            ("http://Example.COM/a", "http://example.com:80/b"),
            ("https://example.com:443", "HTTPS://EXAMPLE.com"),
            ("http://me:pw@h/", "http://h/"),
            ("http://me:80@h:/", "http://h:80/"),
            ("http://127.0.0.1:80/", "http://127.0.0.1/"),
            ("http://[::1]:80/", "http://[::1]/"),
        ];
        for (a, b) in cases {
            assert_eq!(of(a), of(b), "{a} {b}");
        }
        let different = [
            ("http://h/", "https://h/"),
            ("http://h/", "http://h:443/"),
            ("http://h:8080/", "http://h:8081/"),
            ("http://a/", "http://b/"),
            ("http://127.0.0.1/", "http://127.0.0.12/"),
            ("http://[::1]/", "http://[::1]:1/"),
        ];
        for (a, b) in different {
            assert_ne!(of(a), of(b), "{a} {b}");
        }
    }

    #[test]
    fn it_is_shown_without_secrets_or_the_default_port() {
        assert_eq!(of("http://me:pw@Host:80/path?q").to_string(), "http://host");
        assert_eq!(of("https://[::1]:8443/").to_string(), "https://[::1]:8443");
        assert_eq!(of("/path").to_string(), "");
        for text in ["/path", "h:1", "http://me:pw@ h", ""] {
            let error = text.parse::<Authority>().unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn a_request_of_reqwest_has_the_same_key() {
        #[cfg(feature = "reqwest")]
        for url in [
            "http://Example.COM/a",
            "https://u:p@example.com:443/",
            "https://example.com:8443/",
            "http://[::1]:80/",
        ] {
            let ours = ::reqwest::Request::new(::http::Method::GET, url.parse().unwrap());
            assert_eq!(Authority::from(ours.authority()), of(url), "{url}");
        }
    }

    #[test]
    fn a_setting_must_name_a_valid_server() {
        for (url, shown) in [
            ("http://h:0080/", "http://h"),
            ("http://h:65535", "http://h:65535"),
            ("http://h:", "http://h"),
            ("http://a@b@c:1/", "http://c:1"),
            ("http://[FE80::1%25eth0]:81/", "http://[fe80::1%25eth0]:81"),
            // Not the same host: a resolver may look up the other one elsewhere.
            ("http://h./", "http://h."),
        ] {
            let authority: Authority = url.parse().unwrap();
            assert_eq!(authority.to_string(), shown, "{url}");
        }
        for url in [
            "http://h:65536",
            "http://h:99999999999999999999",
            "http://h:-1",
            "http://h:+80",
            "http://h:80:81",
            "http://h:8o",
            "http://u:pw@:80",
            "http://[::1]80",
            "http://[::1]x:80",
            "http://::1",
            "http://[::1",
            "http://[]",
            "http://[::g]",
            "http://[127.0.0.1]",
            "http://[::1@\\]:80",
            "http://h%41",
            "http://größe",
            "http:///x",
            "//h",
            "h",
            "*",
            "http://",
            "://h",
        ] {
            let error = url.parse::<Authority>().unwrap_err();
            assert_eq!(error.field, "authority", "{url}");
            assert!(!error.to_string().contains("pw"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_borrowed_form_hashes_and_compares_like_the_owned_one(
            scheme in "(http|HTTPS|ws|x)",
            host in "[a-zA-Z0-9.-]{0,80}",
            port in proptest::option::of(any::<u16>()),
        ) {
            let look = AuthorityRef::new(&scheme, &host, port);
            let owned = Authority::from(look);
            let hasher = RandomState::new();
            prop_assert!(look.equivalent(&owned));
            prop_assert_eq!(hasher.hash_one(look), hasher.hash_one(&owned));
        }

        #[test]
        fn any_text_is_an_error_or_a_server_that_its_own_text_names(
            text in "(https?://)?[a-zA-Z0-9.:@\\[\\]%+/_-]{0,20}|\\PC*",
        ) {
            if let Ok(authority) = text.parse::<Authority>() {
                let uri: Uri = text.parse().unwrap();
                let own = own_port(authority.scheme());
                prop_assert_eq!(authority.host(), uri.host().unwrap().to_ascii_lowercase());
                prop_assert_eq!(authority.port(), uri.port_u16().filter(|port| Some(*port) != own));
                prop_assert_eq!(authority.to_string().parse::<Authority>().unwrap(), authority);
            }
        }
    }
}

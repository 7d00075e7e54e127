//! Which servers honor idempotency keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ::http::{Method, Uri};

use crate::error::ConfigError;
use crate::http::authority::Authority;
use crate::http::request::HttpRequest;

/// Which servers execute a request with an idempotency key once, however often it is sent.
///
/// List only servers that document it. A server that ignores the key executes every retry.
///
/// In a file it is `"unknown"`, `"honored"`, or a list of routes. A route is `[method] [server][path]`:
/// `https://api.example.com` matches every request to that server, `POST https://api.example.com/v1/charges` a POST to
/// `/v1/charges` and below (`/v1/charges/42`, not `/v1/chargesheets`), and `/v1/charges` that path on every server. Paths are
/// compared without normalization. A path with a dot segment (`..`) matches only routes without a path, because it may lead
/// out of any other.
///
/// ```
/// use buttress::http::IdempotencyKeys;
///
/// let keys = IdempotencyKeys::honored_by(["POST https://api.example.com/v1/charges"])?;
/// assert_eq!(keys, IdempotencyKeys::HonoredBy(["POST https://api.example.com/v1/charges".parse()?].into()));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdempotencyKeys {
    /// Unknown: a generated key does not make a request safe to retry.
    #[default]
    Unknown,
    /// Every server that this client calls honors keys.
    Honored,
    /// Requests that match these routes.
    HonoredBy(Arc<[Route]>),
}

impl IdempotencyKeys {
    /// Parses [`HonoredBy`](Self::HonoredBy) from text.
    ///
    /// # Errors
    ///
    /// An entry is not a route.
    pub fn honored_by<'a>(routes: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let routes: Result<_, _> = routes.into_iter().map(Route::from_str).collect();
        Ok(Self::HonoredBy(routes?))
    }

    /// Whether the server is known to execute this request once, if it carries a key.
    pub(crate) fn honor<R: HttpRequest>(&self, request: &R) -> bool {
        match self {
            Self::Unknown => false,
            Self::Honored => true,
            Self::HonoredBy(routes) => routes.iter().any(|route| route.covers(request)),
        }
    }
}

/// Requests to a server, below a path, by a method: `[method] [server][path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    method: Option<Method>,
    server: Option<Authority>,
    path: Box<str>,
}

impl Route {
    fn covers<R: HttpRequest>(&self, request: &R) -> bool {
        let same_server = |server| hashbrown::Equivalent::equivalent(&request.authority(), server);
        self.method
            .as_ref()
            .is_none_or(|own| own == request.method())
            && self.server.as_ref().is_none_or(same_server)
            && self.covers_path(request.path())
    }

    fn covers_path(&self, path: &str) -> bool {
        if *self.path == *"/" {
            return true;
        }
        match path.strip_prefix(&*self.path) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/') => {
                !strays(path)
            }
            _ => false,
        }
    }
}

/// Whether a server may resolve this path to one outside the route.
fn strays(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".");
    let plain = plain.replace("%2f", "/").replace("%5c", "/");
    plain
        .split(['/', '\\'])
        .any(|part| matches!(part, "." | ".."))
}

impl FromStr for Route {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        // The text may contain a password, so the error does not show it.
        let invalid = |why: &str| {
            let allowed = "`[POST|PATCH] [server][path]`, such as \"POST https://api.example.com/v1/charges\"";
            ConfigError::new("route", why, allowed)
        };
        let (method, place) = match text.split_once(' ') {
            Some(("POST", place)) => (Some(Method::POST), place),
            Some(("PATCH", place)) => (Some(Method::PATCH), place),
            Some(_) => return Err(invalid("for a method other than POST and PATCH")),
            None => (None, text),
        };
        let uri: Uri = place.parse().map_err(|_| invalid("unreadable"))?;
        if uri.query().is_some() || place.contains('#') {
            return Err(invalid("a path with a query"));
        }
        let server = Authority::of_setting(&uri);
        if uri.authority().is_some() != server.is_some() || !uri.path().starts_with('/') {
            return Err(invalid("neither a URL nor a path"));
        }
        if strays(uri.path()) {
            return Err(invalid("a path with dot segments"));
        }
        Ok(Self {
            method,
            server,
            path: uri.path().into(),
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        match &self.server {
            Some(server) if *self.path == *"/" => write!(f, "{server}"),
            Some(server) => write!(f, "{server}{}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

#[cfg(feature = "serde")]
mod text {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::{Serialize, Serializer};

    use super::{IdempotencyKeys, Route};

    impl Serialize for IdempotencyKeys {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Unknown => serializer.serialize_str("unknown"),
                Self::Honored => serializer.serialize_str("honored"),
                Self::HonoredBy(routes) => serializer.collect_seq(&**routes),
            }
        }
    }

    impl<'de> Deserialize<'de> for IdempotencyKeys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(WordOrRoutes)
        }
    }

    struct WordOrRoutes;

    impl<'de> Visitor<'de> for WordOrRoutes {
        type Value = IdempotencyKeys;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"unknown\", \"honored\" or a list of routes")
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<IdempotencyKeys, E> {
            match word {
                "unknown" => Ok(IdempotencyKeys::Unknown),
                "honored" => Ok(IdempotencyKeys::Honored),
                _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<IdempotencyKeys, A::Error> {
            let mut routes = Vec::new();
            while let Some(route) = seq.next_element()? {
                routes.push(route);
            }
            Ok(IdempotencyKeys::HonoredBy(routes.into()))
        }
    }

    impl Serialize for Route {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl<'de> Deserialize<'de> for Route {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;

    fn covers(route: &str, method: Method, url: &str) -> bool {
        let request = Request::builder().method(method).uri(url).body(());
        let keys = IdempotencyKeys::honored_by([route]).unwrap();
        keys.honor(&request.unwrap())
    }

    #[test]
    fn a_route_matches_server_path_and_method() {
        let charge = "https://api.example.com/v1/charges";
        for (route, method, url, covered) in [
            ("https://API.example.com:443", Method::POST, charge, true),
            ("https://api.example.com/", Method::PATCH, charge, true),
            ("http://api.example.com", Method::POST, charge, false),
            ("https://other.example.com", Method::POST, charge, false),
            ("/v1/charges", Method::POST, charge, true),
            ("/v1", Method::POST, charge, true),
            ("/", Method::POST, charge, true),
            ("/v1/charge", Method::POST, charge, false),
            ("/v1/charges/", Method::POST, charge, false),
            ("/V1/charges", Method::POST, charge, false),
            ("/v1/charges/7", Method::POST, charge, false),
            ("POST /v1/charges", Method::POST, charge, true),
            ("POST /v1/charges", Method::PATCH, charge, false),
            (
                "PATCH https://api.example.com/v1",
                Method::PATCH,
                charge,
                true,
            ),
        ] {
            assert_eq!(covers(route, method, url), covered, "{route} {url}");
        }
        for (rest, covered) in [
            ("", true),
            ("/", true),
            ("/42/refunds?of=7", true),
            ("?expand=all", true),
            ("heets", false),
            ("%2F42", false),
        ] {
            let url = format!("https://api.example.com/v1/charges{rest}");
            assert_eq!(covers("/v1/charges", Method::POST, &url), covered, "{url}");
        }
        assert!(covers(
            "/files/",
            Method::POST,
            "https://h/files/a.b/.c/..d"
        ));
    }

    #[test]
    fn a_path_with_dot_segments_matches_no_route_with_a_path() {
        for rest in [
            "/../transfers",
            "/./7",
            "/..",
            "/%2e%2E/transfers",
            "/.%2e/transfers",
            "/a%2F..%2f..%2ftransfers",
            "/a%5c..%5Ctransfers",
        ] {
            let url = format!("https://api.example.com/v1/charges{rest}");
            assert!(!covers("/v1/charges", Method::POST, &url), "{url}");
            assert!(covers("https://api.example.com", Method::POST, &url));
        }
    }

    #[test]
    fn an_invalid_route_is_rejected_without_showing_secrets() {
        for text in [
            "",
            "GET /v1",
            "post /v1",
            "api.example.com",
            "api.example.com:443",
            "v1/charges",
            "/v1?a=pw",
            "https://me:pw@h/#pw",
            "POST  /v1",
            "POST /v1 ",
            "https://",
            "https://h:65536/v1",
            "https://h:+443/v1",
            "*",
        ] {
            let error = text.parse::<Route>().unwrap_err().to_string();
            assert!(!error.contains("pw"), "{text}: {error}");
        }
    }

    #[test]
    fn a_route_is_shown_as_it_is_written() {
        for text in [
            "https://api.example.com",
            "https://api.example.com/v1/charges",
            "POST https://api.example.com",
            "PATCH /v1",
            "/",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        let secret: Route = "https://me:pw@Host:443/v1".parse().unwrap();
        assert_eq!(secret.to_string(), "https://host/v1");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn keys_are_a_word_or_a_list() {
        let listed = IdempotencyKeys::honored_by(["POST https://api.example.com/v1"]).unwrap();
        for (text, keys) in [
            (r#""unknown""#, IdempotencyKeys::Unknown),
            (r#""honored""#, IdempotencyKeys::Honored),
            (r#"["POST https://api.example.com/v1"]"#, listed),
            ("[]", IdempotencyKeys::HonoredBy([].into())),
        ] {
            assert_eq!(serde_json::from_str::<IdempotencyKeys>(text).unwrap(), keys);
            assert_eq!(serde_json::to_string(&keys).unwrap(), text);
        }
        for wrong in [r#""Honored""#, r#"["GET /"]"#, "true", "{}"] {
            assert!(
                serde_json::from_str::<IdempotencyKeys>(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}

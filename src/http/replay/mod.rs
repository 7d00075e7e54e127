//! Which requests may run twice, and how they are sent again.

mod body;
mod buffer;
mod handle;
mod wrap;

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

pub use self::body::{ReplayBody, Superseded};
pub use self::handle::BodyBuffer;
pub use self::wrap::{KeptAs, ReplayAs};

use super::keys::{Keys, SharedKeys};
use super::redirects::Redirects;
use super::request::HttpRequest;
use crate::call::{Call, CallOptions};
use crate::error::ConfigError;
use crate::idempotency::{DEFAULT_HEADER, Mint, found, header_name};
use crate::outcome::{Again, Executed, Kind, Outcome};
use crate::retry::ReplayPolicy;

/// Repeats HTTP requests, and only those that may run twice.
///
/// After a failure that the service may have acted on, a request is repeated if
/// - its method is GET, HEAD, OPTIONS, TRACE, PUT or DELETE; or
/// - it is a POST or PATCH that carries an idempotency key, and the server is known to honour keys: by
///   [`keys`](Replay::keys), or because the caller chose the key himself, in the header or by
///   [`CallOptions::key`](crate::CallOptions::key). A header that is no key (empty, there twice, or a structured-field
///   string that is malformed) counts as none. A key minted by
///   [`IdempotencyKeyLayer`](crate::idempotency::IdempotencyKeyLayer) alone makes nothing repeatable. It is told from the
///   caller's own by being marked as sensitive; a key that you mark so yourself counts as minted.
///
/// A 409 that names a wait says to a request with a key that its operation is still running: if it may run twice, it is
/// repeated. Without a key it is a conflict like any other.
///
/// After a failure that the service certainly did not act on, every request is repeated. What cannot be repeated is sent
/// once, never refused.
///
/// The request is copied when it is first sent: its headers, its extensions, and its body, which for a buffered one is a
/// count. A body that cannot be cloned is kept while it is sent: see [`wrapping`](Replay::wrapping). For reqwest's streaming
/// bodies that is done without asking. An `early-data` header is not repeated (RFC 8470). Each repetition of an `http`
/// request carries its number as a [`Call`] in its extensions; a first attempt, which has none, is spared the allocations.
///
/// ```
/// use buttress::http::{Keys, Replay};
///
/// let safe_methods = Replay::new();
/// let payments_too = Replay::new().keys(Keys::Honoured);
/// let only_there = Replay::new().keys(Keys::honoured_by(["https://api.example.com/v1/charges"])?);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replay {
    keys: SharedKeys,
    header: HeaderName,
    proxy: bool,
    attempt_header: bool,
    buffer_limit: usize,
    redirects: Redirects,
}

impl Default for Replay {
    fn default() -> Self {
        Self::new()
    }
}

impl Replay {
    /// Nothing is known about keys; the attempt number is not sent.
    pub fn new() -> Self {
        Self {
            keys: SharedKeys::default(),
            header: DEFAULT_HEADER,
            proxy: false,
            attempt_header: false,
            buffer_limit: 64 * 1024,
            redirects: Redirects::ClientDefault,
        }
    }

    /// Which servers honour idempotency keys.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = SharedKeys::new(keys);
        self
    }

    /// Which servers are known to honour keys now.
    pub fn known_keys(&self) -> Keys {
        self.keys.get()
    }

    /// Tells it and all its clones, while running, which servers honour keys.
    pub fn set_keys(&self, keys: Keys) {
        self.keys.set(keys);
    }

    /// The name of the header that carries the key. Default: `idempotency-key`.
    ///
    /// # Errors
    ///
    /// It is not a header name.
    pub fn key_header(self, name: &str) -> Result<Self, ConfigError> {
        Ok(self.key_header_name(header_name("key_header", name)?))
    }

    pub(crate) fn key_header_name(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// For a proxy, which does not know what it forwards: a request whose method is not idempotent is sent once, key or
    /// not, whatever happens (RFC 9110 §9.2.2).
    #[must_use]
    pub fn proxy(mut self) -> Self {
        self.proxy = true;
        self
    }

    /// Whether each attempt tells the server its number, from 1, as `x-envoy-attempt-count`. Default: no.
    #[must_use]
    pub fn attempt_header(mut self, attempt_header: bool) -> Self {
        self.attempt_header = attempt_header;
        self
    }

    /// How many bytes of a body that cannot be cloned are kept, to be sent again. Default 64 KiB; any.
    ///
    /// It matters where bodies are [wrapped](Self::wrapping), and for reqwest's streaming ones.
    #[must_use]
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.buffer_limit = bytes;
        self
    }

    /// Which redirects the client inside follows by itself. Default: [`Redirects::ClientDefault`].
    ///
    /// Where it may follow some without reporting them, no error proves that a POST was not executed, and it is sent once.
    #[must_use]
    pub fn redirects(mut self, redirects: Redirects) -> Self {
        self.redirects = redirects;
        self
    }

    /// For requests whose body cannot be cloned: every attempt's body is a [`ReplayBody`], turned by `wrap` into what the
    /// inner service takes.
    ///
    /// | inner service | `wrap` |
    /// |---|---|
    /// | tonic's `Channel` | `tonic::body::Body::new` |
    /// | an axum `Router` | `axum::body::Body::new` |
    /// | hyper's client, or any that takes every body | `std::convert::identity`: it takes `Request<ReplayBody<B>>` |
    #[must_use]
    pub fn wrapping<W>(self, wrap: W) -> ReplayAs<W> {
        ReplayAs::new(self, wrap)
    }

    pub(crate) const fn buffers(&self) -> usize {
        self.buffer_limit
    }

    /// What is kept of a request that may be sent again.
    pub(crate) fn keep<R: HttpRequest, K: HttpRequest>(
        &self,
        request: &R,
        copy: impl FnOnce(&R) -> Option<K>,
    ) -> Option<Kept<K>> {
        let idempotent = is_idempotent(request.method());
        if self.proxy && (!idempotent || request.headers().contains_key(EARLY_DATA)) {
            return None;
        }
        let safe = idempotent
            || found(request.headers(), &self.header).is_some_and(|key| self.honours(key, request));
        let certain = safe || !self.redirects.may_be_hidden(request.follows_redirects());
        let request = copy(request)?;
        Some(Kept {
            request,
            safe,
            certain,
        })
    }

    /// Whether this key makes this request safe.
    fn honours<R: HttpRequest>(&self, key: &HeaderValue, request: &R) -> bool {
        if !matches!(*request.method(), Method::POST | Method::PATCH) {
            return false;
        }
        let callers_own = || !key.is_sensitive() || CallOptions::has_key();
        self.keys.honour(request) || callers_own()
    }

    /// The head of a first attempt. `kept`: there may be further ones.
    fn begin<B>(&self, request: &mut Request<B>, kept: bool) {
        self.number(1, request.headers_mut());
        // Set only where a retry further out has set its own: a first insertion allocates.
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            *call = Call::new(1, !kept);
        }
    }

    /// The head of a further one.
    fn repeat<B>(&self, request: &mut Request<B>) {
        let call = self.renumber(request.headers_mut());
        request.extensions_mut().insert(call);
    }

    /// The headers of a further attempt, which this call is.
    pub(crate) fn renumber(&self, headers: &mut HeaderMap) -> Call {
        let call = Call::current();
        headers.remove(EARLY_DATA);
        self.number(call.attempt, headers);
        call
    }

    /// Whether a request of which this was kept may be sent again after a failure that the service may have acted on. Its
    /// key is looked for only now: most requests do not fail.
    pub(crate) fn may_repeat_kept<R: HttpRequest>(
        &self,
        kept: &Kept<R>,
        outcome: &Outcome,
    ) -> bool {
        let keyed = || found(kept.request.headers(), &self.header).is_some();
        kept.safe && (!is_in_progress(outcome) || keyed())
    }

    pub(crate) fn number(&self, attempt: u32, headers: &mut HeaderMap) {
        if self.attempt_header {
            headers.insert(ATTEMPT_COUNT, attempt.into());
        }
    }
}

/// Keys are minted where this strategy takes them to be honoured: nowhere in a proxy.
///
/// ```
/// use buttress::http::{Keys, Replay};
/// use buttress::idempotency::IdempotencyKeyLayer;
///
/// let replay = Replay::new().keys(Keys::honoured_by(["POST https://api.example.com/v1/charges"])?);
/// let keys = IdempotencyKeyLayer::new().mint(replay.clone());
/// # let _ = keys;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
impl<R: HttpRequest> Mint<R> for Replay {
    fn mints(&self, request: &R) -> bool {
        !self.proxy && self.keys.honour(request)
    }
}

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// RFC 9110 §9.2.2; methods of extensions are not known to be.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What [`Replay`] keeps of a request.
pub struct Kept<R> {
    request: R,
    safe: bool,
    /// Whether "not executed" can be trusted, or does not matter.
    certain: bool,
}

impl<R> Kept<R> {
    /// Whether an error that says "not executed" is about this request: no redirect was followed unseen.
    pub(crate) const fn trusts_not_executed(&self) -> bool {
        self.certain
    }

    /// The request to copy.
    pub(crate) const fn request(&self) -> &R {
        &self.request
    }
}

/// "The operation of this key is still running": a 409 that names a wait, as [`ByStatus`](super::ByStatus) reads it. To a
/// request without a key it is a conflict like any other.
fn is_in_progress(outcome: &Outcome) -> bool {
    outcome.kind == Kind::Neutral
        && outcome.repeat == Again::Allowed
        && outcome.wait.is_some()
        && outcome.executed == Executed::Maybe
}

/// Without the request, whose headers hold secrets.
impl<R> fmt::Debug for Kept<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("safe", &self.safe)
            .finish_non_exhaustive()
    }
}

#[diagnostic::do_not_recommend]
impl<B: Clone> ReplayPolicy<Request<B>> for Replay {
    type Attempt = Request<B>;
    type Saved = Kept<Request<B>>;

    fn first(&self, mut request: Request<B>) -> (Request<B>, Option<Kept<Request<B>>>) {
        let saved = self.keep(&request, |request| Some(request.clone()));
        self.begin(&mut request, saved.is_some());
        (request, saved)
    }

    fn only(&self, mut request: Request<B>) -> Request<B> {
        self.begin(&mut request, false);
        request
    }

    fn again(&self, saved: &mut Kept<Request<B>>) -> Option<Request<B>> {
        let mut request = saved.request().clone();
        self.repeat(&mut request);
        Some(request)
    }

    fn is_safe(&self, saved: &Kept<Request<B>>, outcome: &Outcome) -> bool {
        self.may_repeat_kept(saved, outcome)
    }

    fn trusts_not_executed(&self, saved: &Kept<Request<B>>) -> bool {
        saved.trusts_not_executed()
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;
    use crate::http::ByStatus;

    const KEY: &str = "idempotency-key";

    fn request(method: &str) -> Sent {
        Request::builder()
            .method(method)
            .uri("https://api.example.com/orders")
            .body("body")
            .unwrap()
    }

    fn with_key(method: &str, minted: bool) -> Sent {
        let mut request = request(method);
        let mut key = HeaderValue::from_static("\"a-key-of-enough-letters\"");
        key.set_sensitive(minted);
        request.headers_mut().insert(KEY, key);
        request
    }

    type Sent = Request<&'static str>;

    fn is_safe(replay: &Replay, request: Sent) -> bool {
        let (_, saved) = replay.first(request);
        saved
            .is_some_and(|saved| ReplayPolicy::<Sent>::is_safe(replay, &saved, &Outcome::TRANSIENT))
    }

    fn again(replay: &Replay, saved: Option<Kept<Sent>>) -> Sent {
        let _second = Call::new(2, false).enter();
        ReplayPolicy::<Sent>::again(replay, &mut saved.unwrap()).unwrap()
    }

    #[test]
    fn the_method_decides() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_safe(&Replay::new(), request(method)), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PROPFIND", "get"] {
            assert!(!is_safe(&Replay::new(), request(method)), "{method}");
            let (_, saved) = Replay::new().first(request(method));
            assert!(
                saved.is_some(),
                "{method} is kept for a failure before it was executed"
            );
        }
    }

    #[test]
    fn not_executed_is_trusted_unless_a_redirect_may_be_hidden() {
        let trusts = |redirects, request| {
            let replay = Replay::new().redirects(redirects);
            let (_, saved) = replay.first(request);
            ReplayPolicy::<Sent>::trusts_not_executed(&replay, &saved.unwrap())
        };
        for (redirects, trusted) in [
            (Redirects::ClientDefault, true),
            (Redirects::None, true),
            (Redirects::Marked, true),
            (Redirects::Followed, false),
        ] {
            assert_eq!(trusts(redirects, request("POST")), trusted, "{redirects:?}");
            assert!(trusts(redirects, request("PUT")), "it may run twice");
        }
    }

    #[test]
    fn a_minted_key_alone_makes_nothing_repeatable() {
        assert!(!is_safe(&Replay::new(), with_key("POST", true)));
        let honoured = Replay::new().keys(Keys::Honoured);
        assert!(is_safe(&honoured, with_key("POST", true)));
        assert!(is_safe(&honoured, with_key("PATCH", true)));
        assert!(
            !is_safe(&honoured, request("POST")),
            "without a key it runs twice"
        );
        assert!(!is_safe(&honoured, with_key("LOCK", true)));
        let mut empty = request("POST");
        empty
            .headers_mut()
            .insert(KEY, HeaderValue::from_static(""));
        assert!(!is_safe(&honoured, empty));
    }

    #[test]
    fn the_callers_own_key_says_that_it_is_honoured() {
        assert!(is_safe(&Replay::new(), with_key("POST", false)));
        let elsewhere = Replay::new().key_header("x-key").unwrap();
        assert!(!is_safe(&elsewhere, with_key("POST", false)));
    }

    #[tokio::test]
    async fn so_does_the_key_in_the_options_of_the_call() {
        CallOptions::new()
            .key("order-1")
            .scope(async { assert!(is_safe(&Replay::new(), with_key("POST", true))) })
            .await;
    }

    #[test]
    fn only_a_key_can_have_an_operation_in_progress() {
        let conflict = |headers: &[(&'static str, &'static str)]| {
            let mut response = ::http::Response::builder().status(409);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            ByStatus::new().response(&response.body(()).unwrap())
        };
        let repeats = |request, outcome: &Outcome| {
            let replay = Replay::new();
            let (_, saved) = replay.first(request);
            ReplayPolicy::<Sent>::is_safe(&replay, &saved.unwrap(), outcome)
        };
        let in_progress = conflict(&[("retry-after", "1")]);
        for method in ["PUT", "POST"] {
            assert!(repeats(with_key(method, false), &in_progress));
            assert!(!repeats(request(method), &in_progress));
        }
        assert!(!repeats(with_key("POST", true), &in_progress));
        let told = conflict(&[("retry-after", "1"), ("x-should-retry", "true")]);
        assert!(repeats(request("PUT"), &told), "the server says so");
        assert!(!repeats(request("POST"), &told), "which makes nothing safe");
    }

    #[test]
    fn keys_may_be_honoured_by_some_servers() {
        let by = |server: &str| {
            let servers = [server.parse().unwrap()];
            Replay::new().keys(Keys::HonouredBy(servers.into()))
        };
        assert!(is_safe(
            &by("https://API.example.com:443"),
            with_key("POST", true)
        ));
        assert!(!is_safe(
            &by("https://other.example.com"),
            with_key("POST", true)
        ));
    }

    #[test]
    fn a_proxy_never_repeats_what_is_not_idempotent() {
        let proxy = Replay::new().keys(Keys::Honoured).proxy();
        assert!(is_safe(&proxy, request("GET")));
        for request in [request("POST"), with_key("POST", false)] {
            let (_, saved) = proxy.first(request);
            assert!(saved.is_none(), "not even before it was executed");
        }
    }

    #[test]
    fn attempts_are_numbered() {
        let replay = Replay::new().attempt_header(true);
        let (first, saved) = replay.first(request("GET"));
        let second = again(&replay, saved);
        for (attempt, request) in [(1, first), (2, second)] {
            let number = request.extensions().get::<Call>().map(|call| call.attempt);
            assert_eq!(number.unwrap_or(1), attempt);
            assert_eq!(
                request.headers()["x-envoy-attempt-count"],
                attempt.to_string()
            );
            assert_eq!(*request.body(), "body");
        }
        let (silent, _) = Replay::new().first(request("GET"));
        assert!(silent.headers().is_empty());
    }

    #[test]
    fn a_repetition_is_not_early_data() {
        let mut early = request("GET");
        early
            .headers_mut()
            .insert(EARLY_DATA, HeaderValue::from_static("1"));
        let (first, saved) = Replay::new().first(early.clone());
        assert!(first.headers().contains_key(EARLY_DATA));
        let second = again(&Replay::new(), saved);
        assert!(!second.headers().contains_key(EARLY_DATA));
        let (_, saved) = Replay::new().proxy().first(early);
        assert!(saved.is_none(), "it is the client's to repeat");
    }

    #[test]
    fn nothing_shows_a_key() {
        let (_, saved) = Replay::new().first(with_key("POST", false));
        assert!(!format!("{saved:?}").contains("letters"));
    }
}

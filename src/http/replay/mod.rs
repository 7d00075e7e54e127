//! Which requests may run twice, and how they are sent again.

mod body;
mod buffer;
mod wrap;

use std::fmt;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

#[cfg(feature = "reqwest")]
pub(crate) use self::body::BodyBuffer;
pub use self::body::ReplayBody;
pub(crate) use self::wrap::ReplayAs;

use super::grpc::methods::Methods;
use super::idempotency_keys::IdempotencyKeys;
use super::redirects::Redirects;
use super::request::HttpRequest;
use crate::call::{Call, CallOptions};
use crate::error::ConfigError;
use crate::idempotency::{DEFAULT_HEADER, GenerateKey, found, header_name};
use crate::outcome::{Executed, Kind, Outcome, RetryAdvice};
use crate::retry::ReplayPolicy;
use crate::sync::Mutex;

/// Repeats HTTP requests, and only those that may run twice.
///
/// After a failure that the service may have acted on, a request is repeated if
/// - its method is GET, HEAD, OPTIONS, TRACE, PUT or DELETE; or
/// - it is a POST or PATCH that carries an idempotency key, and the server is known to honor keys: by
///   [`idempotency_keys`](Replay::idempotency_keys), or because the caller chose the key himself, in the header or by
///   [`CallOptions::idempotency_key`](crate::CallOptions::idempotency_key). A header that is no key (empty, there twice, or a structured-field
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
/// count. A body that cannot be cloned is kept while it is sent: see [`map_request_body`](Replay::map_request_body). For reqwest's streaming
/// bodies that is done without asking. An `early-data` header is not repeated (RFC 8470). Each repetition of an `http`
/// request carries its number as a [`Call`] in its extensions; a first attempt, which has none, is spared the allocations.
///
/// ```
/// use buttress::http::{IdempotencyKeys, Replay};
///
/// let safe_methods = Replay::new();
/// let payments_too = Replay::new().idempotency_keys(IdempotencyKeys::Honored);
/// let only_there = Replay::new().idempotency_keys(IdempotencyKeys::honored_by(["https://api.example.com/v1/charges"])?);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replay {
    /// Shared with all clones, which use a new value from the next call on.
    idempotency_keys: Arc<Mutex<IdempotencyKeys>>,
    header: HeaderName,
    proxy: bool,
    buffer_limit: usize,
    redirects: Redirects,
    /// gRPC's rules, and the methods that may run twice by them.
    grpc: Option<Methods>,
}

impl Default for Replay {
    fn default() -> Self {
        Self::new()
    }
}

impl Replay {
    /// Nothing is known about keys.
    pub fn new() -> Self {
        Self {
            idempotency_keys: Arc::default(),
            header: DEFAULT_HEADER,
            proxy: false,
            buffer_limit: 64 * 1024,
            redirects: Redirects::ClientDefault,
            grpc: None,
        }
    }

    /// Which servers honor idempotency keys.
    #[must_use]
    pub fn idempotency_keys(mut self, keys: IdempotencyKeys) -> Self {
        self.idempotency_keys = Arc::new(Mutex::new(keys));
        self
    }

    /// Changes the keys of all clones.
    pub(crate) fn set_idempotency_keys(&self, keys: IdempotencyKeys) {
        // The former ones are dropped out of the lock.
        let former = std::mem::replace(&mut *self.idempotency_keys.lock(), keys);
        drop(former);
    }

    fn known_keys(&self) -> IdempotencyKeys {
        self.idempotency_keys.lock().clone()
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

    /// How many bytes of a body that cannot be cloned are kept, to be sent again. Default 64 KiB; any.
    ///
    /// It matters where bodies are [wrapped](Self::map_request_body), and for reqwest's streaming ones.
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

    /// Repeats gRPC calls by gRPC's rules instead of those for HTTP methods: every gRPC call is a POST.
    ///
    /// - A call that the service certainly did not act on is repeated (gRPC's transparent retry).
    /// - A call of an idempotent method is repeated after `UNAVAILABLE`, after `RESOURCE_EXHAUSTED` with a pushback, and after
    ///   a broken connection or an attempt's timeout; but not once the headers of a response came. Use it with
    ///   [`ByGrpcStatus`](super::ByGrpcStatus), which tells these apart.
    ///
    /// `idempotent` names the methods that may run twice: `/package.Service/Method`, or `/package.Service/` for all methods of
    /// a service. A repetition that counts sends the server the number of attempts before it, as `grpc-previous-rpc-attempts`: 1
    /// on the second attempt.
    ///
    /// ```
    /// use buttress::http::Replay;
    ///
    /// let replay = Replay::new().grpc(["/shop.Orders/Get", "/shop.Catalog/"])?;
    /// # let _ = replay;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// One of them is neither a method nor a service.
    pub fn grpc<M: AsRef<str>>(
        mut self,
        idempotent: impl IntoIterator<Item = M>,
    ) -> Result<Self, ConfigError> {
        self.grpc = Some(Methods::new(idempotent)?);
        Ok(self)
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
    pub fn map_request_body<W>(self, wrap: W) -> ReplayAs<W> {
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
    ) -> Option<Saved<K>> {
        let idempotent = is_idempotent(request.method());
        if self.proxy && (!idempotent || request.headers().contains_key(EARLY_DATA)) {
            return None;
        }
        let safe = if let Some(methods) = &self.grpc {
            methods.contains(request.path())
        } else {
            let honors = |key| self.honors(key, request);
            idempotent || found(request.headers(), &self.header).is_some_and(honors)
        };
        let certain = safe || !self.redirects.may_be_hidden(request.follows_redirects());
        let request = copy(request)?;
        Some(Saved {
            request,
            safe,
            certain,
        })
    }

    /// Whether this key makes this request safe.
    fn honors<R: HttpRequest>(&self, key: &HeaderValue, request: &R) -> bool {
        if !matches!(*request.method(), Method::POST | Method::PATCH) {
            return false;
        }
        let callers_own = || !key.is_sensitive() || CallOptions::has_key();
        self.known_keys().honor(request) || callers_own()
    }

    /// The head of a first attempt. `saved`: there may be further ones.
    fn begin<B>(request: &mut Request<B>, saved: bool) {
        // Set only where a retry further out has set its own: a first insertion allocates.
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            *call = Call::new(1, !saved);
        }
    }

    /// The head of a further one.
    fn repeat<B>(&self, request: &mut Request<B>) {
        let call = Call::current();
        Self::repeat_headers(request.headers_mut());
        // The repeat of what was not executed has the number of the attempt that it repeats.
        let previous = call.attempt.saturating_sub(1);
        if self.grpc.is_some() && previous > 0 {
            let headers = request.headers_mut();
            headers.insert(PREVIOUS_ATTEMPTS, previous.into());
        }
        request.extensions_mut().insert(call);
    }

    /// The headers of a further attempt.
    pub(crate) fn repeat_headers(headers: &mut HeaderMap) {
        headers.remove(EARLY_DATA);
    }

    /// Whether a request of which this was kept may be sent again after a failure that the service may have acted on. Its
    /// key is looked for only now: most requests do not fail.
    pub(crate) fn may_repeat_kept<R: HttpRequest>(
        &self,
        saved: &Saved<R>,
        outcome: &Outcome,
    ) -> bool {
        if self.grpc.is_some() {
            return saved.safe && (outcome.kind != Kind::Overloaded || outcome.wait.is_some());
        }
        let keyed = || found(saved.request.headers(), &self.header).is_some();
        saved.safe && (!is_in_progress(outcome) || keyed())
    }
}

/// Keys are minted where this strategy takes them to be honored: nowhere in a proxy.
///
/// ```
/// use buttress::http::{IdempotencyKeys, Replay};
/// use buttress::idempotency::IdempotencyKeyLayer;
///
/// let replay = Replay::new().idempotency_keys(IdempotencyKeys::honored_by(["POST https://api.example.com/v1/charges"])?);
/// let keys = IdempotencyKeyLayer::new().generate(replay.clone());
/// # let _ = keys;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
impl<R: HttpRequest> GenerateKey<R> for Replay {
    fn generates(&self, request: &R) -> bool {
        !self.proxy && self.known_keys().honor(request)
    }
}

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// RFC 9110 §9.2.2; methods of extensions are not known to be.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What [`Replay`] keeps of a request.
pub struct Saved<R> {
    request: R,
    safe: bool,
    /// Whether "not executed" can be trusted, or does not matter.
    certain: bool,
}

impl<R> Saved<R> {
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
        && outcome.retry == RetryAdvice::Allowed
        && outcome.wait.is_some()
        && outcome.executed == Executed::Maybe
}

/// Without the request, whose headers hold secrets.
impl<R> fmt::Debug for Saved<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("safe", &self.safe)
            .finish_non_exhaustive()
    }
}

#[diagnostic::do_not_recommend]
impl<B: Clone> ReplayPolicy<Request<B>> for Replay {
    type Attempt = Request<B>;
    type Saved = Saved<Request<B>>;

    fn first(&self, mut request: Request<B>) -> (Request<B>, Option<Saved<Request<B>>>) {
        let saved = self.keep(&request, |request| Some(request.clone()));
        Self::begin(&mut request, saved.is_some());
        (request, saved)
    }

    fn only(&self, mut request: Request<B>) -> Request<B> {
        Self::begin(&mut request, false);
        request
    }

    fn again(&self, saved: &mut Saved<Request<B>>) -> Option<Request<B>> {
        let mut request = saved.request().clone();
        self.repeat(&mut request);
        Some(request)
    }

    fn is_safe(&self, saved: &Saved<Request<B>>, outcome: &Outcome) -> bool {
        self.may_repeat_kept(saved, outcome)
    }

    fn trusts_not_executed(&self, saved: &Saved<Request<B>>) -> bool {
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

    fn with_key(method: &str, generated: bool) -> Sent {
        let mut request = request(method);
        let mut key = HeaderValue::from_static("\"a-key-of-enough-letters\"");
        key.set_sensitive(generated);
        request.headers_mut().insert(KEY, key);
        request
    }

    type Sent = Request<&'static str>;

    fn is_safe(replay: &Replay, request: Sent) -> bool {
        let (_, saved) = replay.first(request);
        saved
            .is_some_and(|saved| ReplayPolicy::<Sent>::is_safe(replay, &saved, &Outcome::TRANSIENT))
    }

    fn again(replay: &Replay, saved: Option<Saved<Sent>>) -> Sent {
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
    fn a_generated_key_alone_makes_nothing_repeatable() {
        assert!(!is_safe(&Replay::new(), with_key("POST", true)));
        let honored = Replay::new().idempotency_keys(IdempotencyKeys::Honored);
        assert!(is_safe(&honored, with_key("POST", true)));
        assert!(is_safe(&honored, with_key("PATCH", true)));
        assert!(
            !is_safe(&honored, request("POST")),
            "without a key it runs twice"
        );
        assert!(!is_safe(&honored, with_key("LOCK", true)));
        let mut empty = request("POST");
        empty
            .headers_mut()
            .insert(KEY, HeaderValue::from_static(""));
        assert!(!is_safe(&honored, empty));
    }

    #[test]
    fn the_callers_own_key_says_that_it_is_honored() {
        assert!(is_safe(&Replay::new(), with_key("POST", false)));
        let elsewhere = Replay::new().key_header("x-key").unwrap();
        assert!(!is_safe(&elsewhere, with_key("POST", false)));
    }

    #[tokio::test]
    async fn so_does_the_key_in_the_options_of_the_call() {
        CallOptions::new()
            .idempotency_key("order-1")
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
        let sent = conflict(&[("retry-after", "1"), ("x-should-retry", "true")]);
        assert!(repeats(request("PUT"), &sent), "the server says so");
        assert!(!repeats(request("POST"), &sent), "which makes nothing safe");
    }

    #[test]
    fn keys_may_be_honored_by_some_servers() {
        let by = |server: &str| {
            let servers = [server.parse().unwrap()];
            Replay::new().idempotency_keys(IdempotencyKeys::HonoredBy(servers.into()))
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
        let proxy = Replay::new()
            .idempotency_keys(IdempotencyKeys::Honored)
            .proxy();
        assert!(is_safe(&proxy, request("GET")));
        for request in [request("POST"), with_key("POST", false)] {
            let (_, saved) = proxy.first(request);
            assert!(saved.is_none(), "not even before it was executed");
        }
    }

    #[test]
    fn attempts_are_numbered() {
        let replay = Replay::new();
        let (first, saved) = replay.first(request("GET"));
        let second = again(&replay, saved);
        for (attempt, request) in [(1, first), (2, second)] {
            let number = request.extensions().get::<Call>().map(|call| call.attempt);
            assert_eq!(number.unwrap_or(1), attempt);
            assert_eq!(*request.body(), "body");
        }
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
    fn grpc_repeats_methods_that_may_run_twice_and_a_limiting_server_only_when_it_says_when() {
        let (get, create) = ("http://shop:50051/shop.Orders/Get", "/shop.Orders/Create");
        let wait = Some(std::time::Duration::ZERO);
        for (path, outcome, repeated) in [
            ("/shop.Orders/Get", Outcome::TRANSIENT, true),
            (get, Outcome::TRANSIENT, true),
            (get, Outcome::OVERLOADED, false),
            (get, Outcome::OVERLOADED.wait(wait), true),
            (create, Outcome::TRANSIENT, false),
            (create, Outcome::OVERLOADED.wait(wait), false),
        ] {
            let replay = Replay::new().grpc(["/shop.Orders/Get"]).unwrap();
            let (_, saved) = replay.first(Request::post(path).body("message").unwrap());
            let saved = saved.expect("kept for a failure before it was executed");
            let may = ReplayPolicy::<Sent>::is_safe(&replay, &saved, &outcome);
            assert_eq!(may, repeated, "{path} {outcome:?}");
        }
    }

    #[test]
    fn a_grpc_server_is_told_how_many_attempts_came_before() {
        let replay = Replay::new().grpc(["/shop.Orders/"]).unwrap();
        let get = Request::post("/shop.Orders/Get").body("message").unwrap();
        let (first, saved) = replay.first(get);
        let mut saved = saved.unwrap();
        assert!(!first.headers().contains_key(PREVIOUS_ATTEMPTS));
        for (number, previous) in [(1, None), (2, Some("1")), (3, Some("2"))] {
            let _attempt = Call::new(number, false).enter();
            let again = ReplayPolicy::<Sent>::again(&replay, &mut saved).unwrap();
            let sent = again.headers().get(PREVIOUS_ATTEMPTS);
            assert_eq!(sent.map(|sent| sent.to_str().unwrap()), previous);
        }
    }

    #[test]
    fn nothing_shows_a_key() {
        let (_, saved) = Replay::new().first(with_key("POST", false));
        assert!(!format!("{saved:?}").contains("letters"));
    }
}

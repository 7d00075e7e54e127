//! Which requests are safe to send again.

use std::fmt;
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue, Method};

use crate::call::CallOptions;
use crate::http::grpc::methods::Methods;
use crate::http::replay::idempotency_keys::IdempotencyKeys;
use crate::http::replay::redirects::Redirects;
use crate::http::request::HttpRequest;
use crate::idempotency::{DEFAULT_HEADER, found};
use crate::outcome::{Executed, Kind, Outcome, RetryAdvice};
use crate::sync::Mutex;

pub(super) const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// The rules of [`Replay`](crate::http::Replay).
#[derive(Clone, Debug)]
pub(super) struct SafetyRules {
    /// Shared by all clones.
    pub(super) idempotency_keys: Arc<Mutex<IdempotencyKeys>>,
    pub(super) key_header: HeaderName,
    pub(super) proxy: bool,
    pub(super) redirects: Redirects,
    /// The idempotent methods, if gRPC's rules apply.
    pub(super) grpc: Option<Methods>,
}

impl Default for SafetyRules {
    fn default() -> Self {
        Self {
            idempotency_keys: Arc::default(),
            key_header: DEFAULT_HEADER,
            proxy: false,
            redirects: Redirects::ClientDefault,
            grpc: None,
        }
    }
}

impl SafetyRules {
    /// Saves a request for further attempts.
    pub(super) fn save<R: HttpRequest, K: HttpRequest>(
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
            idempotent || found(request.headers(), &self.key_header).is_some_and(honors)
        };
        let certain = safe || !self.redirects.may_be_hidden(request.follows_redirects());
        let request = copy(request)?;
        Some(Saved {
            request,
            safe,
            certain,
        })
    }

    /// Whether this key makes this request safe to retry.
    fn honors<R: HttpRequest>(&self, key: &HeaderValue, request: &R) -> bool {
        if !matches!(*request.method(), Method::POST | Method::PATCH) {
            return false;
        }
        let callers_own = || !key.is_sensitive() || CallOptions::has_key();
        self.known_keys().honor(request) || callers_own()
    }

    /// Whether to generate a key for this request: only if its server is known to honor it.
    pub(super) fn generates_key<R: HttpRequest>(&self, request: &R) -> bool {
        !self.proxy && self.known_keys().honor(request)
    }

    fn known_keys(&self) -> IdempotencyKeys {
        self.idempotency_keys.lock().clone()
    }

    /// Whether a saved request is safe to send again after a failure that the service may have acted on. The key is parsed
    /// only now, because most requests do not fail.
    pub(super) fn is_safe_to_replay<R: HttpRequest>(
        &self,
        saved: &Saved<R>,
        outcome: &Outcome,
    ) -> bool {
        if self.grpc.is_some() {
            return saved.safe && (outcome.kind != Kind::Overloaded || outcome.wait.is_some());
        }
        let keyed = || found(saved.request.headers(), &self.key_header).is_some();
        saved.safe && (!is_in_progress(outcome) || keyed())
    }
}

/// RFC 9110 §9.2.2; methods of extensions are not known to be.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// A request saved by [`Replay`](crate::http::Replay).
pub struct Saved<R> {
    request: R,
    safe: bool,
    /// Whether "not executed" can be trusted, or does not matter.
    certain: bool,
}

impl<R> Saved<R> {
    /// Whether an error that means "not executed" concerns this request: no redirect was followed unreported.
    pub(crate) const fn trusts_not_executed(&self) -> bool {
        self.certain
    }

    /// The request to copy.
    pub(crate) const fn request(&self) -> &R {
        &self.request
    }
}

/// Without the request, whose headers hold secrets.
impl<R> fmt::Debug for Saved<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("safe", &self.safe)
            .finish_non_exhaustive()
    }
}

/// "The operation of this key is still running": a 409 with `Retry-After`, as [`ByStatus`](crate::http::ByStatus)
/// classifies it. For a request without a key it is a conflict like any other.
fn is_in_progress(outcome: &Outcome) -> bool {
    outcome.kind == Kind::Neutral
        && outcome.retry == RetryAdvice::Allowed
        && outcome.wait.is_some()
        && outcome.executed == Executed::Maybe
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;
    use crate::http::{ByStatus, Replay};
    use crate::retry::ReplayPolicy;

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

    #[test]
    fn only_idempotent_methods_are_safe() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_safe(&Replay::new(), request(method)), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PROPFIND", "get"] {
            assert!(!is_safe(&Replay::new(), request(method)), "{method}");
            let (_, saved) = Replay::new().first(request(method));
            assert!(
                saved.is_some(),
                "{method} is saved for a failure before it was executed"
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
    fn a_generated_key_alone_does_not_make_a_request_safe() {
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
    fn the_callers_own_key_makes_a_request_safe() {
        assert!(is_safe(&Replay::new(), with_key("POST", false)));
        let elsewhere = Replay::new().key_header("x-key").unwrap();
        assert!(!is_safe(&elsewhere, with_key("POST", false)));
    }

    #[tokio::test]
    async fn a_key_in_the_call_options_makes_a_request_safe() {
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
    fn a_proxy_never_retries_a_non_idempotent_method() {
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
    fn grpc_retries_idempotent_methods_and_exhausted_resources_only_with_a_pushback() {
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
            let saved = saved.expect("saved for a failure before it was executed");
            let may = ReplayPolicy::<Sent>::is_safe(&replay, &saved, &outcome);
            assert_eq!(may, repeated, "{path} {outcome:?}");
        }
    }
}

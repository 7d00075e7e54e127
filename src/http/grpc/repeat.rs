//! Which gRPC calls may be sent again, and how the server is told.

use std::fmt;

use ::http::{HeaderName, HeaderValue, Request};

use super::methods::Methods;
use crate::call::Call;
use crate::error::ConfigError;
use crate::outcome::{Kind, Outcome};
use crate::retry::ReplayPolicy;

/// Repeats gRPC calls, and only those that may run twice. How a request is kept and sent again is for the strategy inside, whose
/// own rule, by HTTP methods, does not count: every gRPC call is a POST.
///
/// - A call that the service certainly did not act on is repeated (gRPC's transparent retry).
/// - A call of a method that was named as [`idempotent`](Self::idempotent) is repeated after `UNAVAILABLE`, after
///   `RESOURCE_EXHAUSTED` with a pushback, and after a broken connection or an attempt's timeout; but not once the headers of a
///   response came. To be used with [`ByGrpcStatus`](super::ByGrpcStatus), which tells these apart.
///
/// A repetition that counts tells the server how many came before it, as `grpc-previous-rpc-attempts`: 1 on the second
/// attempt.
///
/// ```
/// use buttress::http::{GrpcReplay, Replay};
///
/// let replay = GrpcReplay::new(Replay::new()).idempotent(["/shop.Orders/Get", "/shop.Catalog/"])?;
/// # let _ = replay;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct GrpcReplay<R> {
    replay: R,
    methods: Methods,
}

impl<R> GrpcReplay<R> {
    /// No method may run twice; requests are sent again as `replay` does it.
    pub fn new(replay: R) -> Self {
        Self {
            replay,
            methods: Methods::default(),
        }
    }

    /// The methods that may run twice, and no others: `/package.Service/Method`, or `/package.Service/` for all methods of a
    /// service.
    ///
    /// # Errors
    ///
    /// One of them is neither.
    pub fn idempotent<M: AsRef<str>>(
        self,
        methods: impl IntoIterator<Item = M>,
    ) -> Result<Self, ConfigError> {
        Ok(self.methods(Methods::new(methods)?))
    }

    pub(super) fn methods(self, methods: Methods) -> Self {
        Self { methods, ..self }
    }

    /// The same rule around what `make` makes of the strategy inside.
    pub(super) fn map<T>(self, make: impl FnOnce(R) -> T) -> GrpcReplay<T> {
        GrpcReplay {
            replay: make(self.replay),
            methods: self.methods,
        }
    }
}

/// What [`GrpcReplay`] keeps of a call.
pub struct KeptCall<S> {
    saved: S,
    idempotent: bool,
}

/// Without the request, whose headers hold secrets.
impl<S> fmt::Debug for KeptCall<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptCall")
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

impl<R, B, A> ReplayPolicy<Request<B>> for GrpcReplay<R>
where
    R: ReplayPolicy<Request<B>, Attempt = Request<A>>,
{
    type Attempt = Request<A>;
    type Saved = KeptCall<R::Saved>;

    fn first(&self, request: Request<B>) -> (Request<A>, Option<KeptCall<R::Saved>>) {
        let idempotent = self.methods.contains(request.uri().path());
        let (attempt, saved) = self.replay.first(request);
        (attempt, saved.map(|saved| KeptCall { saved, idempotent }))
    }

    fn only(&self, request: Request<B>) -> Request<A> {
        self.replay.only(request)
    }

    fn again(&self, kept: &mut KeptCall<R::Saved>) -> Option<Request<A>> {
        let mut attempt = self.replay.again(&mut kept.saved)?;
        // The repeat of what was not executed has the number of the attempt that it repeats.
        let previous = Call::current().attempt.saturating_sub(1);
        if previous > 0 {
            let previous = HeaderValue::from(previous);
            attempt.headers_mut().insert(PREVIOUS_ATTEMPTS, previous);
        }
        Some(attempt)
    }

    fn is_safe(&self, kept: &KeptCall<R::Saved>, outcome: &Outcome) -> bool {
        kept.idempotent && (outcome.kind != Kind::Overloaded || outcome.wait.is_some())
    }

    fn trusts_not_executed(&self, kept: &KeptCall<R::Saved>) -> bool {
        kept.idempotent || self.replay.trusts_not_executed(&kept.saved)
    }

    fn is_replayable(&self, kept: &KeptCall<R::Saved>) -> bool {
        self.replay.is_replayable(&kept.saved)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::Replay;

    fn replay() -> GrpcReplay<Replay> {
        let replay = GrpcReplay::new(Replay::new());
        replay.idempotent(["/shop.Orders/Get"]).unwrap()
    }

    fn call(path: &str) -> Request<&'static str> {
        Request::post(path).body("message").unwrap()
    }

    fn is_safe(path: &str, outcome: Outcome) -> bool {
        let replay = replay();
        let (_, kept) = replay.first(call(path));
        let kept = kept.expect("kept for a failure before it was executed");
        ReplayPolicy::<Request<&str>>::is_safe(&replay, &kept, &outcome)
    }

    #[test]
    fn only_what_is_named_may_run_twice() {
        assert!(is_safe("/shop.Orders/Get", Outcome::TRANSIENT));
        assert!(is_safe(
            "http://shop:50051/shop.Orders/Get",
            Outcome::TRANSIENT
        ));
        assert!(!is_safe("/shop.Orders/Create", Outcome::TRANSIENT));
    }

    #[test]
    fn a_limiting_server_is_asked_again_only_when_it_says_when() {
        let wait = Some(Duration::ZERO);
        assert!(!is_safe("/shop.Orders/Get", Outcome::OVERLOADED));
        assert!(is_safe("/shop.Orders/Get", Outcome::OVERLOADED.wait(wait)));
        let create = "/shop.Orders/Create";
        assert!(!is_safe(create, Outcome::OVERLOADED.wait(wait)));
    }

    #[test]
    fn the_server_is_told_how_many_attempts_came_before() {
        let replay = replay();
        let (first, kept) = replay.first(call("/shop.Orders/Get"));
        let mut kept = kept.unwrap();
        assert!(!first.headers().contains_key(PREVIOUS_ATTEMPTS));
        for (number, previous) in [(1, None), (2, Some("1")), (3, Some("2"))] {
            let _attempt = Call::new(number, false).enter();
            let again = ReplayPolicy::<Request<&str>>::again(&replay, &mut kept).unwrap();
            let told = again.headers().get(PREVIOUS_ATTEMPTS);
            assert_eq!(told.map(|told| told.to_str().unwrap()), previous);
        }
    }

    #[test]
    fn nothing_shows_a_header() {
        let mut secret = call("/shop.Orders/Get");
        let token = HeaderValue::from_static("letters");
        secret.headers_mut().insert("authorization", token);
        let (_, kept) = replay().first(secret);
        assert!(!format!("{kept:?}").contains("letters"));
    }
}

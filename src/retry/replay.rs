//! Which requests may be sent again, and how.
//!
//! A trait of its own: an implementation for all requests that are `Clone` would conflict with one for streaming bodies.

use crate::outcome::Outcome;

/// Which requests may be sent more than once, and how.
///
/// The policy receives the request first, saves the parts it needs, and makes one attempt after the other. The inner
/// service receives an [`Attempt`](Self::Attempt): the request itself, or a wrapper that lets its body be sent again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay requests of the type `{Req}`",
    label = "not a replay policy for these requests",
    note = "requests that are `Clone`, each of which may safely run twice: `buttress::retry::by_clone()`",
    note = "only some of them: `buttress::retry::by_clone_if(|request: &Req| …)`",
    note = "`reqwest::Request`, and `http::Request` whose body is `Clone`: `buttress::http::Replay`",
    note = "`http::Request` with any other body: `buttress::http::Replay::new().map_request_body(wrap)`, where `wrap` makes the inner service's body \
            of a `ReplayBody`: `tonic::body::Body::new`, `axum::body::Body::new`, or `std::convert::identity` for hyper",
    note = "in the standard stack: `client(name, config)?.map_request_body(wrap)`, and so with `grpc`"
)]
pub trait ReplayPolicy<Req> {
    /// What the inner service is called with.
    type Attempt;
    /// The state saved for further attempts.
    type Saved;

    /// The first attempt, and the state saved for further ones. `None`: the request is sent once.
    fn first(&self, request: Req) -> (Self::Attempt, Option<Self::Saved>);

    /// The only attempt of a request that is never replayed. Override it if saving the request is expensive.
    fn only(&self, request: Req) -> Self::Attempt {
        self.first(request).0
    }

    /// Another attempt, or `None` if the request cannot be sent again. [`Call::current`](crate::Call::current) is that attempt.
    fn again(&self, saved: &mut Self::Saved) -> Option<Self::Attempt>;

    /// Whether this request may be replayed after a failure that the service may have acted on. After a failure that it certainly
    /// did not act on, every [replayable](Self::is_replayable) request is replayed. Default: yes.
    fn is_safe(&self, saved: &Self::Saved, outcome: &Outcome) -> bool {
        let _ = (saved, outcome);
        true
    }

    /// Whether "not executed" in an outcome of the service is reliable for this request. If not, [`is_safe`](Self::is_safe)
    /// decides. A rejection by a layer of this crate is always reliable. Default: yes.
    fn trusts_not_executed(&self, saved: &Self::Saved) -> bool {
        let _ = saved;
        true
    }

    /// Whether the saved request can still be sent. Called after every failure, even if nothing was executed. Default: yes.
    fn is_replayable(&self, saved: &Self::Saved) -> bool {
        let _ = saved;
        true
    }
}

/// The policy of [`by_clone`].
#[derive(Clone, Copy, Debug)]
pub struct ByClone;

/// Replays requests by cloning them. **Every request may run twice**: right for reads, and for operations that the service
/// makes idempotent. For anything else, use [`by_clone_if`].
pub const fn by_clone() -> ByClone {
    ByClone
}

// Without this, the error would only require `Clone` and not show the other policies.
#[diagnostic::do_not_recommend]
impl<Req: Clone> ReplayPolicy<Req> for ByClone {
    type Attempt = Req;
    type Saved = Req;

    fn first(&self, request: Req) -> (Req, Option<Req>) {
        let saved = request.clone();
        (request, Some(saved))
    }

    fn only(&self, request: Req) -> Req {
        request
    }

    fn again(&self, saved: &mut Req) -> Option<Req> {
        Some(saved.clone())
    }
}

/// The policy of [`by_clone_if`].
#[derive(Clone, Copy, Debug)]
pub struct ByCloneIf<P>(P);

/// Replays requests by cloning them. After a failure that the service may have acted on, only those for which `allowed`
/// returns `true` are replayed. A request that certainly was not executed is always replayed.
pub const fn by_clone_if<P>(allowed: P) -> ByCloneIf<P> {
    ByCloneIf(allowed)
}

#[diagnostic::do_not_recommend]
impl<Req: Clone, P: Fn(&Req) -> bool> ReplayPolicy<Req> for ByCloneIf<P> {
    type Attempt = Req;
    type Saved = Req;

    fn first(&self, request: Req) -> (Req, Option<Req>) {
        ByClone.first(request)
    }

    fn only(&self, request: Req) -> Req {
        request
    }

    fn again(&self, saved: &mut Req) -> Option<Req> {
        Some(saved.clone())
    }

    fn is_safe(&self, saved: &Req, _outcome: &Outcome) -> bool {
        (self.0)(saved)
    }
}

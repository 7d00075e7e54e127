//! What may be sent again, and how: a strategy, because a blanket implementation for requests that are `Clone` could
//! not stand beside one for requests whose body is a stream.

use crate::outcome::Outcome;

/// How a request is sent more than once.
///
/// The strategy sees the request first, keeps what it needs of it, and hands out one attempt after the other. What is
/// handed to the inner service is an [`Attempt`](Repeat::Attempt): the request itself, or a wrapping of it that lets its
/// body be sent again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot repeat requests of the type `{Req}`",
    label = "not a way to repeat these requests",
    note = "requests that are `Clone`, each of which may safely run twice: `buttress::repeat::cloned()`",
    note = "only some of them: `buttress::repeat::cloned_if(|request: &Req| …)`",
    note = "`http::Request` whose body is `Clone`: `buttress::http::Replay`; `reqwest::Request`: `buttress::reqwest::Replay`",
    note = "`http::Request` with any other body: `buttress::http::Replay::new().map_request_body(wrap)`, where `wrap` makes the inner service's body \
            of a `ReplayBody`: `tonic::body::Body::new`, `axum::body::Body::new`, or `std::convert::identity` for hyper",
    note = "in the standard stack: `client(name, config)?.map_request_body(wrap)`, and so with `grpc`"
)]
pub trait Repeat<Req> {
    /// What the inner service is called with.
    type Attempt;
    /// What is kept to make further attempts.
    type Saved;

    /// The first attempt, and what is kept for further ones. `None`: it is sent once, whatever happens.
    fn first(&self, request: Req) -> (Self::Attempt, Option<Self::Saved>);

    /// The only attempt of a request that is not to be repeated: nothing is kept. Override it where keeping costs something.
    fn only(&self, request: Req) -> Self::Attempt {
        self.first(request).0
    }

    /// Another attempt; `None` if there can be none any more. [`Call::current`](crate::Call::current) is that attempt.
    fn again(&self, saved: &mut Self::Saved) -> Option<Self::Attempt>;

    /// Whether this request may be repeated after a failure that the service may have acted on. (After one that it
    /// certainly did not act on, it always may, if it [can](Repeat::can_repeat).) Default: yes.
    fn may_repeat(&self, saved: &Self::Saved, outcome: &Outcome) -> bool {
        let _ = (saved, outcome);
        true
    }

    /// Whether an outcome of the service that says "not executed" is certain for this request. If not, the service may have
    /// acted on it: [`may_repeat`](Repeat::may_repeat) decides. A refusal by a layer of this crate is certain in any case.
    /// Default: yes.
    fn trusts_not_executed(&self, saved: &Self::Saved) -> bool {
        let _ = saved;
        true
    }

    /// Whether what is kept can still be sent: asked after every failure, even if nothing was executed. Default: yes.
    fn can_repeat(&self, saved: &Self::Saved) -> bool {
        let _ = saved;
        true
    }
}

/// Every request may run twice: [`cloned`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cloned;

/// Repeats requests by cloning them. **Every request may run twice**: right for reads and for what the service makes
/// idempotent; for anything else use [`cloned_if`].
pub const fn cloned() -> Cloned {
    Cloned
}

// So that the error names the ways to repeat, not only `Clone`.
#[diagnostic::do_not_recommend]
impl<Req: Clone> Repeat<Req> for Cloned {
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

/// Only the requests that a predicate allows may run twice: [`cloned_if`].
#[derive(Clone, Copy, Debug)]
pub struct ClonedIf<P> {
    allowed: P,
}

/// Repeats requests by cloning them, after a failure that the service may have acted on only those that `allowed` says
/// may run twice. A request that certainly was not executed is repeated all the same.
pub const fn cloned_if<P>(allowed: P) -> ClonedIf<P> {
    ClonedIf { allowed }
}

#[diagnostic::do_not_recommend]
impl<Req: Clone, P: Fn(&Req) -> bool> Repeat<Req> for ClonedIf<P> {
    type Attempt = Req;
    type Saved = Req;

    fn first(&self, request: Req) -> (Req, Option<Req>) {
        Cloned.first(request)
    }

    fn only(&self, request: Req) -> Req {
        request
    }

    fn again(&self, saved: &mut Req) -> Option<Req> {
        Cloned.again(saved)
    }

    fn may_repeat(&self, saved: &Req, _outcome: &Outcome) -> bool {
        (self.allowed)(saved)
    }
}

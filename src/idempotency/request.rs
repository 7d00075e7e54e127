//! Which requests can carry a key, and which are given one.

use ::http::HeaderMap;

/// A request that can carry an idempotency key.
///
/// Implemented for every [`HttpRequest`](crate::http::HttpRequest).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot carry an idempotency key",
    note = "known are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`"
)]
pub trait KeyedRequest {
    /// Whether it does something that would happen twice if it were sent twice.
    fn wants_key(&self) -> bool;

    /// Where the key goes.
    fn headers_mut(&mut self) -> &mut HeaderMap;
}

/// Says which calls are given a key: a `bool` for all of them, or a function of the request.
pub trait GenerateKey<Req: ?Sized> {
    /// Whether this request, which wants a key and has none, is given one.
    fn generates(&self, request: &Req) -> bool;
}

impl<Req: ?Sized> GenerateKey<Req> for bool {
    fn generates(&self, _request: &Req) -> bool {
        *self
    }
}

impl<Req: ?Sized, F: Fn(&Req) -> bool> GenerateKey<Req> for F {
    fn generates(&self, request: &Req) -> bool {
        self(request)
    }
}

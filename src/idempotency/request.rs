//! Requests that can carry a key, and which of them get a generated one.

use ::http::HeaderMap;

/// A request that can carry an idempotency key.
///
/// Implemented for every [`HttpRequest`](crate::http::HttpRequest).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot carry an idempotency key",
    note = "supported are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`"
)]
pub trait KeyedRequest {
    /// Whether it is not idempotent without a key.
    fn wants_key(&self) -> bool;

    /// The headers that carry the key.
    fn headers_mut(&mut self) -> &mut HeaderMap;
}

/// Decides which calls get a generated key: a `bool` for all of them, or a function of the request.
pub trait GenerateKey<Req: ?Sized> {
    /// Whether to generate a key for this request, which has none.
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

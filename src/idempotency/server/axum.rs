//! The operation as an extractor of axum.

use std::convert::Infallible;

use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::http::StatusCode;
use ::http::request::Parts;

use super::operation::Operation;

/// Refused with 500 where no [`IdempotencyLayer`](super::IdempotencyLayer) guards the request: to go on without one would be to
/// act twice. That is a route without the layer, a method that is not guarded, a request without a key where none is required,
/// and a store that failed where the layer is told to fail open: for the last two take `Option<Operation>`.
impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let operation = parts.extensions.get().cloned();
        operation.ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "this request is not guarded by an idempotency layer: its route has none, or its method is not guarded, \
             or it has no key and needs none, or the store failed open",
        ))
    }
}

/// `None` for a request that is served without protection.
impl<S: Sync> OptionalFromRequestParts<S> for Operation {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

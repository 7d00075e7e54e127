//! The operation as an extractor of axum.

use std::convert::Infallible;

use ::http::StatusCode;
use ::http::request::Parts;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};

use super::operation::Operation;

/// Refused with 500 where no [`IdempotencyLayer`](super::IdempotencyLayer) guards the route: to go on without one would be to
/// act twice.
impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let operation = parts.extensions.get().cloned();
        operation.ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "this request is not guarded by an idempotency layer",
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

//! The operation as an extractor of axum.

use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, Response};
use ::http::StatusCode;
use ::http::request::Parts;

use super::operation::{Operation, OperationRejection};

impl IntoResponse for OperationRejection {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NotGuarded => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Ended => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, self.to_string()).into_response()
    }
}

/// Rejected with 500 where no [`IdempotencyLayer`](super::IdempotencyLayer) guards the request: to go on without one would be to
/// act twice. That is a route without the layer, a method that is not guarded, a request without a key where none is required,
/// and a store that failed where the layer is set to fail open: for the last two take `Option<Operation>`. Rejected with 503 if
/// the operation has [ended](OperationRejection::Ended) already.
impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = OperationRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Self::take(&parts.extensions)?.ok_or(OperationRejection::NotGuarded)
    }
}

/// `None` for a request that is served without protection. Rejected with 503 if the operation has
/// [ended](OperationRejection::Ended).
impl<S: Sync> OptionalFromRequestParts<S> for Operation {
    type Rejection = OperationRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, OperationRejection> {
        Self::take(&parts.extensions)
    }
}

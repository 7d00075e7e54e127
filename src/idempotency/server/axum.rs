//! The operation as an axum extractor.

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

/// Rejected with 500 if no [`IdempotencyLayer`](super::IdempotencyLayer) guards the request, because without one the handler
/// could act twice. This is the case for a route without the layer, for a method that is not guarded, for a request without a
/// key if keys are optional, and for a store that failed if the layer fails open. In the last two cases, take
/// `Option<Operation>`. Rejected with 503 if the operation has already [ended](OperationRejection::Ended).
impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = OperationRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Self::take(&parts.extensions)?.ok_or(OperationRejection::NotGuarded)
    }
}

/// `None` for a request that is served without protection. Rejected with 503 if the operation has already
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

//! The operation as an extractor of axum.

use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, Response};
use ::http::StatusCode;
use ::http::request::Parts;

use super::operation::{Operation, OperationEnded};

const NOT_GUARDED: &str = "this request is not guarded by an idempotency layer: its route has none, or its method is not guarded, \
     or it has no key and needs none, or the store failed open";

/// Why a handler could not take its [`Operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationRejection {
    /// 500. No idempotency layer guards the request.
    #[error("{NOT_GUARDED}")]
    NotGuarded,
    /// 503. The operation has ended before its handler was called.
    #[error(transparent)]
    Ended(#[from] OperationEnded),
}

impl IntoResponse for OperationRejection {
    fn into_response(self) -> Response {
        match self {
            Self::NotGuarded => {
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
            Self::Ended(ended) => ended.into_response(),
        }
    }
}

impl IntoResponse for OperationEnded {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.to_string()).into_response()
    }
}

/// Rejected with 500 where no [`IdempotencyLayer`](super::IdempotencyLayer) guards the request: to go on without one would be to
/// act twice. That is a route without the layer, a method that is not guarded, a request without a key where none is required,
/// and a store that failed where the layer is set to fail open: for the last two take `Option<Operation>`. Rejected with 503 if
/// the operation has [ended](OperationEnded) already.
impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = OperationRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Self::take(&parts.extensions)?.ok_or(OperationRejection::NotGuarded)
    }
}

/// `None` for a request that is served without protection. Rejected with 503 if the operation has [ended](OperationEnded).
impl<S: Sync> OptionalFromRequestParts<S> for Operation {
    type Rejection = OperationEnded;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, OperationEnded> {
        Self::take(&parts.extensions)
    }
}

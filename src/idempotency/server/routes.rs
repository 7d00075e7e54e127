//! Ready-made routes for [`IdempotencyLayer::route`](super::IdempotencyLayer::route).

use ::axum::extract::MatchedPath;
use ::http::request::Parts;

/// Uses the pattern of the matched route, such as `/orders/{id}/refunds`, with the prefixes of nested routers; the full path of a
/// request where there is none, as in a fallback.
///
/// One key then stands for one operation of the route, whatever the parameters are: a request for another order with a used
/// key gets 422, because the fingerprint covers the path.
///
/// ```
/// use axum::{Router, routing::post};
/// use buttress::http::answer;
/// use buttress::idempotency::store::MemoryStore;
/// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope, routes};
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let layer = IdempotencyLayer::new("orders", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?
///     .route(routes::matched_path());
/// let app: Router = Router::new()
///     .route("/orders/{id}/refunds", post(async || "refunded"))
///     .route_layer(answer(layer));
/// # let _ = app;
/// # Ok(()) }
/// ```
pub fn matched_path() -> impl Fn(&Parts) -> String + Send + Sync + 'static {
    |parts| match parts.extensions.get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => parts.uri.path().to_owned(),
    }
}

//! A fallible layer in an axum router.
//~ the error `Infallible` cannot hold a rejection of this crate
//~ an `Infallible` service (axum): wrap the layers in `buttress::http::handle_rejections(layers)`

use std::time::Duration;

use axum::{Router, routing::get};
use buttress::timeout::TimeoutLayer;

pub fn app() -> Router {
    let limit = TimeoutLayer::new("orders", Duration::from_secs(2));
    #[cfg(not(mistake))]
    let limit = buttress::http::handle_rejections(limit);
    Router::new()
        .route("/orders", get(async || "none yet"))
        .layer(limit)
}

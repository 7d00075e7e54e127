//! `http::Replay` for requests whose bodies cannot be cloned.
//~ `Replay` cannot replay requests of the type `http::Request<Body>`
//~ `http::Request` with any other body: `buttress::http::Replay::new().map_request_body(wrap)`, where `wrap` makes the inner service's body of a `ReplayBody`: `tonic::body::Body::new`, `axum::body::Body::new`, or `std::convert::identity` for hyper

use axum::body::Body;
use buttress::http::{ByStatus, Replay};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::{ConfigError, Error};
use tower::ServiceBuilder;

pub fn stack(router: axum::Router) -> Result<(), ConfigError> {
    let replay = Replay::new();
    #[cfg(not(mistake))]
    let replay = replay.map_request_body(Body::new);
    let retry = RetryLayer::new("proxy", RetryConfig::new(), replay)?;
    let stack = ServiceBuilder::new()
        .layer(retry.classify(ByStatus::new()))
        .map_err(Error::Inner)
        .service(router);
    buttress::verify::<http::Request<Body>, _>(stack);
    Ok(())
}

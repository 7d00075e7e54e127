//! The standard stack for requests whose bodies cannot be cloned.
//~ `Replay` cannot replay requests of the type `http::Request<Body>`
//~ in the standard stack: `client(name, config)?.map_request_body(wrap)`, and so with `grpc`

use axum::body::Body;
use buttress::ConfigError;
use buttress::http::{ClientConfig, client};
use tower::Layer;

pub fn stack(router: axum::Router) -> Result<(), ConfigError> {
    let stack = client("in-house", ClientConfig::default())?;
    #[cfg(not(mistake))]
    let stack = stack.map_request_body(Body::new);
    buttress::verify::<http::Request<Body>, _>(stack.layer(router));
    Ok(())
}

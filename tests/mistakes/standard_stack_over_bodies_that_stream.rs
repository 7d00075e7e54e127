//! The standard stack for requests whose bodies cannot be cloned.
//~ `Replay` cannot repeat requests of the type `http::Request<Body>`
//~ in the standard stack: `client(name, config)?.repeat(|replay| replay.wrapping(wrap))`, or `grpc(name, config)?.wrapping(wrap)`

use axum::body::Body;
use buttress::ConfigError;
use buttress::http::{ClientConfig, client};
use tower::Layer;

pub fn stack(router: axum::Router) -> Result<(), ConfigError> {
    let stack = client("in-house", ClientConfig::default())?;
    #[cfg(not(mistake))]
    let stack = stack.repeat(|replay| replay.wrapping(Body::new));
    buttress::verify::<http::Request<Body>, _>(stack.layer(router));
    Ok(())
}

//! The standard stack over a tonic channel, whose bodies cannot be cloned.
//~ `Replay` cannot replay requests of the type `http::Request<tonic::body::Body>`
//~ not a replay policy for these requests
//~ `tonic::body::Body::new`

use buttress::ConfigError;
use buttress::http::{ClientConfig, grpc};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Layer;

pub fn stack(channel: Channel) -> Result<(), ConfigError> {
    let stack = grpc("shop", ClientConfig::default())?;
    #[cfg(not(mistake))]
    let stack = stack.map_request_body(Body::new);
    buttress::verify::<http::Request<Body>, _>(stack.layer(channel));
    Ok(())
}

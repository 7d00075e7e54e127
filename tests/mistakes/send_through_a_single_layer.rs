//! A reqwest request sent through one layer without a client.
//~ is a layer, not a stack that requests can be sent through
//~ write `let stack = layer.layer(reqwest_client);` with `tower::Layer` in scope, then `send_through(&stack)`

use std::time::Duration;

use buttress::timeout::TimeoutLayer;
use buttress::reqwest::SendThrough;
use tower::{Layer, ServiceExt};

pub async fn fetch(reqwest: reqwest::Client) -> Result<(), buttress::BoxError> {
    let stack = TimeoutLayer::new("shop", Duration::from_secs(2));
    #[cfg(not(mistake))]
    let stack = stack.layer(reqwest.clone().map_err(buttress::Error::Inner));
    let request = reqwest.get("https://example.com");
    request.send_through(&stack).await?;
    Ok(())
}

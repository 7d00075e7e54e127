//! A reqwest request sent through a stack of layers without a client.
//~ is a layer, not a stack that requests can be sent through
//~ write `let stack = layer.layer(reqwest_client);` with `tower::Layer` in scope, then `send_through(&stack)`

use buttress::http::{ClientConfig, client};
use buttress::reqwest::SendThrough;
use tower::Layer;

pub async fn fetch(reqwest: reqwest::Client) -> Result<(), buttress::BoxError> {
    let stack = client("shop", ClientConfig::default())?;
    #[cfg(not(mistake))]
    let stack = stack.layer(reqwest.clone());
    let request = reqwest.get("https://example.com");
    request.send_through(&stack).await?;
    Ok(())
}

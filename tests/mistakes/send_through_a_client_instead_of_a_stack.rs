//! A reqwest request sent through reqwest's client, which protects nothing.
//~ the error `reqwest::Error` cannot hold a rejection of this crate
//~ `client("name", ClientConfig::default())?.layer(reqwest_client)`

use buttress::http::{ClientConfig, client};
use buttress::reqwest::SendThrough;
use tower::Layer;

pub async fn fetch(reqwest: reqwest::Client) -> Result<(), buttress::BoxError> {
    let stack = reqwest.clone();
    #[cfg(not(mistake))]
    let stack = client("shop", ClientConfig::default())?.layer(stack);
    let request = reqwest.get("https://example.com");
    request.send_through(&stack).await?;
    Ok(())
}

//! A reqwest request sent through a stack whose innermost error cannot hold a rejection.
//~ the error `reqwest::Error` cannot hold a rejection of this crate
//~ wrap a foreign error innermost in the stack: `.map_err(buttress::Error::Inner)`

use std::time::Duration;

use buttress::timeout::TimeoutLayer;
use buttress::reqwest::SendThrough;

pub async fn fetch(client: reqwest::Client) {
    let stack =
        tower::ServiceBuilder::new().layer(TimeoutLayer::new("shop", Duration::from_secs(2)));
    #[cfg(not(mistake))]
    let stack = stack.map_err(buttress::Error::Inner);
    let stack = stack.service(client.clone());
    let response = client.get("https://example.com").send_through(&stack).await;
    let _ = response;
}

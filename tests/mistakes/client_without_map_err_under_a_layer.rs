//! A breaker directly over reqwest's client, whose error cannot hold a rejection.
//~ the error `reqwest::Error` cannot hold a rejection of this crate
//~ this service's error must implement `buttress::CallError`
//~ wrap a foreign error innermost in the stack: `.map_err(buttress::Error::Inner)`

use buttress::breaker::{Breaker, BreakerLayer};
use buttress::http::ByStatus;

pub fn stack(client: reqwest::Client, breaker: Breaker) {
    let stack = tower::ServiceBuilder::new().layer(BreakerLayer::new(breaker, ByStatus::new()));
    #[cfg(not(mistake))]
    let stack = stack.map_err(buttress::Error::Inner);
    buttress::verify::<reqwest::Request, _>(stack.service(client));
}

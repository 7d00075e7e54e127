//! `by_clone()` for requests that cannot be cloned.
//~ cannot replay requests of the type `Order`
//~ not a replay policy for these requests
//~ requests that are `Clone`, each of which may safely run twice: `buttress::retry::by_clone()`
//~ only some of them: `buttress::retry::by_clone_if(|request: &Req| …)`

use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::ConfigError;
use tower::{ServiceBuilder, service_fn};

#[cfg_attr(not(mistake), derive(Clone))]
pub struct Order;

pub fn stack() -> Result<(), ConfigError> {
    let shop = service_fn(async |_: Order| Ok::<_, std::io::Error>(()));
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(
            "shop",
            RetryConfig::new(),
            by_clone(),
        )?)
        .map_err(buttress::Error::Inner)
        .service(shop);
    buttress::verify::<Order, _>(stack);
    Ok(())
}

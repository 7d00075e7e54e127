//! `repeat::cloned()` for requests that cannot be cloned.
//~ `buttress::repeat::Cloned` cannot repeat requests of the type `Order`
//~ not a way to repeat these requests
//~ requests that are `Clone`, each of which may safely run twice: `buttress::repeat::cloned()`
//~ only some of them: `buttress::repeat::cloned_if(|request: &Req| …)`

use buttress::retry::{RetryConfig, RetryLayer};
use buttress::{ConfigError, repeat};
use tower::{ServiceBuilder, service_fn};

#[cfg_attr(not(mistake), derive(Clone))]
pub struct Order;

pub fn stack() -> Result<(), ConfigError> {
    let shop = service_fn(async |_: Order| Ok::<_, std::io::Error>(()));
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(
            "shop",
            RetryConfig::new(),
            repeat::cloned(),
        )?)
        .map_err(buttress::Error::Inner)
        .service(shop);
    buttress::verify::<Order, _>(stack);
    Ok(())
}

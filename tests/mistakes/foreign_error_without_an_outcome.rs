//! The standard stack around a client with a foreign error.
//~ `ByStatus` cannot classify a `Result<
//~ a foreign one: `.map_err(buttress::BoxError::from)` next to the service

use std::num::ParseIntError;

use buttress::ConfigError;
use buttress::http::{ClientConfig, client};
use tower::{ServiceBuilder, service_fn};

pub fn stack() -> Result<(), ConfigError> {
    let shop = service_fn(async |_: http::Request<String>| {
        Ok::<_, ParseIntError>(http::Response::new(String::new()))
    });
    let stack = ServiceBuilder::new().layer(client("shop", ClientConfig::default())?);
    #[cfg(not(mistake))]
    let stack = stack.map_err(buttress::BoxError::from);
    buttress::verify::<http::Request<String>, _>(stack.service(shop));
    Ok(())
}

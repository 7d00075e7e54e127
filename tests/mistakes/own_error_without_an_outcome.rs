//! The standard stack around a client with its own error.
//~ `ByStatus` cannot classify a `Result<
//~ HTTP: `buttress::http::ByStatus`, for responses of `http` or reqwest and errors that implement `buttress::http::ErrorOutcome`; your own error: `impl buttress::http::ErrorOutcome for YourError { fn outcome(&self) -> buttress::Outcome { buttress::http::error_outcome(self) } }`

use buttress::ConfigError;
use buttress::http::{ClientConfig, client};
use tower::{Layer, service_fn};

#[derive(Debug)]
pub struct ShopError;

impl std::fmt::Display for ShopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed")
    }
}

impl std::error::Error for ShopError {}

#[cfg(not(mistake))]
impl buttress::http::ErrorOutcome for ShopError {
    fn outcome(&self) -> buttress::Outcome {
        buttress::http::error_outcome(self)
    }
}

pub fn stack() -> Result<(), ConfigError> {
    let shop = service_fn(async |_: http::Request<String>| {
        Ok::<_, ShopError>(http::Response::new(String::new()))
    });
    let stack = client("shop", ClientConfig::default())?.layer(shop);
    buttress::verify::<http::Request<String>, _>(stack);
    Ok(())
}

//! The standard HTTP client stack around a service for other requests.
//~ `String` is not an HTTP request that this crate knows
//~ known are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`

use buttress::ConfigError;
use buttress::http::{ClientConfig, client};
use tower::{Layer, service_fn};

#[cfg(mistake)]
type Request = String;
#[cfg(not(mistake))]
type Request = http::Request<String>;

pub fn stack() -> Result<(), ConfigError> {
    let search =
        service_fn(async |_: Request| Ok::<_, std::io::Error>(http::Response::new(String::new())));
    let stack = client("search", ClientConfig::default())?.layer(search);
    buttress::verify::<Request, _>(stack);
    Ok(())
}

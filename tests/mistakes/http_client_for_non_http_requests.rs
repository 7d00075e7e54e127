//! The standard stack of HTTP clients around a service whose requests are not HTTP.
//~ `String` is not a supported HTTP request
//~ supported are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`

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

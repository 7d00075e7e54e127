//! `http::Replay` for requests whose bodies are streams.
//~ `Replay` cannot repeat requests of the type `http::Request<hyper::body::Incoming>`
//~ `http::Request` whose body is `Clone`: `buttress::http::Replay`; `reqwest::Request`: `buttress::reqwest::Replay`

use buttress::http::{ByStatus, Replay};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::{ConfigError, Error};
use hyper::body::Incoming;
use tower::{ServiceBuilder, service_fn};

#[cfg(mistake)]
type Body = Incoming;
#[cfg(not(mistake))]
type Body = http_body_util::Full<bytes::Bytes>;

pub fn stack() -> Result<(), ConfigError> {
    let server =
        service_fn(async |_: http::Request<Body>| Ok::<_, std::io::Error>(http::Response::new(())));
    let retry = RetryLayer::new("proxy", RetryConfig::new(), Replay::new())?;
    let stack = ServiceBuilder::new()
        .layer(retry.classify(ByStatus::new()))
        .map_err(Error::Inner)
        .service(server);
    buttress::verify::<http::Request<Body>, _>(stack);
    Ok(())
}

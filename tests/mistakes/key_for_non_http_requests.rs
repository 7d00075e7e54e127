//! An idempotency key for requests that have no headers.
//~ `String` is not a supported HTTP request
//~ supported are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`

use buttress::Error;
use buttress::idempotency::IdempotencyKeyLayer;
use tower::{ServiceBuilder, service_fn};

#[cfg(mistake)]
type Request = String;
#[cfg(not(mistake))]
type Request = http::Request<String>;

pub fn stack() {
    let lookup = service_fn(async |_: Request| Ok::<_, std::io::Error>(()));
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .map_err(Error::Inner)
        .service(lookup);
    buttress::verify::<Request, _>(stack);
}

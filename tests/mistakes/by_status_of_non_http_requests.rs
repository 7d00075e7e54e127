//! HTTP's classifier for responses without a status.
//~ `ByStatus` cannot classify a `Result<String, buttress::Error<std::io::Error>>`
//~ not a classifier for these results
//~ to treat every error as transient: `buttress::ErrorIsTransient`
//~ anything else: `buttress::classify_fn(|result: Result<&Res, &E>| …)`, with the types of your service's results

use buttress::breaker::{Breaker, BreakerLayer};
use buttress::{Error, Outcome};
use tower::{ServiceBuilder, service_fn};

pub fn stack(breaker: Breaker) {
    let lookup = service_fn(async |_: u64| Ok::<_, std::io::Error>(String::new()));
    #[cfg(mistake)]
    let classify = buttress::http::ByStatus::new();
    #[cfg(not(mistake))]
    let classify = buttress::classify_fn(|result: Result<&String, &Error<std::io::Error>>| {
        if result.is_ok() {
            Outcome::SUCCESS
        } else {
            Outcome::TRANSIENT
        }
    });
    let stack = ServiceBuilder::new()
        .layer(BreakerLayer::new(breaker, classify))
        .map_err(Error::Inner)
        .service(lookup);
    buttress::verify::<u64, _>(stack);
}

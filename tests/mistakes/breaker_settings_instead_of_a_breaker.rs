//! A layer made from the settings in place of the handle.
//~ `BreakerConfig` is not a policy for requests of the type `u64`
//~ settings become a handle first: `buttress::breaker::Breaker::new(name, config)?`

use buttress::breaker::{BreakerConfig, BreakerLayer};
use buttress::{ConfigError, Error, ErrorIsTransient};
use tower::{ServiceBuilder, service_fn};

pub fn stack() -> Result<(), ConfigError> {
    let lookup = service_fn(async |_: u64| Ok::<_, std::io::Error>(()));
    let breaker = BreakerConfig::default();
    #[cfg(not(mistake))]
    let breaker = buttress::breaker::Breaker::new("shop", breaker)?;
    let stack = ServiceBuilder::new()
        .layer(BreakerLayer::new(breaker, ErrorIsTransient))
        .map_err(Error::Inner)
        .service(lookup);
    buttress::verify::<u64, _>(stack);
    Ok(())
}

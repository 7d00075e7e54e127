//! A breaker per server for requests without an authority.
//~ `ByAuthority` finds no key in requests of the type `u64`
//~ a key that is cheap to make: `buttress::gate::by(|request: &Req| …)`; text of the request: `buttress::gate::by_str(|request: &Req| …)`

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::KeyedConfig;
use buttress::http::ByAuthority;
use buttress::{ConfigError, Error, ErrorIsTransient};
use tower::{ServiceBuilder, service_fn};

pub fn stack() -> Result<(), ConfigError> {
    let lookup = service_fn(async |_: u64| Ok::<_, std::io::Error>(String::new()));
    #[cfg(mistake)]
    let key = ByAuthority;
    #[cfg(not(mistake))]
    let key = buttress::gate::by(|shard: &u64| *shard);
    let breakers = Breaker::keyed(
        "shards",
        BreakerConfig::default(),
        KeyedConfig::default(),
        key,
    )?;
    let stack = ServiceBuilder::new()
        .layer(BreakerLayer::new(breakers, ErrorIsTransient))
        .map_err(Error::Inner)
        .service(lookup);
    buttress::verify::<u64, _>(stack);
    Ok(())
}

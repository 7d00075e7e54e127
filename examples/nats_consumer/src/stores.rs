//! The store of the layer.

use std::sync::Arc;

use buttress::idempotency::store::{FileStore, Store};
use buttress_postgres::PostgresStore;
use buttress_redis::RedisStore;

use crate::Error;
use crate::args::{Args, Kind};

pub(crate) async fn open(args: &Args) -> Result<Arc<dyn Store>, Error> {
    Ok(match args.store {
        Kind::File => Arc::new(FileStore::open(args.folder.join("records.redb"))?),
        Kind::Redis => Arc::new(RedisStore::connect(&url(args.store)?).await?),
        Kind::Postgres => Arc::new(PostgresStore::connect(&url(args.store)?)?),
    })
}

/// Creates the table of `PostgreSQL`, before the first consumer starts.
pub(crate) async fn prepare(kind: Kind) -> Result<(), Error> {
    if kind == Kind::Postgres {
        PostgresStore::connect(&url(kind)?)?.migrate().await?;
    }
    Ok(())
}

fn url(kind: Kind) -> Result<String, Error> {
    let variable = kind.variable().ok_or("this store has no server")?;
    std::env::var(variable).map_err(|error| format!("{variable}: {error}").into())
}

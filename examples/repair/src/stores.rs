//! The store of the service, and a layer on it.

use std::sync::Arc;

use buttress::idempotency::store::Store;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};

use crate::Error;
use crate::args::{Kind, Layer};

pub(crate) async fn open(args: &Layer) -> Result<IdempotencyLayer, Error> {
    layer(store(args).await?, args)
}

/// The layer of a tool: its scope and routes are never used, because a record is named by its parts.
pub(crate) fn layer(store: impl Store, args: &Layer) -> Result<IdempotencyLayer, Error> {
    let config = IdempotencyConfig::default()
        .max_run(args.max_run)
        .ttl(args.ttl);
    let layer = IdempotencyLayer::new(&args.name, store, Scope::Global, config)?;
    Ok(layer)
}

async fn store(args: &Layer) -> Result<Arc<dyn Store>, Error> {
    match args.store {
        Kind::File => {
            let path = args.path.as_ref();
            let path = path.ok_or("name the file of the service by --path")?;
            // Opening makes a file where there is none.
            if !path.exists() {
                return Err(format!("there is no file `{}`", path.display()).into());
            }
            Ok(Arc::new(buttress::idempotency::store::FileStore::open(
                path,
            )?))
        }
        Kind::Redis => {
            let url = url(args, "REDIS_URL")?;
            let store = buttress_redis::RedisStore::connect(&url).await?;
            Ok(match &args.prefix {
                Some(prefix) => Arc::new(store.prefix(prefix)?),
                None => Arc::new(store),
            })
        }
        Kind::Postgres => {
            let url = url(args, "DATABASE_URL")?;
            let store = buttress_postgres::PostgresStore::connect(&url)?;
            Ok(match &args.table {
                Some(table) => Arc::new(store.table(table)?),
                None => Arc::new(store),
            })
        }
    }
}

fn url(args: &Layer, variable: &str) -> Result<String, Error> {
    let given = args.url.clone().or_else(|| std::env::var(variable).ok());
    given.ok_or_else(|| format!("name the server by --url or {variable}").into())
}

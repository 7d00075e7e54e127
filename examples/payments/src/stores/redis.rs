//! Records in Redis.

use ::redis::{Client, cmd};
use buttress_redis::RedisStore;

use super::{Opened, unreachable, url};
use crate::Error;
use crate::args::Args;

pub(super) async fn open(args: &Args, run: &str) -> Result<Opened, Error> {
    let url = url(args, "REDIS_URL", "redis://127.0.0.1:6379");
    let prefix = format!("buttress-payments-{run}:");
    let store = RedisStore::connect(&url).await;
    let store = store.map_err(|error| unreachable("Redis", "REDIS_URL", &error))?;
    let store = store.prefix(&prefix)?;
    Ok(Opened::beside_a_bank(store, async move {
        clear(&url, &prefix).await
    }))
}

async fn clear(url: &str, prefix: &str) -> Result<(), Error> {
    let mut connection = Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*"));
        scan.arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
        if !keys.is_empty() {
            let mut unlink = cmd("UNLINK");
            unlink.arg(keys);
            unlink.exec_async(&mut connection).await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

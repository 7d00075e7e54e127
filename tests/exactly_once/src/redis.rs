//! Records in Redis: under a prefix of a trial's own, or in a cluster of its own.

#[allow(dead_code, reason = "the other tests of this store need more of it")]
#[path = "../../../crates/buttress-redis/tests/suite/nodes.rs"]
pub(crate) mod nodes;
#[allow(dead_code, reason = "the other tests of this store need more of it")]
#[path = "../../../crates/buttress-redis/tests/suite/private.rs"]
mod private;
#[path = "../../../crates/buttress-redis/tests/suite/server.rs"]
mod server;

use std::error::Error;

use redis::AsyncCommands;

/// The address of a running server.
pub(crate) fn reached() -> (String, redis::Client) {
    let url = server::url();
    let client = redis::Client::open(&*url);
    let connected = client.and_then(|client| client.get_connection().map(|_| client));
    (url, server::reached(connected))
}

/// Deletes all keys with this prefix.
pub(crate) async fn clear(
    client: &redis::Client,
    prefix: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut scanning = client.get_multiplexed_async_connection().await?;
    let options = redis::ScanOptions::default()
        .with_pattern(format!("{prefix}*"))
        .with_count(1000);
    let mut names = scanning.scan_options::<String>(options).await?;
    while let Some(name) = names.next_item().await {
        let () = connection.unlink(name?).await?;
    }
    Ok(())
}

//! Records whose time is over are deleted.

use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::oneshot::{Sender, channel};

use super::{PostgresStore, session};
use crate::chance::draw;
use crate::clock::{Now, sleep_until};
use crate::detach::attend;
use crate::idempotency::store::StoreError;

/// How many rows one statement deletes: it holds their locks for some milliseconds.
const BATCH: i64 = 1000;
const SHORTEST: Duration = Duration::from_secs(1);

/// The task of all clones of a store; it ends with the last of them, when this sender is dropped.
#[derive(Debug, Default)]
pub(super) struct Reaper(OnceLock<Sender<Infallible>>);

impl PostgresStore {
    /// Deletes all records whose time is over, a thousand at a time, and says how many. Rows that are locked are left for
    /// the next time. Several may reap at once.
    ///
    /// # Errors
    ///
    /// As for any call. What was deleted before stays deleted.
    ///
    /// # Cancel safety
    ///
    /// What was deleted before stays deleted.
    pub async fn reap(&self) -> Result<u64, StoreError> {
        reap(&self.pool, self.timeout, &self.statements.reap).await
    }

    pub(super) fn start_reaper(&self) {
        let Some(interval) = self.reap_every else {
            return;
        };
        self.reaper.0.get_or_init(|| {
            let (store, over) = channel();
            let (pool, timeout) = (self.pool.clone(), self.timeout);
            let sql = self.statements.reap.clone();
            attend(async move {
                tokio::select! {
                    _ = over => {}
                    never = reap_for_ever(&pool, timeout, &sql, interval) => match never {},
                }
            });
            store
        });
    }
}

async fn reap_for_ever(
    pool: &Pool,
    timeout: Duration,
    sql: &str,
    interval: Duration,
) -> Infallible {
    loop {
        let pause = draw().spread(interval.max(SHORTEST), 0.5);
        sleep_until(Now::unread().moment().after(pause)).await;
        // Whoever calls the store is told of a database that is down; the next round finds all that is left.
        let _ = reap(pool, timeout, sql).await;
    }
}

async fn reap(pool: &Pool, timeout: Duration, sql: &str) -> Result<u64, StoreError> {
    let mut all = 0_u64;
    loop {
        let deleted = session::execute(pool, timeout, sql, &[&BATCH], |row| {
            row.map(|row| row.try_get::<_, i64>(0))
                .transpose()
                .map_err(StoreError::unavailable)
        })
        .await?;
        all = all.saturating_add(deleted.unsigned_abs());
        if deleted < BATCH {
            return Ok(all);
        }
    }
}

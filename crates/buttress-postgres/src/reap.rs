//! Deletes expired records.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::oneshot::{Sender, channel};
use tokio::time::sleep;

use super::session::Statement;
use super::statements::Statements;
use super::table::TableName;
use super::{PostgresStore, rows, session, spread};
use buttress::idempotency::store::StoreError;

/// How many rows one statement deletes. It locks them for some milliseconds.
const BATCH: i64 = 1000;
const SHORTEST: Duration = Duration::from_secs(1);

/// The task that all clones of a store share. Dropping this sender with the last clone ends it.
#[derive(Debug, Default)]
pub(super) struct Reaper(OnceLock<Sender<Infallible>>);

impl PostgresStore {
    /// Deletes all expired records, a thousand at a time, and returns how many. Locked rows are left for the next time. Several
    /// processes may reap at the same time.
    ///
    /// A record is checked when the time to live of its first claim ends. If it was completed with a much shorter one, it takes
    /// room until then.
    ///
    /// # Errors
    ///
    /// As for any call. Records deleted before the error stay deleted.
    ///
    /// # Cancel safety
    ///
    /// Records deleted before stay deleted.
    pub async fn reap(&self) -> Result<u64, StoreError> {
        reap(&self.pool, self.timeout, &self.statements).await
    }

    pub(super) fn start_reaper(&self) {
        let Some(interval) = self.reap_every else {
            return;
        };
        self.reaper.0.get_or_init(|| {
            let (store, over) = channel();
            let (pool, timeout) = (self.pool.clone(), self.timeout);
            let statements = Arc::clone(&self.statements);
            tokio::spawn(async move {
                tokio::select! {
                    _ = over => {}
                    never = reap_periodically(&pool, timeout, &statements, interval) => match never {},
                }
            });
            store
        });
    }
}

async fn reap_periodically(
    pool: &Pool,
    timeout: Duration,
    statements: &Statements,
    interval: Duration,
) -> Infallible {
    loop {
        sleep(spread(interval.max(SHORTEST))).await;
        // Callers of the store see an error of the database themselves, and the next round deletes what is left.
        let _ = reap(pool, timeout, statements).await;
    }
}

/// How many records were deleted.
async fn reap(pool: &Pool, timeout: Duration, statements: &Statements) -> Result<u64, StoreError> {
    let deleted = reap_table(pool, timeout, &statements.reap).await?;
    reap_table(pool, timeout, &statements.reap_leases).await?;
    Ok(deleted)
}

async fn reap_table(pool: &Pool, timeout: Duration, sql: &str) -> Result<u64, StoreError> {
    let mut all = 0_u64;
    loop {
        let batch = Statement::Prepared(sql, &[&BATCH]);
        let (due, deleted) = session::execute(pool, timeout, batch, rows::reaped).await?;
        all = all.saturating_add(deleted.unsigned_abs());
        if due < BATCH {
            return Ok(all);
        }
    }
}

/// `$1` how many at most. This uses the start time of the statement, because an index cannot be searched for
/// `clock_timestamp()`. Locked rows are left for the next time.
pub(super) fn records(table: &TableName, leases: &TableName) -> String {
    let gone_at = format!(
        "greatest(held.gone_at, (
             SELECT renewed.gone_at FROM {leases} AS renewed
             WHERE renewed.key = held.key AND renewed.token = held.token AND held.answer IS NULL))"
    );
    over(table, &gone_at)
}

pub(super) fn leases(leases: &TableName) -> String {
    over(leases, "held.gone_at")
}

/// Deletes the expired rows, and updates `reap_at` of the other rows that were due.
fn over(table: &TableName, gone_at: &str) -> String {
    format!(
        "WITH due AS MATERIALIZED (
             SELECT held.key, {gone_at} AS gone_at
             FROM {table} AS held WHERE held.reap_at <= now()
             ORDER BY held.reap_at LIMIT $1::bigint FOR UPDATE SKIP LOCKED
         ), deleted AS (
             DELETE FROM {table} AS held USING due
             WHERE held.key = due.key AND due.gone_at <= now() RETURNING held.key
         ), moved AS (
             UPDATE {table} AS held SET reap_at = due.gone_at FROM due
             WHERE held.key = due.key AND due.gone_at > now()
         )
         SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM deleted)"
    )
}

//! Records in a table of PostgreSQL, beside the data they are about.

mod commit;
mod completion;
mod connect;
mod migrate;
mod reap;
mod rows;
mod session;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::Pool;
use tokio_postgres::types::ToSql;

pub use self::commit::{CommitError, JoinedTransaction};
pub use self::completion::{Completion, Written};
use self::reap::Reaper;
use self::rows::micros;
use self::table::{Statements, TableName};
use super::{Store, StoreError, StoreFuture};
use crate::error::ConfigError;
use crate::idempotency::record::{Begun, Claim, Ended, RecordKey, Token};

const TABLE: &str = "buttress_idempotency";
const TIMEOUT: Duration = Duration::from_secs(5);
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Records in a table of PostgreSQL: they survive restarts, are shared by all processes, and can be committed together
/// with what the handler did.
///
/// Use it where the effects are in PostgreSQL too: the [joined transaction](Self::commit) makes each happen exactly
/// once. It serves as well where they are elsewhere, for those who have a PostgreSQL and no Redis. Not for one
/// process with a disk and nothing else: `FileStore` needs no server.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use buttress::idempotency::store::PostgresStore;
///
/// let store = PostgresStore::connect("postgres://app@db.internal/payments")?.table("billing.idempotency")?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// Clones share connections and reaper. Nothing is connected before the first call.
///
/// # Speed
///
/// Each method is one statement and one round trip, once the connection has prepared it. A duplicate only reads: it takes
/// no lock and leaves no dead row.
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | [`table`](Self::table) | `buttress_idempotency` | in the first schema of the search path |
/// | [`timeout`](Self::timeout) | 5 s | a store that is down is answered with 503, and soon |
/// | [`reap_every`](Self::reap_every) | 60 s, ±50 % | what is over takes room, and nothing else; processes do not reap in step |
///
/// # Errors
///
/// | | when |
/// |---|---|
/// | [`StoreError::Unavailable`] | no connection, no answer in time, a server that is read-only or shuts down, no table: [`migrate`](Self::migrate) makes it |
/// | [`StoreError::Full`] | the disk is full (53100), an answer is larger than a row may be (54000) |
/// | [`StoreError::Unreadable`] | a row was written by a newer version, or by something else |
///
/// A connection that is found closed, and a conflict of serialization where the database's default isolation is above
/// `READ COMMITTED`, are not errors: the statement is executed again, up to 8 times within the time limit. The same holder
/// doing the same twice has done it once.
///
/// # Durability
///
/// As the server's: where `synchronous_commit` is off, the last moments before a crash of the server may be lost, and an
/// operation of that time may happen again. Where reads go to a standby, point the store to the primary.
///
/// At its level *debug*, the crate `tokio-postgres` logs the parameters of each statement, so answers too.
///
/// # Cancel safety
///
/// What is dropped before its end may have had its effect. Its connection is closed, not given back.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool,
    statements: Arc<Statements>,
    timeout: Duration,
    reap_every: Option<Duration>,
    reaper: Arc<Reaper>,
}

impl PostgresStore {
    /// A store that uses the connections of this pool, in its default table, with whatever TLS the pool has.
    ///
    /// Handlers that take their connections from the same pool keep claims and renewals waiting once they hold all of them: give
    /// the store a pool of its own, or bound how many handlers run.
    ///
    /// A pool that checks connections before it hands them out adds a round trip to each call: the default of
    /// `deadpool-postgres`, `RecyclingMethod::Fast`, does not.
    pub fn with(pool: Pool) -> Self {
        // The default name is valid: its test says so.
        let table = TableName {
            quoted: format!("\"{TABLE}\""),
            bare: TABLE.to_owned(),
        };
        Self {
            pool,
            statements: Arc::new(Statements::of(table)),
            timeout: TIMEOUT,
            reap_every: Some(REAP_EVERY),
            reaper: Arc::default(),
        }
    }

    /// The same store in another table: `name`, or `schema.name`. Each of the two is of 1 to 55 lower-case letters, digits and
    /// `_`, and does not begin with a digit.
    ///
    /// # Errors
    ///
    /// Any other name.
    pub fn table(self, name: &str) -> Result<Self, ConfigError> {
        let table = TableName::new(name).map_err(|error| error.of("store", "postgres"))?;
        Ok(Self {
            statements: Arc::new(Statements::of(table)),
            reaper: Arc::default(),
            ..self
        })
    }

    /// How long a call may take, with waiting for a connection and making one.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout,
            reaper: Arc::default(),
            ..self
        }
    }

    /// How often a task deletes the records whose time is over, give or take half of it; at least every second. `None`: never,
    /// and [`reap`](Self::reap) has to be called by something else.
    ///
    /// The task starts with the first claim, and ends with the last clone of the store.
    #[must_use]
    pub fn reap_every(self, interval: Option<Duration>) -> Self {
        Self {
            reap_every: interval,
            reaper: Arc::default(),
            ..self
        }
    }

    async fn execute<T>(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        read: impl Fn(Option<&tokio_postgres::Row>) -> Result<Option<T>, StoreError>,
    ) -> Result<T, StoreError> {
        session::execute(&self.pool, self.timeout, sql, parameters, read).await
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("table", &self.statements.table.quoted)
            .field("timeout", &self.timeout)
            .field("reap_every", &self.reap_every)
            .field("connections", &self.pool.status())
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        self.start_reaper();
        Box::pin(async move {
            let (lease, ttl) = (micros(claim.lease), micros(claim.ttl));
            let fingerprint = claim.fingerprint;
            self.execute(
                &self.statements.begin,
                &[
                    &key.0.as_slice(),
                    &fingerprint.0.as_slice(),
                    &claim.token.0.as_slice(),
                    &lease,
                    &ttl,
                ],
                |row| rows::begun(row, fingerprint),
            )
            .await
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            self.execute(
                &self.statements.renew,
                &[
                    &key.0.as_slice(),
                    &token.0.as_slice(),
                    &micros(lease),
                    &micros(ttl),
                ],
                |row| Ok(Some(row.is_some())),
            )
            .await
        })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            self.execute(
                &self.statements.complete,
                &[
                    &key.0.as_slice(),
                    &token.0.as_slice(),
                    &answer.as_ref(),
                    &micros(ttl),
                ],
                rows::ended,
            )
            .await
        })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            self.execute(
                &self.statements.abandon,
                &[&key.0.as_slice(), &token.0.as_slice()],
                rows::ended,
            )
            .await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table_has_a_valid_name() {
        let store = PostgresStore::connect("postgres://localhost").expect("a valid address");
        assert_eq!(
            store.statements.table,
            TableName::new(TABLE).expect("a valid name")
        );
    }
}

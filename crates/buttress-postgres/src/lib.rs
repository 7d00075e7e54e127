// The first of two definitions of a link applies: these point the README's links to the items.
#![doc = "[`PostgresStore`]: crate::PostgresStore"]
#![doc = "[`PostgresStore::joined`]: crate::PostgresStore::joined"]
#![doc = "[`PostgresStore::completion`]: crate::PostgresStore::completion"]
#![doc = "[`CommitError`]: crate::CommitError"]
#![doc = include_str!("../README.md")]

mod commit_error;
mod completion;
mod connect;
mod joined;
mod lookup;
mod migrate;
mod reap;
mod rows;
mod session;
mod statements;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::Pool;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

pub use self::commit_error::CommitError;
pub use self::completion::{Completion, Written};
pub use self::joined::JoinedTransaction;
use self::reap::Reaper;
use self::rows::{Current, micros};
use self::session::{ATTEMPTS, Statement};
use self::statements::Statements;
use self::table::TableName;
use buttress::ConfigError;
use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Begun, Claim, Ended, Entry, Listed, RecordKey, Resolve, Resolved, Store, StoreError, Token,
};

const TABLE: &str = "buttress_idempotency";
const TIMEOUT: Duration = Duration::from_secs(5);
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Stores records in a table of PostgreSQL. They survive restarts, are shared by all processes, and can be committed together
/// with the changes of the handler.
///
/// Use it if your handlers write to the same database: a [joined transaction](Self::joined) gives exactly-once execution. It also
/// works for other effects if you have PostgreSQL and no Redis. For one process with a disk, `FileStore` needs no server.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use buttress_postgres::PostgresStore;
///
/// let store = PostgresStore::connect("postgres://app@db.internal/payments")?.table("billing.idempotency")?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// Clones share their connections and the reaper. The store connects with the first call.
///
/// # Speed
///
/// Each method is one round trip, once the connection has prepared its statement; a duplicate is two, and a takeover three. A
/// duplicate only reads: it takes no lock and leaves no dead row. No change of a record touches an index as long as its page has room.
///
/// A claim is a separate commit, for which the server waits for its disk.
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | [`table`](Self::table) | `buttress_idempotency` | in the first schema of the search path |
/// | [`timeout`](Self::timeout) | 5 s | a store that is down becomes a 503 soon |
/// | [`reap_every`](Self::reap_every) | 60 s, ±50 % | expired records only take room; processes do not reap at the same time |
///
/// # Errors
///
/// | | when |
/// |---|---|
/// | [`StoreError::Unavailable`] | no connection, no response in time, a server that is read-only or shuts down, no table: [`migrate`](Self::migrate) creates it |
/// | [`StoreError::Full`] | the disk is full (53100), a response is larger than a row may be (54000) |
/// | [`StoreError::Unreadable`] | a row was written by a newer version, or by something else |
///
/// A closed connection, and a serialization failure if the default isolation of the database is above `READ COMMITTED`, are not
/// errors: the statement is executed again, up to 8 times within the time limit. Every statement is idempotent for the same
/// holder.
///
/// # Durability
///
/// Records are as durable as the server. The crate page lists the [settings of PostgreSQL](crate#configuring-postgresql).
///
/// # Cancel safety
///
/// A call whose future is dropped may have taken effect. Its connection is closed, not returned to the pool.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool,
    transactions: Pool,
    statements: Arc<Statements>,
    timeout: Duration,
    reap_every: Option<Duration>,
    reaper: Arc<Reaper>,
}

fn invalid(field: &'static str, value: &str, allowed: &'static str) -> ConfigError {
    let mut error = ConfigError::new(field, value, allowed);
    error.owner = Some("store `postgres`".into());
    error
}

/// `duration`, changed at random by up to half of itself in either direction.
fn spread(duration: Duration) -> Duration {
    let seconds = duration.as_secs_f64() * rand::random_range(0.5..=1.5);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl PostgresStore {
    /// A store that uses the connections of this pool, in its default table, with whatever TLS the pool has.
    ///
    /// If handlers take all connections of the same pool, claims and renewals wait for them. That includes the transactions of [`joined`](Self::joined), unless [`transaction_pool`](Self::transaction_pool) names another
    /// pool.
    ///
    /// A pool that checks connections before it hands them out adds a round trip to each call: the default of
    /// `deadpool-postgres`, `RecyclingMethod::Fast`, does not.
    pub fn with(pool: Pool) -> Self {
        Self {
            transactions: pool.clone(),
            pool,
            statements: Arc::new(Statements::of(TableName::valid(TABLE))),
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
        let table = TableName::new(name)?;
        Ok(Self {
            statements: Arc::new(Statements::of(table)),
            reaper: Arc::default(),
            ..self
        })
    }

    /// The pool that [`joined`](Self::joined) takes its connections from. Its database has to be the store's.
    #[must_use]
    pub fn transaction_pool(self, pool: Pool) -> Self {
        Self {
            transactions: pool,
            ..self
        }
    }

    /// Time limit of a call, including waiting for a connection and opening one.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout,
            reaper: Arc::default(),
            ..self
        }
    }

    /// How often a task deletes expired records: at this interval, at least one second, ±50 %. With `None` there is no task, and you
    /// call [`reap`](Self::reap) yourself.
    ///
    /// The task starts with the first claim and ends with the last clone of the store.
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
        read: impl Fn(Option<&Row>) -> Result<Option<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let statement = Statement::Prepared(sql, parameters);
        let read = |rows: &session::Rows| read(rows.typed());
        session::execute(&self.pool, self.timeout, statement, read).await
    }

    /// Creates the record in run 1. Returns `false` if there is one already.
    async fn insert(&self, key: &RecordKey, claim: &Claim) -> Result<bool, StoreError> {
        let (lease, ttl) = (micros(claim.lease), micros(claim.ttl));
        let (key, token) = (key.0.as_slice(), claim.token.0.as_slice());
        let fingerprint = claim.fingerprint.0.as_slice();
        let parameters: session::Parameters<'_> = &[&key, &fingerprint, &token, &lease, &ttl];
        let is_new = |row: Option<&Row>| Ok(Some(row.is_some()));
        self.execute(&self.statements.begin, parameters, is_new)
            .await
    }

    async fn current(&self, key: &RecordKey, claim: &Claim) -> Result<Option<Current>, StoreError> {
        let (key, token) = (key.0.as_slice(), claim.token.0.as_slice());
        let read = |row: Option<&Row>| rows::current(row, claim.fingerprint).map(Some);
        self.execute(&self.statements.current, &[&key, &token], read)
            .await
    }

    /// The run in which the record was taken over, or `None` if another claim was faster.
    async fn take(&self, key: &RecordKey, claim: &Claim) -> Result<Option<u32>, StoreError> {
        let sql = self.statements.take(key, claim);
        let read = |rows: &session::Rows| rows::taken(rows.text()).map(Some);
        session::execute(&self.pool, self.timeout, Statement::Text(&sql), read).await
    }

    async fn claim(&self, key: &RecordKey, claim: &Claim) -> Result<Begun, StoreError> {
        for _ in 0..ATTEMPTS {
            if self.insert(key, claim).await? {
                return Ok(Begun::Started { run: 1 });
            }
            match self.current(key, claim).await? {
                Some(Current::Begun(begun)) => return Ok(begun),
                Some(Current::Free) => {
                    if let Some(run) = self.take(key, claim).await? {
                        return Ok(Begun::Started { run });
                    }
                }
                // The record was deleted in between.
                None => {}
            }
        }
        Err(session::contended())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("table", &self.statements.table.to_string())
            .field("timeout", &self.timeout)
            .field("reap_every", &self.reap_every)
            .field("connections", &self.pool.status())
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        self.start_reaper();
        Box::pin(session::limited(self.timeout, self.claim(key, claim)))
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let (key, token) = (key.0.as_slice(), token.0.as_slice());
            let (micros, ttl) = (micros(lease), micros(ttl));
            let parameters: session::Parameters<'_> = &[&key, &token, &micros, &ttl];
            let is_held = |row: Option<&Row>| Ok(Some(row.is_some()));
            let Statements { renew, shorten, .. } = &*self.statements;
            // The later of the two leases is in force, so a renewal that ends earlier is written into the record.
            Ok(
                (!lease.is_zero() && self.execute(renew, parameters, is_held).await?)
                    || self.execute(shorten, parameters, is_held).await?,
            )
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

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(self.entry(key))
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        Box::pin(self.page(after, limit))
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        Box::pin(self.end(key, resolve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_checked() {
        let store = PostgresStore::connect("postgres://localhost").expect("a valid address");
        let same = store.clone().table(TABLE).expect("a valid name");
        assert_eq!(same.statements.table, store.statements.table);
        let error = store.table("a; b").expect_err("no name").to_string();
        assert!(
            error.starts_with("store `postgres`: `table` is \"a; b\""),
            "{error}"
        );
    }
}

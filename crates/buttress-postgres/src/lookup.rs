//! Look-up and repair.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::{Row, SimpleQueryRow};

use super::PostgresStore;
use super::rows::{check, column, counted, micros};
use super::session::{self, Parameters, Rows, Statement};
use super::statements::{VERSION, is_gone, literal};
use super::table::TableName;
use buttress::idempotency::store::{
    Entry, EntryState, Listed, RecordKey, Resolve, Resolved, StoreError, Token,
};

impl PostgresStore {
    pub(super) async fn entry(&self, key: &RecordKey) -> Result<Option<Entry>, StoreError> {
        let sql = &self.statements.find;
        self.execute(sql, &[&key.0.as_slice()], |row| {
            row.map(entry).transpose().map(Some)
        })
        .await
    }

    pub(super) async fn page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        let read = |cursor: &str| {
            cursor
                .parse::<RecordKey>()
                .map_err(|_| StoreError::invalid_cursor(cursor))
        };
        let after = after.map(read).transpose()?;
        // Every key is greater than no bytes.
        let start = after.as_ref().map_or(&[][..], |key| &key.0[..]);
        let rows = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[&start, &rows];
        let statement = Statement::Prepared(&self.statements.list, parameters);
        let read = |found: &Rows| listed(found.all_typed(), limit).map(Some);
        session::execute(&self.pool, self.timeout, statement, read).await
    }

    pub(super) async fn end(
        &self,
        key: &RecordKey,
        resolve: &Resolve,
    ) -> Result<Resolved, StoreError> {
        let table = &self.statements.table;
        let sql = resolution(table, &table.leases(), key, resolve);
        let read = |rows: &Rows| resolved(rows.text()).map(Some);
        session::execute(&self.pool, self.timeout, Statement::Text(&sql), read).await
    }
}

fn listed(rows: &[Row], limit: usize) -> Result<Listed, StoreError> {
    let mut page = Listed::default();
    for row in rows {
        match entry(row) {
            Ok(entry) => page.entries.push(entry),
            Err(_) => page.unreadable += 1,
        }
    }
    if rows.len() >= limit.max(1) {
        let last = rows.last().map(key).transpose()?;
        page.next = last.map(|key| key.to_hex());
    }
    Ok(page)
}

fn key(row: &Row) -> Result<RecordKey, StoreError> {
    fixed(row, 0).map(RecordKey)
}

fn fixed<const N: usize>(row: &Row, index: usize) -> Result<[u8; N], StoreError> {
    let bytes: &[u8] = column(row, index)?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| {
        StoreError::Unreadable(format!("it has a column of {length} bytes instead of {N}"))
    })
}

fn time(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn entry(row: &Row) -> Result<Entry, StoreError> {
    check(column(row, 1)?)?;
    let (lease, answer): (i64, Option<&[u8]>) = (column(row, 5)?, column(row, 7)?);
    let state = match answer {
        Some(answer) => EntryState::Done {
            answer: Bytes::copy_from_slice(answer),
        },
        None if lease > 0 => EntryState::Running { lease: time(lease) },
        None => EntryState::Stopped {
            since: time(-lease),
        },
    };
    Ok(Entry::new(
        key(row)?,
        Token(fixed(row, 2)?),
        counted(column(row, 3)?)?,
        time(column(row, 4)?),
        state,
        time(column(row, 6)?),
    ))
}

/// Microseconds between two times, which may be infinite.
fn between(start: &str, end: &str) -> String {
    let finite = |time| format!("least({time}, timestamptz '9999-01-01')");
    let (start, end) = (finite(start), finite(end));
    format!("(extract(epoch FROM {end} - {start}) * 1000000)::bigint")
}

/// The times in force, including those of a renewed lease.
const LEASE: &str = "greatest(held.lease_until, renewed.lease_until)";
const GONE: &str = "greatest(held.gone_at, renewed.gone_at)";

fn from(table: &TableName, leases: &TableName) -> String {
    format!(
        "{table} AS held LEFT JOIN {leases} AS renewed
            ON renewed.key = held.key AND renewed.token = held.token AND held.answer IS NULL"
    )
}

fn entries(table: &TableName, leases: &TableName, answer: &str) -> String {
    format!(
        "SELECT held.key, held.version, held.token, held.run, {age}, {lease}, {left}, {answer}
         FROM {from}, (SELECT clock_timestamp() AS now) AS clock
         WHERE {GONE} > clock.now",
        age = between("held.claimed_at", "clock.now"),
        lease = between("clock.now", LEASE),
        left = between("clock.now", GONE),
        from = from(table, leases),
    )
}

/// `$1` key.
pub(super) fn find(table: &TableName, leases: &TableName) -> String {
    format!(
        "{} AND held.key = $1",
        entries(table, leases, "held.answer")
    )
}

/// `$1` the key to start after, `$2` how many.
pub(super) fn list(table: &TableName, leases: &TableName) -> String {
    let answer = format!("substring(held.answer FOR {})", Listed::RESPONSE_BYTES);
    format!(
        "{} AND held.key > $1 AND length(held.key) = 32 ORDER BY held.key LIMIT $2",
        entries(table, leases, &answer)
    )
}

/// Several statements in one round trip and one transaction, as for a takeover: the second one runs under the lock, so it sees
/// every renewal.
fn resolution(table: &TableName, leases: &TableName, key: &RecordKey, resolve: &Resolve) -> String {
    let (key, token) = (literal(&key.0), literal(&resolve.token.0));
    let (run, done) = (resolve.run, resolve.done);
    let stopped_for = micros(resolve.stopped_for);
    let allowed = format!(
        "held.key = {key} AND EXISTS (SELECT FROM found WHERE version = {VERSION} AND is_same AND NOT is_running)"
    );
    let change = match &resolve.response {
        None => format!("DELETE FROM {table} AS held WHERE {allowed}"),
        Some((answer, ttl)) => format!(
            "UPDATE {table} AS held SET token = {}, answer = {},
                 gone_at = clock_timestamp() + {} * interval '1 microsecond' WHERE {allowed}",
            literal(&Token::new().0),
            literal(answer),
            micros(*ttl),
        ),
    };
    let (from, is_gone) = (from(table, leases), is_gone(leases));
    format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SELECT FROM {table} WHERE key = {key} FOR UPDATE;
         WITH found AS MATERIALIZED (
             SELECT held.version, held.token = {token} AND held.run = {run}
                        AND (held.answer IS NOT NULL) = {done} AS is_same,
                    held.answer IS NULL AND least({LEASE}, timestamptz '9999-01-01')
                        + {stopped_for} * interval '1 microsecond' > clock_timestamp() AS is_running
             FROM {from} WHERE held.key = {key} AND NOT {is_gone}
         ), changed AS ({change} RETURNING held.key), ended AS (
             DELETE FROM {leases} AS renewed USING changed WHERE renewed.key = changed.key
         )
         SELECT version, is_same, is_running FROM found"
    )
}

fn resolved(row: Option<&SimpleQueryRow>) -> Result<Resolved, StoreError> {
    let Some(row) = row else {
        return Ok(Resolved::Missing);
    };
    let version = row.get(0).and_then(|version| version.parse().ok());
    check(version.unwrap_or(0))?;
    Ok(match (row.get(1), row.get(2)) {
        (Some("t"), Some("t")) => Resolved::Running,
        (Some("t"), _) => Resolved::Resolved,
        _ => Resolved::Changed,
    })
}

//! The table's name, and the texts of all statements about it.

use std::fmt;

use crate::error::ConfigError;

/// The version of the table's columns, and of the rows in it.
pub(super) const VERSION: i16 = 1;

/// What the table's comment begins with; its version follows.
pub(super) const COMMENT: &str = "buttress idempotency, version ";

/// The longest name of a table: 63 bytes, less what the index's name has behind it.
const LONGEST: usize = 63 - INDEX.len();
const INDEX: &str = "_gone_at";

/// A valid name, quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    /// `"schema"."name"`
    pub(super) quoted: String,
    /// `name`
    pub(super) bare: String,
}

impl TableName {
    pub(super) fn new(name: &str) -> Result<Self, ConfigError> {
        let parts: Vec<&str> = name.split('.').collect();
        ConfigError::unless(
            parts.len() <= 2 && parts.iter().all(|part| is_plain(part)),
            "table",
            name,
            "`name` or `schema.name`, each of 1 to 55 lower-case letters, digits and `_`, and no digit first",
        )?;
        Ok(Self {
            quoted: format!(r#""{}""#, parts.join(r#"".""#)),
            bare: parts.last().copied().unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quoted)
    }
}

/// Lower case only: quoted or not, it is the same name then.
fn is_plain(part: &str) -> bool {
    let is_start = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    (1..=LONGEST).contains(&part.len())
        && part.as_bytes().first().is_some_and(is_start)
        && part
            .bytes()
            .all(|byte| is_start(&byte) || byte.is_ascii_digit())
}

/// The text of every statement. Each is one round trip.
///
/// A statement sees the rows as they were when it started, but what waits for a row's lock goes on with the row as it is
/// then. So a statement that changes nothing where what it saw let it is told by its answer, and is executed again.
/// The time is that of the clock, not that of the statement's start, as it may have waited in between.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    pub(super) table: TableName,
    pub(super) begin: String,
    pub(super) renew: String,
    pub(super) complete: String,
    pub(super) completion: String,
    pub(super) completed: String,
    pub(super) abandon: String,
    pub(super) reap: String,
}

impl Statements {
    pub(super) fn of(table: TableName) -> Self {
        Self {
            begin: begin(&table),
            renew: renew(&table),
            complete: ended(
                &table,
                &format!("{} RETURNING true AS taken", completion(&table)),
                "SELECT taken FROM changed",
            ),
            completion: completion(&table),
            completed: completed(&table),
            abandon: abandon(&table),
            reap: reap(&table),
            table,
        }
    }
}

/// The duration of parameter `number`, which is in microseconds.
fn micros(number: u8) -> String {
    format!("${number}::bigint * interval '1 microsecond'")
}

/// `$1` key, `$2` fingerprint, `$3` token, `$4` lease, `$5` time to live.
///
/// Where the record stands against the claim, nothing is written, and no lock taken: duplicates only read.
fn begin(table: &TableName) -> String {
    let (lease, ttl) = (micros(4), micros(5));
    format!(
        "WITH found AS MATERIALIZED (
             SELECT version, fingerprint, answer,
                    version <> {VERSION} OR fingerprint <> $2 OR answer IS NOT NULL
                        OR (token <> $3 AND lease_until > clock_timestamp()) AS stands
             FROM {table} WHERE key = $1 AND gone_at > clock_timestamp()
         ), claimed AS (
             INSERT INTO {table} AS held (key, version, fingerprint, token, run, lease_until, gone_at)
             SELECT $1, {VERSION}, $2, $3, 1, clock_timestamp() + {lease}, clock_timestamp() + {lease} + {ttl}
             WHERE NOT EXISTS (SELECT FROM found WHERE stands)
             ON CONFLICT (key) DO UPDATE SET
                 version = {VERSION}, fingerprint = $2, token = $3, answer = NULL,
                 run = CASE WHEN held.gone_at <= clock_timestamp() THEN 1
                            WHEN held.token = $3 THEN held.run
                            ELSE least(held.run, 2147483646) + 1 END,
                 lease_until = clock_timestamp() + {lease},
                 gone_at = clock_timestamp() + {lease} + {ttl}
             WHERE held.gone_at <= clock_timestamp()
                OR (held.version = {VERSION} AND held.fingerprint = $2 AND held.answer IS NULL
                    AND (held.token = $3 OR held.lease_until <= clock_timestamp()))
             RETURNING run
         )
         SELECT claimed.run, found.version, found.fingerprint, found.answer, found.stands
         FROM (VALUES (true)) AS one LEFT JOIN claimed ON true LEFT JOIN found ON true"
    )
}

/// The row that a holder may change: `$1` key, `$2` token.
fn held() -> String {
    format!(
        "held.key = $1 AND held.token = $2 AND held.version = {VERSION} AND held.answer IS NULL
             AND held.gone_at > clock_timestamp()"
    )
}

/// `$3` lease, `$4` time to live.
fn renew(table: &TableName) -> String {
    let (held, lease, ttl) = (held(), micros(3), micros(4));
    format!(
        "UPDATE {table} AS held SET
             lease_until = clock_timestamp() + {lease}, gone_at = clock_timestamp() + {lease} + {ttl}
         WHERE {held} RETURNING true"
    )
}

/// `$3` answer, `$4` time to live.
fn completion(table: &TableName) -> String {
    let (held, ttl) = (held(), micros(4));
    format!(
        "UPDATE {table} AS held SET answer = $3::bytea, gone_at = clock_timestamp() + {ttl} WHERE {held}"
    )
}

/// Written where a savepoint is open, a row is that of another transaction than the outermost one.
pub(super) const IS_OUTERMOST: &str =
    "RETURNING held.xmin::text::bigint = txid_current() & 4294967295";

/// Whether the record of this holder has its answer.
fn completed(table: &TableName) -> String {
    format!("SELECT true FROM {table} WHERE key = $1 AND token = $2 AND answer IS NOT NULL")
}

fn abandon(table: &TableName) -> String {
    let held = held();
    let nobody = "00".repeat(16);
    ended(
        table,
        &format!(
            "DELETE FROM {table} AS held WHERE {held} AND held.run = 1 RETURNING true AS taken
         ), released AS (
             -- An earlier run may have acted: the next is told. Nobody has this token.
             UPDATE {table} AS held SET token = '\\x{nobody}'::bytea, lease_until = clock_timestamp()
             WHERE {held} AND held.run > 1 RETURNING true AS taken"
        ),
        "SELECT taken FROM changed UNION ALL SELECT taken FROM released",
    )
}

/// A holder's last word: whether it was taken, and else what stands there.
fn ended(table: &TableName, change: &str, taken: &str) -> String {
    format!(
        "WITH found AS MATERIALIZED (
             SELECT version, token = $2 AS own, answer
             FROM {table} WHERE key = $1 AND gone_at > clock_timestamp()
         ), changed AS ({change}), ended AS ({taken})
         SELECT ended.taken, found.version, found.own, found.answer
         FROM (VALUES (true)) AS one LEFT JOIN ended ON true LEFT JOIN found ON true"
    )
}

/// `$1` how many at most. The statement's start is the time here: the clock's cannot be looked up in an index, and rows
/// that are locked are left alone, not waited for.
fn reap(table: &TableName) -> String {
    format!(
        "WITH gone AS MATERIALIZED (
             SELECT key FROM {table} WHERE gone_at <= now()
             ORDER BY gone_at LIMIT $1::bigint FOR UPDATE SKIP LOCKED
         ), deleted AS (
             DELETE FROM {table} AS held USING gone WHERE held.key = gone.key RETURNING 1
         )
         SELECT count(*) FROM deleted"
    )
}

/// Makes the table.
pub(super) fn migration(table: &TableName) -> String {
    let index = format!(r#""{}{INDEX}""#, table.bare);
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
    key         bytea       NOT NULL PRIMARY KEY,
    version     smallint    NOT NULL,
    fingerprint bytea       NOT NULL,
    token       bytea       NOT NULL,
    run         integer     NOT NULL CHECK (run > 0),
    lease_until timestamptz NOT NULL,
    gone_at     timestamptz NOT NULL,
    answer      bytea
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (gone_at);
COMMENT ON TABLE {table} IS '{COMMENT}{VERSION}';
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let table = TableName::new("billing.order_2").expect("a valid name");
        assert_eq!(table.quoted, r#""billing"."order_2""#);
        assert_eq!(table.bare, "order_2");
        assert_eq!(
            TableName::new("user").expect("a valid name").quoted,
            r#""user""#
        );
        assert!(TableName::new(&"a".repeat(55)).is_ok());
    }

    #[test]
    fn what_could_be_anything_but_a_name_is_refused() {
        let long = "a".repeat(56);
        for name in [
            "", ".", "a.", ".a", "a.b.c", "A", "1a", "a-b", "a b", "a\"", "a;", "ä", "a\0", &long,
        ] {
            let error = TableName::new(name).expect_err(name);
            assert_eq!(error.field, "table");
        }
    }
}

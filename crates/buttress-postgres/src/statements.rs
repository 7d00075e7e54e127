//! The text of every statement.

use super::rows::micros;
use super::table::TableName;
use super::{lookup, reap};
use buttress::idempotency::store::{Claim, RecordKey, Token};

/// The version of a row.
pub(super) const VERSION: i16 = 1;

/// The text of every statement. Each is one round trip.
///
/// The claim writes the first lease into the record's row; renewals write into the second table, so that the transaction of a
/// handler that completes the record never meets a concurrent update, at any isolation level. A renewal counts only for the token
/// it names. It locks the record's row in share mode, which changes nothing in it, and a takeover locks the row exclusively before
/// it reads both leases, so of a renewal and a takeover one sees the other.
///
/// A statement sees the rows as of its start, but a change that waited for a row lock applies to the row as it is then. If the two
/// contradict each other, the statement returns neither and is executed again. Times come from
/// `clock_timestamp()`, not from the statement's start, because the statement may have waited in between.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    pub(super) table: TableName,
    leases: TableName,
    pub(super) begin: String,
    pub(super) current: String,
    pub(super) renew: String,
    pub(super) shorten: String,
    pub(super) complete: String,
    pub(super) completion: String,
    pub(super) completion_or_error: String,
    pub(super) outcome: String,
    pub(super) abandon: String,
    pub(super) find: String,
    pub(super) list: String,
    pub(super) reap: String,
    pub(super) reap_leases: String,
}

impl Statements {
    pub(super) fn of(table: TableName) -> Self {
        let names = Names {
            leases: &table.leases(),
            table: &table,
        };
        let completion = names.completion();
        Self {
            begin: names.begin(),
            current: names.current(),
            renew: names.renew(),
            shorten: names.shorten(),
            complete: names.complete(),
            completion_or_error: format!(
                "WITH changed AS ({completion} RETURNING true) SELECT 1 / count(*) FROM changed"
            ),
            completion,
            outcome: format!(
                "SELECT token = $2 AS own, answer IS NOT NULL FROM {table} WHERE key = $1 FOR SHARE"
            ),
            abandon: names.abandon(),
            find: lookup::find(&table, names.leases),
            list: lookup::list(&table, names.leases),
            reap: reap::records(&table, names.leases),
            reap_leases: reap::leases(names.leases),
            leases: table.leases(),
            table,
        }
    }

    /// Takes over a record that has expired, whose lease has ended, or that the claimant holds.
    ///
    /// Several statements in one round trip and one transaction. Each sees what was committed before it began, so the one after
    /// the lock sees every earlier renewal.
    pub(super) fn take(&self, key: &RecordKey, claim: &Claim) -> String {
        let Self { table, leases, .. } = self;
        let (key, token, fingerprint) = (
            literal(&key.0),
            literal(&claim.token.0),
            literal(&claim.fingerprint.0),
        );
        let lease = format!("{} * interval '1 microsecond'", micros(claim.lease));
        let ttl = format!("{} * interval '1 microsecond'", micros(claim.ttl));
        let is_gone = is_gone(leases);
        let is_leased = is_leased(leases);
        format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
             SELECT FROM {table} WHERE key = {key} FOR UPDATE;
             WITH taken AS (
                 UPDATE {table} AS held SET
                     version = {VERSION}, fingerprint = {fingerprint}, token = {token}, answer = NULL,
                     run = CASE WHEN {is_gone} THEN 1
                                WHEN held.token = {token} THEN held.run
                                ELSE least(held.run, 2147483646) + 1 END,
                     claimed_at = CASE WHEN {is_gone} THEN now ELSE held.claimed_at END,
                     lease_until = now + {lease}, gone_at = now + {lease} + {ttl}
                 FROM (SELECT clock_timestamp() AS now) AS clock
                 WHERE held.key = {key} AND ({is_gone}
                     OR (held.version = {VERSION} AND held.fingerprint = {fingerprint} AND held.answer IS NULL
                         AND (held.token = {token} OR NOT {is_leased})))
                 RETURNING held.run
             ), ended AS (
                 DELETE FROM {leases} WHERE key = {key} AND EXISTS (SELECT FROM taken)
             )
             SELECT run FROM taken"
        )
    }
}

/// Bytes as an SQL literal that is independent of the escape settings of the server.
pub(super) fn literal(bytes: &[u8]) -> String {
    use std::fmt::Write;

    let mut text = String::from("decode('");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str("', 'hex')");
    text
}

/// The duration of parameter `number`, which is in microseconds.
fn parameter(number: u8) -> String {
    format!("${number}::bigint * interval '1 microsecond'")
}

/// Whether a renewed lease of the holder satisfies this condition.
fn renewed(leases: &TableName, condition: &str) -> String {
    format!(
        "EXISTS (SELECT FROM {leases} AS renewed
            WHERE renewed.key = held.key AND renewed.token = held.token AND renewed.{condition})"
    )
}

/// Whether the record of row `held` has expired. The second table is only read if the row itself has.
pub(super) fn is_gone(leases: &TableName) -> String {
    let renewed = renewed(leases, "gone_at > clock_timestamp()");
    format!("(held.gone_at <= clock_timestamp() AND (held.answer IS NOT NULL OR NOT {renewed}))")
}

/// Whether a lease of row `held` is in force. The second table is only read if the lease in the row has ended.
fn is_leased(leases: &TableName) -> String {
    let renewed = renewed(leases, "lease_until > clock_timestamp()");
    format!("(held.lease_until > clock_timestamp() OR {renewed})")
}

struct Names<'a> {
    table: &'a TableName,
    leases: &'a TableName,
}

impl Names<'_> {
    /// `$1` key, `$2` fingerprint, `$3` token, `$4` lease, `$5` time to live. No row if there is a record.
    ///
    /// If there is a record, nothing is written or locked. `ON CONFLICT` alone would wait for a transaction that is completing
    /// the record.
    fn begin(&self) -> String {
        let (table, lease, ttl) = (self.table, parameter(4), parameter(5));
        format!(
            "INSERT INTO {table} (key, version, fingerprint, token, run, claimed_at, lease_until, gone_at, reap_at)
             SELECT $1, {VERSION}, $2, $3, 1, now, now + {lease}, now + {lease} + {ttl}, now + {lease} + {ttl}
             FROM (SELECT clock_timestamp() AS now) AS clock
             WHERE NOT EXISTS (SELECT FROM {table} WHERE key = $1)
             ON CONFLICT (key) DO NOTHING
             RETURNING run"
        )
    }

    /// `$1` key, `$2` token: the present record, for a claim that was not inserted.
    fn current(&self) -> String {
        let Self { table, leases } = self;
        let (is_gone, is_leased) = (is_gone(leases), is_leased(leases));
        format!(
            "SELECT version, fingerprint, answer, {is_gone},
                    answer IS NULL AND token <> $2 AND {is_leased}
             FROM {table} AS held WHERE key = $1"
        )
    }

    /// The row that a holder may change: `$1` key, `$2` token.
    fn held(&self) -> String {
        let is_gone = is_gone(self.leases);
        format!(
            "held.key = $1 AND held.token = $2 AND held.version = {VERSION} AND held.answer IS NULL
                 AND NOT {is_gone}"
        )
    }

    /// `$3` lease, `$4` time to live. No row if the record is not held, or if the renewal would end before the lease of the claim.
    fn renew(&self) -> String {
        let Self { table, leases } = self;
        let (held, lease, ttl) = (self.held(), parameter(3), parameter(4));
        format!(
            "WITH own AS MATERIALIZED (
                 SELECT held.lease_until, held.gone_at FROM {table} AS held WHERE {held} FOR KEY SHARE
             )
             INSERT INTO {leases} AS renewed (key, token, lease_until, gone_at, reap_at)
             SELECT $1, $2, now + {lease}, now + {lease} + {ttl}, now + {lease} + {ttl}
             FROM own, (SELECT clock_timestamp() AS now) AS clock
             WHERE now + {lease} >= own.lease_until AND now + {lease} + {ttl} >= own.gone_at
             ON CONFLICT (key) DO UPDATE SET
                 token = excluded.token, lease_until = excluded.lease_until, gone_at = excluded.gone_at
             RETURNING true"
        )
    }

    /// A renewal that may end the lease early. It is written into the row of the record.
    fn shorten(&self) -> String {
        let Self { table, leases } = self;
        let (held, lease, ttl) = (self.held(), parameter(3), parameter(4));
        format!(
            "WITH changed AS (
                 UPDATE {table} AS held SET
                     lease_until = clock_timestamp() + {lease}, gone_at = clock_timestamp() + {lease} + {ttl}
                 WHERE {held} RETURNING true AS taken
             ), ended AS (
                 DELETE FROM {leases} WHERE key = $1 AND EXISTS (SELECT FROM changed)
             )
             SELECT taken FROM changed"
        )
    }

    /// `$3` response, `$4` time to live.
    fn complete(&self) -> String {
        let (completion, is_gone) = (self.completion(), is_gone(self.leases));
        self.ended(
            &format!("{completion} AND NOT {is_gone} RETURNING true AS taken"),
            "SELECT taken FROM changed",
        )
    }

    /// The last statement of a transaction that has the effect. An expired record can be completed until somebody claims it, so
    /// this does not read the second table.
    fn completion(&self) -> String {
        let (table, ttl) = (self.table, parameter(4));
        format!(
            "UPDATE {table} AS held SET answer = $3::bytea, gone_at = clock_timestamp() + {ttl}
             WHERE held.key = $1 AND held.token = $2 AND held.version = {VERSION} AND held.answer IS NULL"
        )
    }

    fn abandon(&self) -> String {
        let Self { table, leases } = self;
        let held = self.held();
        let nobody = literal(&Token::NOBODY.0);
        self.ended(
            &format!(
                "DELETE FROM {table} AS held WHERE {held} AND held.run = 1 RETURNING true AS taken
             ), released AS (
                 -- An earlier run may have had an effect, so the record stays. Nobody has this token.
                 UPDATE {table} AS held SET token = {nobody}, lease_until = clock_timestamp(),
                     gone_at = greatest(held.gone_at, (SELECT renewed.gone_at FROM {leases} AS renewed
                         WHERE renewed.key = held.key AND renewed.token = held.token))
                 WHERE {held} AND held.run > 1 RETURNING true AS taken
             ), let_go AS (
                 DELETE FROM {leases} AS renewed USING (TABLE changed UNION ALL TABLE released) AS any_change
                 WHERE renewed.key = $1"
            ),
            "SELECT taken FROM changed UNION ALL SELECT taken FROM released",
        )
    }

    /// The end of a run: whether it took effect, or else the present record.
    fn ended(&self, change: &str, taken: &str) -> String {
        let (table, is_gone) = (self.table, is_gone(self.leases));
        format!(
            "WITH found AS MATERIALIZED (
                 SELECT version, token = $2 AS own, answer FROM {table} AS held WHERE key = $1 AND NOT {is_gone}
             ), changed AS ({change}), ended AS ({taken})
             SELECT ended.taken, found.version, found.own, found.answer
             FROM (VALUES (true)) AS one LEFT JOIN ended ON true LEFT JOIN found ON true"
        )
    }
}

//! The table's name, layout and migration.

use std::fmt;

use buttress::ConfigError;

/// The version of the table's columns.
pub(super) const VERSION: i16 = 2;

/// The beginning of the comment of the table, before its version.
pub(super) const COMMENT: &str = "buttress idempotency, version ";

/// Inserts fill half of each page. Completing a record makes it longer, and an update that finds room on the same page changes
/// no index.
const FILLFACTOR: u8 = 50;

/// The longest name of a table: 63 bytes minus the longest suffix.
const LONGEST: usize = 63 - INDEX.len();
const INDEX: &str = "_reap_at";
const LEASES: &str = "_leases";

/// A valid name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    pub(super) fn new(name: &str) -> Result<Self, ConfigError> {
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_plain(part)) {
            return Err(super::invalid(
                "table",
                name,
                "`name` or `schema.name`, each of 1 to 55 lower-case letters, digits and `_`, not starting with a digit",
            ));
        }
        let (name, schema) = match parts[..] {
            [schema, name] => (name, Some(schema.to_owned())),
            _ => (name, None),
        };
        Ok(Self {
            schema,
            name: name.to_owned(),
        })
    }

    /// A name that is known to be valid.
    pub(super) fn valid(name: &str) -> Self {
        Self {
            schema: None,
            name: name.to_owned(),
        }
    }

    /// The table of renewed leases.
    pub(super) fn leases(&self) -> Self {
        Self {
            schema: self.schema.clone(),
            name: format!("{}{LEASES}", self.name),
        }
    }
}

/// Quoted: `"schema"."name"`.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, r#""{schema}"."#)?;
        }
        write!(f, r#""{}""#, self.name)
    }
}

/// Lower case only, so that the name is the same with and without quotes.
fn is_plain(part: &str) -> bool {
    let is_start = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    (1..=LONGEST).contains(&part.len())
        && part.as_bytes().first().is_some_and(is_start)
        && part
            .bytes()
            .all(|byte| is_start(&byte) || byte.is_ascii_digit())
}

/// Creates both tables.
///
/// `reap_at` is the only indexed time, and only the reaper changes it.
pub(super) fn migration(table: &TableName) -> String {
    let leases = table.leases();
    let index = format!(r#""{}{INDEX}""#, table.name);
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
    key         bytea       NOT NULL PRIMARY KEY,
    version     smallint    NOT NULL,
    fingerprint bytea       NOT NULL,
    token       bytea       NOT NULL,
    run         integer     NOT NULL CHECK (run > 0),
    lease_until timestamptz NOT NULL,
    gone_at     timestamptz NOT NULL,
    answer      bytea,
    claimed_at  timestamptz NOT NULL,
    reap_at     timestamptz NOT NULL
) WITH (fillfactor = {FILLFACTOR});
CREATE INDEX IF NOT EXISTS {index} ON {table} (reap_at);
CREATE TABLE IF NOT EXISTS {leases} (
    key         bytea       NOT NULL PRIMARY KEY,
    token       bytea       NOT NULL,
    lease_until timestamptz NOT NULL,
    gone_at     timestamptz NOT NULL,
    reap_at     timestamptz NOT NULL,
    UNIQUE (reap_at, key)
) WITH (fillfactor = {FILLFACTOR});
COMMENT ON TABLE {leases} IS 'renewed leases of {comment}';
COMMENT ON TABLE {table} IS '{COMMENT}{VERSION}';
",
        comment = table.to_string().replace('"', ""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let table = TableName::new("billing.order_2").expect("a valid name");
        assert_eq!(table.to_string(), r#""billing"."order_2""#);
        assert_eq!(table.leases().to_string(), r#""billing"."order_2_leases""#);
        let table = TableName::new("user").expect("a valid name");
        assert_eq!(table.to_string(), r#""user""#);
        assert!(TableName::new(&"a".repeat(55)).is_ok());
    }

    #[test]
    fn an_invalid_name_is_rejected() {
        let long = "a".repeat(56);
        for name in [
            "", ".", "a.", ".a", "a.b.c", "A", "1a", "a-b", "a b", "a\"", "a;", "ä", "a\0", &long,
        ] {
            let error = TableName::new(name).expect_err(name);
            assert_eq!(error.field, "table");
        }
    }
}

//! Creating the table.

use super::session::Statement;
use super::table::{COMMENT, VERSION, migration};
use super::{PostgresStore, session};
use buttress::idempotency::store::StoreError;

impl PostgresStore {
    /// The statements that create the tables, for your own migrations. The table's comment holds its
    /// version.
    pub fn migration(&self) -> String {
        migration(&self.statements.table)
    }

    /// Creates the store's table and the one for its leases, `<table>_leases`. Their schema has to exist.
    ///
    /// Call it before the first request, in every process: of several concurrent calls one does the work, and the others wait. If the
    /// table is there already, `migrate` only reads the table's comment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreadable`] if there is a table of this name that has another version or was not created by this crate.
    /// Else as for any call.
    ///
    /// # Cancel safety
    ///
    /// Either everything is created or nothing.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if self.is_current().await? {
            return Ok(());
        }
        let table = self.statements.table.to_string();
        let making = format!(
            "SELECT pg_advisory_xact_lock(hashtextextended('buttress {table}', 0));\n{}",
            self.migration()
        );
        let statement = Statement::Text(&making);
        session::execute(&self.pool, self.timeout, statement, |_| Ok(Some(()))).await
    }

    async fn is_current(&self) -> Result<bool, StoreError> {
        let table = self.statements.table.to_string();
        let comment: Option<Option<String>> = self
            .execute(
                "SELECT obj_description(found.oid, 'pg_class')
                 FROM (SELECT to_regclass($1::text) AS oid) AS found WHERE found.oid IS NOT NULL",
                &[&table],
                |row| {
                    row.map(|row| row.try_get(0))
                        .transpose()
                        .map(Some)
                        .map_err(StoreError::unavailable)
                },
            )
            .await?;
        let Some(comment) = comment else {
            return Ok(false);
        };
        let comment = comment.unwrap_or_default();
        let version = comment
            .strip_prefix(COMMENT)
            .and_then(|version| version.parse::<i16>().ok());
        match version {
            Some(VERSION) => Ok(true),
            Some(version) => Err(StoreError::Unreadable(format!(
                "the table {table} has version {version}, but this program uses version {VERSION}; use another table"
            ))),
            None => Err(StoreError::Unreadable(format!(
                "the table {table} was not created by this store (its comment is not `{COMMENT}{VERSION}`); use another name"
            ))),
        }
    }
}

//! The table comes into being.

use super::table::{COMMENT, VERSION, migration};
use super::{PostgresStore, session};
use crate::idempotency::store::StoreError;

impl PostgresStore {
    /// The statements that make the table and its index, for those who execute their migrations themselves. The table's
    /// comment holds its version.
    pub fn migration(&self) -> String {
        migration(&self.statements.table)
    }

    /// Makes the table and its index if they are not there. Its schema has to be.
    ///
    /// Call it before the first request, in every process: of several at once one makes it, and the others wait. Where the
    /// table is there already, it only reads the table's comment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreadable`] if there is a table of this name that is of a newer version, or not of this crate. Else as
    /// for any call.
    ///
    /// # Cancel safety
    ///
    /// Either all is made or nothing.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if self.is_there().await? {
            return Ok(());
        }
        let table = self.statements.table.to_string();
        let making = format!(
            "SELECT pg_advisory_xact_lock(hashtextextended('buttress {table}', 0));\n{}",
            self.migration()
        );
        session::execute_all(&self.pool, self.timeout, &making).await
    }

    async fn is_there(&self) -> Result<bool, StoreError> {
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
            Some(version) if version <= VERSION => Ok(true),
            Some(version) => Err(StoreError::Unreadable(format!(
                "the table {table} is of version {version}, and this is version {VERSION}"
            ))),
            None => Err(StoreError::Unreadable(format!(
                "there is a table {table} whose comment is not `{COMMENT}{VERSION}`"
            ))),
        }
    }
}

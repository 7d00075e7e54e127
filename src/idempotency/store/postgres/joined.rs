//! The record is completed in the transaction of what the handler did.

use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::rows::{micros, word};
use super::session::failed;
use crate::idempotency::record::{Ended, RecordKey, Token};
use crate::idempotency::store::StoreError;

/// How often it is looked again at a record that another changes: there is one such change at most for each other holder.
const ATTEMPTS: usize = 8;

impl PostgresStore {
    /// Completes the record in a transaction, which may be on any connection to the database that has the table. It is
    /// complete when the transaction is committed.
    ///
    /// **Roll back whatever does not return [`Ended::Taken`].** The operation is another's then, and so is its effect.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the statement fails, and if a savepoint is open: releasing it would not commit
    /// anything. In all cases the transaction has to be rolled back.
    pub async fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        key: &RecordKey,
        token: Token,
        answer: &[u8],
        ttl: Duration,
    ) -> Result<Ended, StoreError> {
        for _ in 0..ATTEMPTS {
            // Not prepared: parsed and executed in one round trip, on a connection that need not keep it.
            let rows = transaction
                .query_typed(
                    &self.statements.complete_joined,
                    &[
                        (&key.0.as_slice(), Type::BYTEA),
                        (&token.0.as_slice(), Type::BYTEA),
                        (&answer, Type::BYTEA),
                        (&micros(ttl), Type::INT8),
                    ],
                )
                .await
                .map_err(failed)?;
            match word(rows.first())? {
                Some(word) if word.outermost => return Ok(word.ended),
                Some(_) => {
                    return Err(StoreError::unavailable(
                        "a savepoint is open: complete the record in the outermost transaction",
                    ));
                }
                None => {}
            }
        }
        Err(StoreError::unavailable("others came in between"))
    }
}

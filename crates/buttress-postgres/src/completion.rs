//! The completion of a record as a statement that any client of PostgreSQL executes in its own transaction.

use std::fmt;
use std::sync::Arc;

use ::http::Response;
use bytes::Bytes;
use http_body::Body;

use super::PostgresStore;
use super::commit_error::CommitError;
use super::rows::micros;
use super::statements::Statements;
use buttress::idempotency::store::joined::Finished;
use buttress::idempotency::{Operation, StoredBody};

impl PostgresStore {
    /// The completion of this operation's record with this response, to be executed by another client (sqlx, diesel) as the
    /// last statement of the transaction that has the effect. For `tokio-postgres` and `deadpool-postgres` there is
    /// [`joined`](Self::joined).
    ///
    /// ```
    /// # use buttress::BoxError;
    /// # struct Row; impl Row { fn rows_affected(&self) -> u64 { 1 } }
    /// # struct Sql; impl Sql { fn bind<T>(self, _: T) -> Self { self } async fn execute(self, _: &mut Transaction) -> Result<Row, BoxError> { Ok(Row) } }
    /// # mod sqlx { pub fn query(_: &str) -> super::Sql { super::Sql } }
    /// # struct Transaction; impl Transaction { async fn commit(self) -> Result<(), BoxError> { Ok(()) } }
    /// use buttress::idempotency::{StoredBody, Operation};
    /// use buttress_postgres::PostgresStore;
    /// use http::Response;
    ///
    /// async fn finish(
    ///     store: &PostgresStore,
    ///     mut transaction: Transaction, // sqlx::Transaction<'_, Postgres>
    ///     operation: &Operation,
    ///     response: Response<String>,
    /// ) -> Result<Response<StoredBody<String>>, BoxError> {
    ///     let completion = store.completion(operation, response).await?;
    ///     let rows = sqlx::query(completion.statement())
    ///         .bind(completion.key())
    ///         .bind(completion.token())
    ///         .bind(completion.answer())
    ///         .bind(completion.ttl())
    ///         .execute(&mut transaction)
    ///         .await?
    ///         .rows_affected();
    ///     // An error drops the transaction, which rolls back.
    ///     let written = completion.written(rows)?;
    ///     transaction.commit().await?;
    ///     Ok(written.committed())
    /// }
    /// # fn main() {}
    /// ```
    ///
    /// The parameters are two `bytea`, the response as a `bytea`, and a `bigint`: how long the record is stored, in microseconds.
    /// The statement changes one row. If it changes none, the record is not this operation's anymore: `written` returns
    /// [`CommitError::Lost`], and the transaction must be rolled back.
    ///
    /// From here on, unless `committed` is called, the operation counts as one that
    /// [did not happen](Operation::did_not_happen): then the layer reads the outcome of the transaction from the store, and
    /// returns the response that was committed, if any.
    ///
    /// The statement changes only the record's row, and renewals of the lease never do: at any isolation level it fails with
    /// 40001 only if another run has taken the record.
    ///
    /// # Errors
    ///
    /// [`CommitError::Response`], if the response cannot be read to its end or is too large.
    pub async fn completion<B: Body<Data = Bytes>>(
        &self,
        operation: &Operation,
        response: Response<B>,
    ) -> Result<Completion<B>, CommitError> {
        let finished = Finished::new(operation, response).await;
        Ok(Completion {
            statements: Arc::clone(&self.statements),
            finished: finished.map_err(CommitError::Response)?,
        })
    }
}

/// A statement that completes a record, and its four parameters. Created by [`PostgresStore::completion`].
#[must_use = "a completion does nothing until its statement is executed"]
pub struct Completion<B> {
    statements: Arc<Statements>,
    finished: Finished<B>,
}

impl<B> Completion<B> {
    /// The statement. It changes one row, or none if the operation no longer holds the record.
    pub fn statement(&self) -> &str {
        &self.statements.completion
    }

    /// `$1`, a `bytea`.
    pub fn key(&self) -> &[u8] {
        &self.finished.key().0
    }

    /// `$2`, a `bytea`.
    pub fn token(&self) -> [u8; 16] {
        self.finished.token().0
    }

    /// `$3`, a `bytea`.
    pub fn answer(&self) -> &[u8] {
        self.finished.record()
    }

    /// `$4`, a `bigint`: how long the record is stored, in microseconds.
    pub fn ttl(&self) -> i64 {
        micros(self.finished.ttl())
    }

    /// Reports that the statement was executed and changed this many rows.
    ///
    /// # Errors
    ///
    /// [`CommitError::Lost`] unless `rows` is 1. **Roll the transaction back**: another run has taken over the operation, and
    /// produces its effect.
    pub fn written(self, rows: u64) -> Result<Written<B>, CommitError> {
        if rows == 1 {
            Ok(Written(self.finished))
        } else {
            Err(CommitError::Lost)
        }
    }
}

impl<B> fmt::Debug for Completion<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Completion").field(&self.finished).finish()
    }
}

/// A completion that was executed in a transaction that is not committed yet.
#[must_use = "call `committed` once the transaction is committed"]
#[derive(Debug)]
pub struct Written<B>(Finished<B>);

impl<B> Written<B> {
    /// Reports that the transaction was committed. Returns the response for the handler to return; the caller gets what was
    /// recorded.
    ///
    /// If it is unknown whether the transaction was committed, drop this and return an error: the layer reads the record.
    pub fn committed(self) -> Response<StoredBody<B>> {
        self.0.committed()
    }
}

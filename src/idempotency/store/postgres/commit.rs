//! Effect and record are committed together.

use std::fmt;
use std::future::Future;

use ::http::Response;
use bytes::Bytes;
use http_body::Body;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::completion::Change;
use super::session::explained;
use super::table::IS_OUTERMOST;
use crate::error::BoxError;
use crate::idempotency::record::{RecordKey, Token};
use crate::idempotency::server::{KeptBody, Operation};

impl PostgresStore {
    /// Records the response in the transaction that has the effect, and commits it: both are there, or neither is. The layer
    /// gives the caller what was recorded.
    ///
    /// The transaction is of `tokio-postgres` or `deadpool-postgres`, on any connection to the database that has the store's
    /// table. Recording is one round trip more than committing.
    ///
    /// ```
    /// use axum::extract::State;
    /// use axum::http::StatusCode;
    /// use axum::response::{IntoResponse, Response};
    /// use buttress::BoxError;
    /// use buttress::idempotency::{Operation, store::PostgresStore};
    /// use deadpool_postgres::Pool;
    ///
    /// async fn pay(
    ///     State((store, pool)): State<(PostgresStore, Pool)>,
    ///     operation: Operation,
    ///     amount: String,
    /// ) -> Result<Response, StatusCode> {
    ///     transfer(&store, &pool, &operation, &amount).await.map_err(|error| {
    ///         eprintln!("{error}");
    ///         operation.did_not_happen(); // it has rolled back; else the 503 is kept
    ///         StatusCode::SERVICE_UNAVAILABLE
    ///     })
    /// }
    ///
    /// async fn transfer(
    ///     store: &PostgresStore,
    ///     pool: &Pool,
    ///     operation: &Operation,
    ///     amount: &str,
    /// ) -> Result<Response, BoxError> {
    ///     let mut client = pool.get().await?;
    ///     let transaction = client.transaction().await?;
    ///     transaction.execute("INSERT INTO payments (amount) VALUES ($1)", &[&amount]).await?;
    ///     let response = (StatusCode::CREATED, "paid").into_response();
    ///     Ok(store.commit(transaction, operation, response).await?.into_response())
    /// }
    /// # use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
    /// # fn start(store: PostgresStore, pool: Pool) -> Result<axum::Router, buttress::ConfigError> {
    ///
    /// let layer = IdempotencyLayer::new("payments", store.clone(), Scope::Global, IdempotencyConfig::default())?;
    /// let app = axum::Router::new()
    ///     .route("/payments", axum::routing::post(pay))
    ///     .with_state((store, pool))
    ///     .layer(buttress::http::answer(layer));
    /// # Ok(app) }
    /// # fn main() {}
    /// ```
    ///
    /// A handler that fails before it commits has rolled back: where the whole effect is in the transaction, let it say that it
    /// [did not happen](Operation::did_not_happen), or else its error is kept as the answer.
    ///
    /// **All of the effect has to be in the transaction.** What is not, a call to another service, may happen again in another
    /// run.
    ///
    /// # Errors
    ///
    /// See [`CommitError`]. With each of them the operation is taken for one that [did not
    /// happen](Operation::did_not_happen): what the handler returns is given, but not kept, and the client may try again with
    /// the same key. But first the layer asks the store, and if it was committed after all, the caller gets that answer.
    ///
    /// After [`CommitError::RolledBack`] the handler may do it all again, in a new transaction. At an isolation above `READ
    /// COMMITTED` it has to be ready for that: the lease is renewed every now and then, which is a change of the same row.
    ///
    /// A connection may be lost without the server's knowledge. Its transaction then keeps the record locked until the server
    /// ends it: set `idle_in_transaction_session_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it may have committed or not; the layer finds out.
    pub async fn commit<B>(
        &self,
        transaction: impl JoinedTransaction,
        operation: &Operation,
        response: Response<B>,
    ) -> Result<Response<KeptBody<B>>, CommitError>
    where
        B: Body<Data = Bytes>,
    {
        let completion = self.completion(operation, response).await?;
        let outermost = execute(&transaction, &completion.change).await?;
        let written = completion.written(u64::from(outermost.is_some()))?;
        transaction.commit().await.map_err(not_committed)?;
        // A savepoint that was rolled back stays open: it cannot be told from one that was released just now.
        if outermost == Some(false) {
            let operation = written.operation();
            self.is_completed(operation.record(), operation.token())
                .await?;
        }
        Ok(written.committed())
    }

    async fn is_completed(&self, key: &RecordKey, token: Token) -> Result<(), CommitError> {
        let found = self
            .execute(
                &self.statements.completed,
                &[&key.0.as_slice(), &token.0.as_slice()],
                |row| Ok(Some(row.is_some())),
            )
            .await;
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Unknown(
                "this was a savepoint, and the transaction around it is not committed".into(),
            )),
            Err(error) => Err(CommitError::Unknown(error.into())),
        }
    }
}

/// `None` if the record was lost, else whether no savepoint is open.
async fn execute(
    transaction: &impl JoinedTransaction,
    change: &Change,
) -> Result<Option<bool>, CommitError> {
    let statement = format!("{} {IS_OUTERMOST}", change.statement());
    // Not prepared: parsed and executed in one round trip, on a connection that need not keep it.
    let rows = transaction
        .joined()
        .query_typed(
            &statement,
            &[
                (&change.key(), Type::BYTEA),
                (&change.token().as_slice(), Type::BYTEA),
                (&change.answer(), Type::BYTEA),
                (&change.ttl(), Type::INT8),
            ],
        )
        .await
        .map_err(|error| CommitError::RolledBack(explained(error)))?;
    rows.first()
        .map(|row| row.try_get(0))
        .transpose()
        .map_err(|error| CommitError::RolledBack(error.into()))
}

/// What the server refused to commit it has rolled back; but it may as well have been cut off behind the commit.
fn not_committed(error: Error) -> CommitError {
    let is_refusal = error.code().is_some_and(|code| {
        let class = code.code().get(..2).unwrap_or_default();
        *code != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
            && ["22", "23", "25", "40", "42", "44", "P0"].contains(&class)
    });
    let why = explained(error);
    if is_refusal {
        CommitError::RolledBack(why)
    } else {
        CommitError::Unknown(why)
    }
}

/// Why effect and record were not committed, or are not known to be.
///
/// The message includes that of the cause, so the [`source`](std::error::Error::source) is what is behind the cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// The record is another holder's by now, or done, or gone. The transaction was rolled back.
    Lost,
    /// The response cannot be recorded. The transaction was rolled back.
    Response(BoxError),
    /// The server refused. The transaction was rolled back.
    RolledBack(BoxError),
    /// The connection was lost during the commit: it may have happened or not.
    Unknown(BoxError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str(
                "the operation is not this handler's any more: its transaction was rolled back",
            ),
            Self::Response(cause) => write!(
                f,
                "the response cannot be recorded, so the transaction was rolled back: {cause}"
            ),
            Self::RolledBack(cause) => write!(f, "the transaction was rolled back: {cause}"),
            Self::Unknown(cause) => write!(
                f,
                "it is not known whether the transaction was committed: {cause}"
            ),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lost => None,
            // The message has named the cause itself already.
            Self::Response(cause) | Self::RolledBack(cause) | Self::Unknown(cause) => {
                cause.source()
            }
        }
    }
}

/// A transaction that a record can join: of `tokio-postgres`, or of `deadpool-postgres`. Dropped, it is rolled back.
pub trait JoinedTransaction: sealed::Sealed + Send + Sync {
    #[doc(hidden)]
    fn joined(&self) -> &tokio_postgres::Transaction<'_>;

    #[doc(hidden)]
    fn commit(self) -> impl Future<Output = Result<(), Error>> + Send;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio_postgres::Transaction<'_> {}
    impl Sealed for deadpool_postgres::Transaction<'_> {}
}

impl JoinedTransaction for tokio_postgres::Transaction<'_> {
    fn joined(&self) -> &tokio_postgres::Transaction<'_> {
        self
    }

    fn commit(self) -> impl Future<Output = Result<(), Error>> + Send {
        self.commit()
    }
}

impl JoinedTransaction for deadpool_postgres::Transaction<'_> {
    fn joined(&self) -> &tokio_postgres::Transaction<'_> {
        self
    }

    fn commit(self) -> impl Future<Output = Result<(), Error>> + Send {
        self.commit()
    }
}

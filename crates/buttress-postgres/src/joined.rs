//! Commits effect and record in one transaction.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use deadpool_postgres::ClientWrapper;
use http_body::Body;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};

use super::commit_error::CommitError;
use super::rows::micros;
use super::session::{self, ATTEMPTS, InUse, Trouble};
use super::{PostgresStore, spread};
use buttress::clock::Now;
use buttress::idempotency::store::StoreError;
use buttress::idempotency::store::joined::Finished;
use buttress::idempotency::{Operation, StoredBody};
use buttress::{BoxError, Deadline};

/// How often a transaction is retried that was rolled back because of a concurrent one.
const RETRIES: u32 = 5;
/// The pause before the first retry. It doubles.
const PAUSE: Duration = Duration::from_millis(2);

/// The transaction of [`PostgresStore::joined`].
pub struct JoinedTransaction {
    connection: Arc<InUse>,
}

impl Deref for JoinedTransaction {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.connection
    }
}

impl fmt::Debug for JoinedTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinedTransaction").finish_non_exhaustive()
    }
}

/// Why an attempt failed, and whether another one may succeed.
struct Failure {
    error: CommitError,
    is_conflict: bool,
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self {
            error,
            is_conflict: false,
        }
    }
}

impl PostgresStore {
    /// Runs a closure in a transaction, records its response in the same transaction, and commits both together or neither. The
    /// caller gets what was recorded.
    ///
    /// ```
    /// use axum::extract::State;
    /// use axum::http::StatusCode;
    /// use axum::response::{IntoResponse, Response};
    /// use buttress::idempotency::Operation;
    /// use buttress_postgres::PostgresStore;
    ///
    /// async fn pay(
    ///     State(store): State<PostgresStore>,
    ///     operation: Operation,
    ///     amount: String,
    /// ) -> Result<Response, StatusCode> {
    ///     let amount = &amount; // the closure may be called again
    ///     let paid = store.joined(&operation, |transaction| async move {
    ///         transaction.execute("INSERT INTO payments (amount) VALUES ($1)", &[amount]).await?;
    ///         Ok((StatusCode::CREATED, "paid").into_response())
    ///     });
    ///     let response = paid.await.map_err(|error| {
    ///         eprintln!("{error}");
    ///         StatusCode::SERVICE_UNAVAILABLE
    ///     })?;
    ///     Ok(response.into_response())
    /// }
    /// # use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
    /// # fn start(store: PostgresStore) -> Result<axum::Router, buttress::ConfigError> {
    ///
    /// let layer = IdempotencyLayer::new("payments", store.clone(), Scope::Global, IdempotencyConfig::default())?;
    /// let app = axum::Router::new()
    ///     .route("/payments", axum::routing::post(pay))
    ///     .with_state(store)
    ///     .layer(buttress::http::handle_rejections(layer));
    /// # Ok(app) }
    /// # fn main() {}
    /// ```
    ///
    /// The transaction has the methods of [`tokio_postgres::Client`] that need no `&mut` (`execute`, `query`, `batch_execute` and
    /// others), and `prepare_cached`. Do not end it yourself: statements after a `COMMIT` are not part of it.
    ///
    /// **Only changes made through the transaction are rolled back with it.** A call to another service may happen again in a
    /// retry or in another run.
    ///
    /// The connection comes from a pool of its own, or from [`transaction_pool`](Self::transaction_pool). For another isolation
    /// level than the database's default, execute `SET TRANSACTION ISOLATION LEVEL …` first: renewals of the lease never
    /// conflict with the transaction.
    ///
    /// # Retries
    ///
    /// A transaction that fails with 40001 (serialization failure) or 40P01 (deadlock) is rolled back, and the closure called
    /// again, at most five times and not after the [deadline](buttress::Deadline). The closure's error counts if a
    /// [`tokio_postgres::Error`] is in its chain of sources.
    ///
    /// # Errors
    ///
    /// See [`CommitError`]. With each of them the operation counts as one that [did not happen](Operation::did_not_happen): the
    /// caller gets what the handler returns, and the client may try again with the same key. If it is unknown whether the
    /// transaction was committed, the layer reads the record first, which waits for the transaction's end: the key is released
    /// only if it was not.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it may have committed or not; the layer reads the record to find out.
    pub async fn joined<B, F, Fut>(
        &self,
        operation: &Operation,
        mut work: F,
    ) -> Result<Response<StoredBody<B>>, CommitError>
    where
        B: Body<Data = Bytes>,
        F: FnMut(JoinedTransaction) -> Fut,
        Fut: Future<Output = Result<Response<B>, BoxError>>,
    {
        // Every return except after a commit is a rollback.
        operation.did_not_happen();
        let mut pause = PAUSE;
        for _ in 0..RETRIES {
            match self.attempt(operation, &mut work).await {
                Err(failure) if failure.is_conflict && !is_late() => {}
                result => return result.map_err(|failure| failure.error),
            }
            sleep(spread(pause)).await;
            pause *= 2;
        }
        let last = self.attempt(operation, &mut work).await;
        last.map_err(|failure| failure.error)
    }

    async fn attempt<B, F, Fut>(
        &self,
        operation: &Operation,
        work: &mut F,
    ) -> Result<Response<StoredBody<B>>, Failure>
    where
        B: Body<Data = Bytes>,
        F: FnMut(JoinedTransaction) -> Fut,
        Fut: Future<Output = Result<Response<B>, BoxError>>,
    {
        let begun = self.begin_transaction().await;
        let connection = Arc::new(begun.map_err(|error| CommitError::RolledBack(error.into()))?);
        let transaction = JoinedTransaction {
            connection: Arc::clone(&connection),
        };
        let result = work(transaction).await;
        let Some(connection) = Arc::into_inner(connection) else {
            let why =
                "the closure kept its transaction after it returned; drop every copy of it before";
            return Err(CommitError::Work(why.into()).into());
        };
        let finished = match result {
            Ok(response) => Finished::new(operation, response)
                .await
                .map_err(|why| CommitError::Response(why).into()),
            Err(error) => Err(Failure {
                is_conflict: has_conflict(&*error),
                error: CommitError::Work(error),
            }),
        };
        let finished = match finished {
            Ok(finished) => finished,
            Err(failure) => {
                self.roll_back(connection).await;
                return Err(failure);
            }
        };
        match self.commit(connection, &finished).await {
            Err(Failure {
                error: CommitError::Unknown(why),
                ..
            }) => self.outcome(&finished, why).await?,
            committed => committed?,
        }
        Ok(finished.committed())
    }

    async fn begin_transaction(&self) -> Result<InUse, StoreError> {
        let attempts = async {
            let mut last = None;
            for _ in 0..ATTEMPTS {
                let connection = InUse::of(&self.transactions).await;
                let connection = connection.map_err(session::no_connection)?;
                let Err(error) = connection.batch_execute("BEGIN").await else {
                    return Ok(connection);
                };
                match session::after(error, connection) {
                    Trouble::Passing(error) => last = Some(error),
                    Trouble::Lasting(error) => return Err(error),
                }
            }
            Err(last.map_or_else(session::contended, session::failed))
        };
        session::limited(self.timeout, attempts).await
    }

    /// A connection on which this fails is closed, which rolls back too.
    async fn roll_back(&self, connection: InUse) {
        if let Ok(Ok(())) = timeout(self.timeout, connection.batch_execute("ROLLBACK")).await {
            connection.give_back();
        }
    }

    /// Records and commits in one round trip: without a record to complete, the first statement fails, and the second one rolls
    /// back.
    async fn commit<B>(&self, connection: InUse, finished: &Finished<B>) -> Result<(), Failure> {
        let completion = &self.statements.completion_or_error;
        let completion = connection.prepare_cached(completion).await;
        let completion = completion.map_err(rolled_back)?;
        let (key, token) = (&finished.key().0[..], &finished.token().0[..]);
        let (record, ttl) = (&finished.record()[..], micros(finished.ttl()));
        let (recorded, committed) = {
            let parameters: session::Parameters<'_> = &[&key, &token, &record, &ttl];
            let mut recording = pin!(connection.query_one(&completion, parameters));
            // It is sent now, and the commit after it.
            let sent = poll_fn(|cx| Poll::Ready(recording.as_mut().poll(cx))).await;
            let committing = connection.batch_execute("COMMIT");
            match sent {
                Poll::Ready(recorded) => (recorded, committing.await),
                Poll::Pending => tokio::join!(recording, committing),
            }
        };
        if committed.is_ok() {
            connection.give_back();
        }
        match (recorded, committed) {
            (Ok(_), Ok(())) => Ok(()),
            (Ok(_), Err(error)) => Err(not_committed(error)),
            (Err(error), _) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Err(CommitError::Lost.into())
            }
            (Err(error), _) if error.code().is_some() => Err(rolled_back(error)),
            (Err(error), _) => Err(CommitError::Unknown(error.into()).into()),
        }
    }

    /// Reads the outcome of a commit that was not acknowledged. The row lock waits for the end of the transaction.
    async fn outcome<B>(&self, finished: &Finished<B>, why: BoxError) -> Result<(), CommitError> {
        let (key, token) = (&finished.key().0[..], &finished.token().0[..]);
        let outcome = &self.statements.outcome;
        let parameters: session::Parameters<'_> = &[&key, &token];
        let found = self.execute(outcome, parameters, |row| {
            let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
            let found = row.map(read).transpose();
            found
                .map(Some)
                .map_err(|error: Error| StoreError::unavailable(error))
        });
        match found.await {
            Ok(Some((true, true))) => Ok(()),
            Ok(Some((true, false))) => Err(CommitError::RolledBack(why)),
            Ok(_) | Err(_) => Err(CommitError::Unknown(why)),
        }
    }
}

fn is_late() -> bool {
    Deadline::current().is_some_and(|deadline| deadline.is_over(&Now::unread()))
}

/// Whether the server rolled back because of a concurrent transaction.
fn has_conflict(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.code().is_some_and(session::is_conflict);
        }
        next = error.source();
    }
    false
}

fn rolled_back(error: Error) -> Failure {
    Failure {
        is_conflict: error.code().is_some_and(session::is_conflict),
        error: CommitError::RolledBack(session::explained(error)),
    }
}

/// An error of these classes means that the server rolled back. With any other the connection may have failed after the commit.
fn not_committed(error: Error) -> Failure {
    let is_refusal = error.code().is_some_and(|code| {
        let class = code.code().get(..2).unwrap_or_default();
        *code != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
            && ["22", "23", "25", "40", "42", "44", "P0"].contains(&class)
    });
    if is_refusal {
        rolled_back(error)
    } else {
        CommitError::Unknown(session::explained(error)).into()
    }
}

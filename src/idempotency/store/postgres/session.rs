//! One statement on one connection of the pool: time limit, repetition, errors.

use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use crate::error::BoxError;
use crate::idempotency::store::StoreError;

/// How often a statement is executed at most: others came in between, or connections were found closed.
const ATTEMPTS: usize = 8;

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection that leaves the pool unless its statement came to an end: what follows would wait for the answer of that
/// statement.
struct InUse(Option<Object>);

impl InUse {
    async fn query(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        let Some(client) = &self.0 else {
            return Ok(None);
        };
        let statement = client.prepare_cached(sql).await?;
        client.query_opt(&statement, parameters).await
    }

    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// Executes a statement of at most one row, again and again until `read` says what the row means.
pub(super) async fn execute<T>(
    pool: &Pool,
    limit: Duration,
    sql: &str,
    parameters: Parameters<'_>,
    read: impl Fn(Option<&Row>) -> Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    let attempts = async {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match attempt(pool, sql, parameters).await {
                Ok(row) => {
                    if let Some(meaning) = read(row.as_ref())? {
                        return Ok(meaning);
                    }
                }
                Err(Trouble::Passing(error)) => last = Some(error),
                Err(Trouble::Lasting(error)) => return Err(error),
            }
        }
        Err(last.map_or_else(
            || StoreError::unavailable(format!("others came in between, {ATTEMPTS} times")),
            failed,
        ))
    };
    tokio::time::timeout(limit, attempts)
        .await
        .unwrap_or_else(|_| Err(late(limit)))
}

/// Executes several statements in one transaction, once.
pub(super) async fn execute_all(pool: &Pool, limit: Duration, sql: &str) -> Result<(), StoreError> {
    let all = async {
        let connection = InUse(Some(pool.get().await.map_err(no_connection)?));
        if let Some(client) = &connection.0 {
            client.batch_execute(sql).await.map_err(failed)?;
        }
        connection.give_back();
        Ok(())
    };
    tokio::time::timeout(limit, all)
        .await
        .unwrap_or_else(|_| Err(late(limit)))
}

fn late(limit: Duration) -> StoreError {
    StoreError::unavailable(format!("PostgreSQL did not answer within {limit:?}"))
}

/// Why an attempt failed.
enum Trouble {
    /// Another one may succeed.
    Passing(Error),
    Lasting(StoreError),
}

async fn attempt(
    pool: &Pool,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Option<Row>, Trouble> {
    let connection = match pool.get().await {
        Ok(connection) => InUse(Some(connection)),
        Err(error) => return Err(Trouble::Lasting(no_connection(error))),
    };
    let result = connection.query(sql, parameters).await;
    let error = match result {
        Ok(row) => {
            connection.give_back();
            return Ok(row);
        }
        Err(error) => error,
    };
    let next = Next::after(&error);
    if matches!(next, Next::Again | Next::Fail) {
        connection.give_back();
    }
    Err(match next {
        Next::Again | Next::Elsewhere => Trouble::Passing(error),
        Next::Fail | Next::FailAndClose => Trouble::Lasting(failed(error)),
    })
}

/// What an error leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It had no effect, and may have one now.
    Again,
    /// The connection is of no more use. What was executed may be executed again: it is the same holder's.
    Elsewhere,
    /// It will not get better.
    Fail,
    /// Neither will the connection.
    FailAndClose,
}

impl Next {
    fn after(error: &Error) -> Self {
        let Some(code) = error.code() else {
            return if error.is_closed() {
                Self::Elsewhere
            } else {
                Self::FailAndClose
            };
        };
        let code = code.clone();
        if code == SqlState::T_R_SERIALIZATION_FAILURE || code == SqlState::T_R_DEADLOCK_DETECTED {
            Self::Again
        } else if [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::IDLE_SESSION_TIMEOUT,
            // The prepared statement is gone, or its columns have changed.
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::FEATURE_NOT_SUPPORTED,
        ]
        .contains(&code)
        {
            Self::Elsewhere
        } else if code == SqlState::READ_ONLY_SQL_TRANSACTION {
            // The server became a standby: the next connection may lead to the new primary.
            Self::FailAndClose
        } else {
            Self::Fail
        }
    }
}

fn no_connection(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => failed(error),
        error => StoreError::unavailable(error),
    }
}

/// What an error of the client means for a caller of the store.
pub(super) fn failed(error: Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL || *code == SqlState::PROGRAM_LIMIT_EXCEEDED => {
            StoreError::Full(explained(error).to_string())
        }
        _ => StoreError::Unavailable(explained(error)),
    }
}

/// The error with what the server said, and its code.
pub(super) fn explained(error: Error) -> BoxError {
    let Some(said) = error.as_db_error() else {
        return error.into();
    };
    let code = said.code();
    let mut message = format!("{} ({})", said.message(), code.code());
    if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN {
        message.push_str(": `PostgresStore::migrate` makes the table");
    }
    // Not as a source: its message would say the same again.
    message.into()
}

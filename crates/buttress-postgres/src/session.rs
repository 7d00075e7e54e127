//! Executes one statement on one connection of the pool: time limit, retries, errors.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, SimpleQueryMessage, SimpleQueryRow};

use buttress::BoxError;
use buttress::idempotency::store::StoreError;

/// How often a statement is executed at most, if concurrent calls interfere or connections are closed.
pub(super) const ATTEMPTS: usize = 8;

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement that is prepared on its connection, or several that are sent as text, in one transaction.
#[derive(Clone, Copy)]
pub(super) enum Statement<'a> {
    Prepared(&'a str, Parameters<'a>),
    Text(&'a str),
}

pub(super) enum Rows {
    Typed(Vec<Row>),
    Text(Vec<SimpleQueryRow>),
}

impl Rows {
    /// The rows of a prepared statement.
    pub(super) fn all_typed(&self) -> &[Row] {
        match self {
            Self::Typed(rows) => rows,
            Self::Text(_) => &[],
        }
    }

    pub(super) fn typed(&self) -> Option<&Row> {
        self.all_typed().first()
    }

    /// The last row of statements sent as text. A row that was only locked has no columns.
    pub(super) fn text(&self) -> Option<&SimpleQueryRow> {
        match self {
            Self::Typed(_) => None,
            Self::Text(rows) => rows.last().filter(|row| !row.is_empty()),
        }
    }
}

/// A connection that is removed from the pool unless its statement has ended: the next statement would wait for its response.
pub(super) struct InUse(Option<Object>);

impl InUse {
    pub(super) async fn of(pool: &Pool) -> Result<Self, PoolError> {
        pool.get().await.map(|connection| Self(Some(connection)))
    }

    async fn run(&self, statement: Statement<'_>) -> Result<Rows, Error> {
        match statement {
            Statement::Prepared(sql, parameters) => {
                let statement = self.prepare_cached(sql).await?;
                let rows = self.query(&statement, parameters).await?;
                Ok(Rows::Typed(rows))
            }
            Statement::Text(sql) => {
                let messages = self.simple_query(sql).await?;
                let rows = messages.into_iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                Ok(Rows::Text(rows.collect()))
            }
        }
    }

    pub(super) fn give_back(mut self) {
        self.0.take();
    }
}

impl Deref for InUse {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        let connection = self.0.as_deref();
        connection.expect("the connection is present until it is given back or dropped")
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// Executes a statement until `read` returns a result for its rows.
pub(super) async fn execute<T>(
    pool: &Pool,
    limit: Duration,
    statement: Statement<'_>,
    read: impl Fn(&Rows) -> Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    let attempts = async {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match attempt(pool, statement).await {
                Ok(rows) => {
                    if let Some(meaning) = read(&rows)? {
                        return Ok(meaning);
                    }
                }
                Err(Trouble::Passing(error)) => last = Some(error),
                Err(Trouble::Lasting(error)) => return Err(error),
            }
        }
        Err(last.map_or_else(contended, failed))
    };
    limited(limit, attempts).await
}

pub(super) fn contended() -> StoreError {
    StoreError::unavailable(format!(
        "concurrent calls changed the record {ATTEMPTS} times in a row; try again"
    ))
}

/// Ends work that takes longer than the limit.
pub(super) async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(late(limit)))
}

fn late(limit: Duration) -> StoreError {
    StoreError::unavailable(format!("PostgreSQL did not respond within {limit:?}"))
}

/// Why an attempt failed.
pub(super) enum Trouble {
    /// Another one may succeed.
    Passing(Error),
    Lasting(StoreError),
}

async fn attempt(pool: &Pool, statement: Statement<'_>) -> Result<Rows, Trouble> {
    let connection = InUse::of(pool)
        .await
        .map_err(|error| Trouble::Lasting(no_connection(error)))?;
    let error = match connection.run(statement).await {
        Ok(rows) => {
            connection.give_back();
            return Ok(rows);
        }
        Err(error) => error,
    };
    Err(after(error, connection))
}

/// Handles an error: whether to execute the statement again, and whether the connection is still usable.
pub(super) fn after(error: Error, connection: InUse) -> Trouble {
    let next = Next::after(&error);
    if matches!(next, Next::Retry | Next::Fail) {
        connection.give_back();
    }
    match next {
        Next::Retry | Next::Elsewhere => Trouble::Passing(error),
        Next::Fail | Next::FailAndClose => Trouble::Lasting(failed(error)),
    }
}

/// The reaction to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Execute the statement again on the same connection: it had no effect.
    Retry,
    /// Execute the statement again on another connection. It is idempotent for the same holder.
    Elsewhere,
    /// Report the error.
    Fail,
    /// Report the error and close the connection.
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
        if is_conflict(&code) {
            Self::Retry
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

/// Whether the statement may succeed in another transaction.
pub(super) fn is_conflict(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

pub(super) fn no_connection(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => failed(error),
        error => StoreError::unavailable(error),
    }
}

/// Maps an error of the client.
pub(super) fn failed(error: Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL || *code == SqlState::PROGRAM_LIMIT_EXCEEDED => {
            StoreError::Full(explained(error).to_string())
        }
        _ => StoreError::Unavailable(explained(error)),
    }
}

/// The error with the message of the server and its code.
pub(super) fn explained(error: Error) -> BoxError {
    let Some(reported) = error.as_db_error() else {
        return error.into();
    };
    let code = reported.code();
    let mut message = format!("{} ({})", reported.message(), code.code());
    if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN {
        message.push_str("; call `PostgresStore::migrate` to create the table");
    }
    // The error is not the source, because its message would repeat this one.
    message.into()
}

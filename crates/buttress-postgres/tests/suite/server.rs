//! The server that these tests need.

use std::env;
use std::fmt::Display;

const LOCAL: &str = "postgres://postgres@127.0.0.1:5432/postgres";

/// Its URL: from `DATABASE_URL`, or the usual local port.
pub(crate) fn url() -> String {
    env::var("DATABASE_URL").unwrap_or_else(|_| LOCAL.to_owned())
}

/// The connection, or a panic that explains how to start the server.
pub(crate) fn reached<T, E: Display>(connected: Result<T, E>) -> T {
    connected.unwrap_or_else(|error| {
        panic!(
            "this test needs PostgreSQL, at $DATABASE_URL or else at {LOCAL}: {error}\n\
             `scripts/services.sh cargo test …` starts one, and stops it afterwards"
        )
    })
}

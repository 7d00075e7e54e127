//! The addresses of servers that tests need.
#![allow(dead_code, reason = "the use depends on the features")]

use std::env;
use std::fmt::Display;

/// A running server.
pub(crate) struct Server {
    name: &'static str,
    variable: &'static str,
    local: &'static str,
}

pub(crate) const REDIS: Server = Server {
    name: "Redis",
    variable: "REDIS_URL",
    local: "redis://127.0.0.1:6379",
};

pub(crate) const POSTGRES: Server = Server {
    name: "PostgreSQL",
    variable: "DATABASE_URL",
    local: "postgres://postgres@127.0.0.1:5432/postgres",
};

impl Server {
    /// Its URL: from its variable, or the usual local port.
    pub(crate) fn url(&self) -> String {
        env::var(self.variable).unwrap_or_else(|_| self.local.to_owned())
    }

    /// The connection, or a panic that explains how to start the server.
    pub(crate) fn reached<T, E: Display>(&self, connected: Result<T, E>) -> T {
        let Self {
            name,
            variable,
            local,
        } = self;
        connected.unwrap_or_else(|error| {
            panic!(
                "this test needs {name}, at ${variable} or else at {local}: {error}\n\
                 `scripts/services.sh cargo test --all-features` brings one up, and ends it afterwards"
            )
        })
    }
}

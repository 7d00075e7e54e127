//! A pool of the store's own.

use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool, Runtime};
use tokio_postgres::{Config, NoTls};

use super::PostgresStore;
use crate::error::ConfigError;

/// Each claim holds a connection for one round trip only: these are some thousand claims a second.
const CONNECTIONS: usize = 10;
const CONNECT: Duration = Duration::from_secs(2);
/// Less than the store's own limit: the server gives up first, and says why.
const STATEMENT: &str = "-c statement_timeout=4s -c default_transaction_isolation=read\\ committed";

impl PostgresStore {
    /// A store with up to 10 connections of its own, without TLS, to `url`: `postgres://user:password@host:port/database`,
    /// or `host=… user=…`. Nothing is connected yet.
    ///
    /// What the address does not say is set for each connection: 2 s to connect, and on the server 4 s a statement. They are
    /// sent as start-up options, which some poolers refuse. For these, and for TLS: [`with`](Self::with).
    ///
    /// # Errors
    ///
    /// The address cannot be read.
    pub fn connect(url: &str) -> Result<Self, ConfigError> {
        // The address may hold a password: it is not shown, and what the parser says of it neither.
        let invalid = || {
            ConfigError::new(
                "url",
                "(not shown)",
                "`postgres://user:password@host:port/database`, or `host=… user=…`",
            )
            .of("store", "postgres")
        };
        let mut config = Config::from_str(url).map_err(|_| invalid())?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(invalid());
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name("buttress");
        }
        // What comes later wins.
        let options = match config.get_options() {
            Some(own) => format!("{STATEMENT} {own}"),
            None => STATEMENT.to_owned(),
        };
        config.options(options);
        let pool = Pool::builder(Manager::new(config, NoTls))
            .max_size(CONNECTIONS)
            .create_timeout(Some(CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| invalid())?;
        Ok(Self::with(pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_read_is_refused_and_not_shown() {
        for url in [
            "",
            "postgres://",
            "secret",
            "postgres://a:secret@h:port/x",
            "secret=1",
        ] {
            let error = PostgresStore::connect(url).expect_err(url).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("`url`"), "{error}");
        }
    }
}

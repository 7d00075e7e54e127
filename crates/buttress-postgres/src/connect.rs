//! Connection pools that the store creates.

use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool, Runtime};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use super::PostgresStore;
use buttress::ConfigError;

/// Enough for some thousand claims a second, because each holds a connection for one round trip.
const CONNECTIONS: usize = 10;
const CONNECT: Duration = Duration::from_secs(2);
/// Shorter than the time limit of the store, so the server gives up first and reports why.
const STATEMENT: &str = "-c statement_timeout=4s -c default_transaction_isolation=read\\ committed";

impl PostgresStore {
    /// A store with connections of its own to `url`, without TLS: `postgres://user:password@host:port/database`, or
    /// `host=… user=…`. Nothing is connected yet.
    ///
    /// There are up to 10 connections for the records, and up to 10 more for the transactions of [`joined`](Self::joined), opened
    /// as they are needed.
    ///
    /// Settings missing from the address get a default for each connection for the records: 2 s to connect, and on the server 4 s a
    /// statement. They are sent as start-up options, which some poolers refuse. For these: [`with`](Self::with).
    ///
    /// # Errors
    ///
    /// The address cannot be read, or requires TLS (`sslmode=require`): use [`connect_with`](Self::connect_with). With the default,
    /// `sslmode=prefer`, the connection is not encrypted.
    pub fn connect(url: &str) -> Result<Self, ConfigError> {
        let config = parsed(url)?;
        let needs_tls = config.get_ssl_mode() == SslMode::Require
            || config.get_ssl_negotiation() == SslNegotiation::Direct
            || config.get_channel_binding() == ChannelBinding::Require;
        if needs_tls {
            let expected = "an address that does not require TLS; \
                 use `PostgresStore::connect_with(url, tls)` with a connector such as tokio-postgres-rustls";
            return Err(invalid(expected));
        }
        pooled(config, NoTls)
    }

    /// As [`connect`](Self::connect), with TLS as the address requires it, by a connector such as those of the crates
    /// `tokio-postgres-rustls`, `postgres-native-tls` and `postgres-openssl`. The connector decides which certificates are
    /// accepted.
    ///
    /// Write `sslmode=require` into the address: with `prefer`, the default, a server without TLS gets the password unencrypted.
    ///
    /// # Errors
    ///
    /// The address cannot be read.
    pub fn connect_with<T>(url: &str, tls: T) -> Result<Self, ConfigError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        pooled(parsed(url)?, tls)
    }
}

/// The address may hold a password, so neither it nor the parser's message is shown.
fn invalid(expected: &'static str) -> ConfigError {
    super::invalid("url", "(not shown)", expected)
}

fn unreadable() -> ConfigError {
    invalid("`postgres://user:password@host:port/database`, or `host=… user=…`")
}

fn parsed(url: &str) -> Result<Config, ConfigError> {
    let mut config = Config::from_str(url).map_err(|_| unreadable())?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(unreadable());
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_application_name().is_none() {
        config.application_name("buttress");
    }
    Ok(config)
}

fn pooled<T>(config: Config, tls: T) -> Result<PostgresStore, ConfigError>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let pool = |config, tls| {
        Pool::builder(Manager::new(config, tls))
            .max_size(CONNECTIONS)
            .create_timeout(Some(CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| unreadable())
    };
    // A handler's statements may take as long as they need, at the isolation level of the database.
    let transactions = pool(config.clone(), tls.clone())?;
    let mut config = config;
    // A later option overrides an earlier one.
    let options = match config.get_options() {
        Some(own) => format!("{STATEMENT} {own}"),
        None => STATEMENT.to_owned(),
    };
    config.options(options);
    Ok(PostgresStore::with(pool(config, tls)?).transaction_pool(transactions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_requires_tls_is_refused_with_the_way_out() {
        for option in [
            "sslmode=require",
            "sslnegotiation=direct",
            "channel_binding=require",
        ] {
            let url = format!("postgres://a:secret@localhost/x?{option}");
            let error = PostgresStore::connect(&url).expect_err(&url).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("`PostgresStore::connect_with"), "{error}");
            assert!(PostgresStore::connect_with(&url, NoTls).is_ok());
        }
        for option in ["sslmode=prefer", "sslmode=disable"] {
            let url = format!("postgres://localhost/x?{option}");
            assert!(PostgresStore::connect(&url).is_ok(), "{url}");
        }
    }

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

//! The command line.

use std::fmt;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Consume orders from a `JetStream` work queue and apply each of them once.
#[derive(Clone, Debug, Parser)]
#[command(name = "nats_consumer")]
pub(crate) struct Args {
    /// The role of this process
    #[arg(long, value_enum, default_value_t = Role::Demonstration)]
    pub(crate) role: Role,

    /// Where consumers store which orders they have applied
    #[arg(long, value_enum, default_value_t = Kind::File)]
    pub(crate) store: Kind,

    /// How many orders the demonstration publishes (default: 200, with --quick 60)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orders: Option<u32>,

    /// A demonstration of a few seconds
    #[arg(long)]
    pub(crate) quick: bool,

    /// Apply orders without the layer, for comparison
    #[arg(long)]
    pub(crate) ignore_key: bool,

    /// The stream of a consumer
    #[arg(long, default_value = "orders")]
    pub(crate) stream: String,

    /// The folder of a consumer's ledger and of its file store
    #[arg(long, default_value = ".")]
    pub(crate) folder: PathBuf,

    /// Stop when the standard input is closed
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Publish orders, start consumers, kill some, and count
    Demonstration,
    /// Consume until Ctrl-C
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A file, for one consumer at a time
    File,
    /// Redis, at `REDIS_URL`
    Redis,
    /// `PostgreSQL`, at `DATABASE_URL`
    Postgres,
}

impl Kind {
    /// The variable that has the address of the server.
    pub(crate) fn variable(self) -> Option<&'static str> {
        match self {
            Self::File => None,
            Self::Redis => Some("REDIS_URL"),
            Self::Postgres => Some("DATABASE_URL"),
        }
    }

    /// How many consumers may share the store.
    pub(crate) fn consumers(self) -> usize {
        match self {
            Self::File => 1,
            Self::Redis | Self::Postgres => 3,
        }
    }
}

/// As on the command line.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        })
    }
}

impl Args {
    pub(crate) fn orders(&self) -> u32 {
        self.orders.unwrap_or(if self.quick { 60 } else { 200 })
    }

    /// How many consumers the demonstration kills.
    pub(crate) fn kills(&self) -> u32 {
        if self.quick { 3 } else { 6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}

//! The command line, parsed into valid values.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueEnum};

/// Pay many orders through a network that loses, delays and duplicates, to a service that pays each of them once.
#[derive(Debug, Clone, Parser)]
#[command(name = "payments")]
pub(crate) struct Args {
    /// The store of the service
    #[arg(long, value_enum, default_value_t = Kind::File)]
    pub(crate) store: Kind,

    /// The address of Redis or `PostgreSQL` (default: `REDIS_URL` or `DATABASE_URL`, else the usual port of this machine)
    #[arg(long)]
    pub(crate) url: Option<String>,

    /// The file of the file store, which is not deleted (default: a temporary file, which is)
    #[arg(long)]
    pub(crate) path: Option<PathBuf>,

    /// Serve without the layer, for comparison
    #[arg(long)]
    pub(crate) ignore_key: bool,

    /// How many orders are paid (default: 1000, with --quick 300)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orders: Option<u32>,

    /// Where the network's whims start from; the same seed gives each order the same ones
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// A run of a few seconds
    #[arg(long)]
    quick: bool,

    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The memory of the process
    Memory,
    /// A file, for one process
    File,
    /// Redis
    Redis,
    /// A table of `PostgreSQL`; record and payment are committed together
    Postgres,
}

impl Args {
    /// Reads the command line; on an error prints the reason and the usage, and exits with 2.
    pub(crate) fn read() -> Self {
        let args = Self::parse();
        if let Some(what) = args.contradiction() {
            let error = clap::error::ErrorKind::ArgumentConflict;
            Self::command().error(error, what).exit();
        }
        args
    }

    fn contradiction(&self) -> Option<&'static str> {
        let served = matches!(self.store, Kind::Redis | Kind::Postgres);
        if self.url.is_some() && !served {
            Some("--url is for --store redis and --store postgres")
        } else if self.path.is_some() && self.store != Kind::File {
            Some("--path is for --store file")
        } else {
            None
        }
    }

    pub(crate) fn orders(&self) -> u32 {
        self.orders.unwrap_or(if self.quick { 300 } else { 1000 })
    }
}

impl Kind {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("payments").chain(flags.split_whitespace()))
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused_with_code_2() {
        for flags in [
            "--orders 0",
            "--orders 100001",
            "--orders few",
            "--seed -1",
            "--store disk",
            "--sotre file",
            "stray",
        ] {
            assert_eq!(parse(flags).expect_err(flags).exit_code(), 2, "{flags}");
        }
    }

    #[test]
    fn flags_of_another_store_are_a_contradiction() {
        for (flags, fits) in [
            ("--url redis://h", false),
            ("--store memory --path x", false),
            ("--store redis --path x", false),
            ("--store redis --url redis://h", true),
            ("--path x", true),
            ("--store memory --ignore-key", true),
        ] {
            let args = parse(flags).expect(flags);
            assert_eq!(args.contradiction().is_none(), fits, "{flags}");
        }
    }

    #[test]
    fn a_quick_run_has_fewer_orders_unless_they_are_counted() {
        let orders = |flags| parse(flags).unwrap().orders();
        assert!(orders("--quick") < orders(""));
        assert_eq!(orders("--quick --orders 5"), 5);
    }
}

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use buttress::idempotency::lookup::OperationState;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Look up operations with an idempotency key, and resolve those that stopped without a result.
#[derive(Debug, Clone, Parser)]
#[command(name = "repair")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) layer: Layer,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The store, and the settings of the service that matter here.
#[derive(Debug, Clone, Args)]
pub(crate) struct Layer {
    /// The store of the service
    #[arg(long, value_enum, global = true, default_value_t = Kind::File)]
    pub(crate) store: Kind,

    /// Address of Redis or `PostgreSQL` (default: `REDIS_URL` or `DATABASE_URL`)
    #[arg(long, global = true)]
    pub(crate) url: Option<String>,

    /// Path of the file store; stop the service first, because a file is for one process at a time
    #[arg(long, global = true)]
    pub(crate) path: Option<PathBuf>,

    /// Prefix of the keys in Redis, if the service has one of its own
    #[arg(long, global = true)]
    pub(crate) prefix: Option<String>,

    /// Table in `PostgreSQL`, if the service has one of its own
    #[arg(long, global = true)]
    pub(crate) table: Option<String>,

    /// Name of the idempotency layer
    #[arg(long, global = true, default_value = "payments")]
    pub(crate) name: String,

    /// The longest that a handler of the service may run
    #[arg(long, global = true, default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) max_run: Duration,

    /// How long to store a response that you record
    #[arg(long, global = true, default_value = "1day", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A file
    File,
    /// Redis
    Redis,
    /// A table of `PostgreSQL`
    Postgres,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// List operations
    List {
        /// Only those in this state: running, stopped, stored, `not_stored`, unknown, failed or unreadable
        #[arg(long)]
        state: Option<OperationState>,
        /// Only those whose key was first claimed this long ago or longer, such as 15m
        #[arg(long, value_parser = humantime::parse_duration)]
        older_than: Option<Duration>,
        /// How many to show at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one operation
    Show {
        /// Operation id or record key, or the first 8 digits of it or more
        record: String,
        /// Print the stored response, which may contain personal data
        #[arg(long)]
        body: bool,
    },
    /// Show the operation of a request
    Find(Request),
    /// Release the key: the next request runs the operation. For one that did not happen
    Release {
        /// Operation id or record key, or the first 8 digits of it or more
        record: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// Record a response, which repetitions get. For an operation that did happen, or must not happen any more
    Record {
        /// Operation id or record key, or the first 8 digits of it or more
        record: String,
        #[command(flatten)]
        seen: Seen,
        /// Status of the response
        #[arg(long)]
        status: StatusCode,
        /// Header of the response, as `name: value`; repeat it for more
        #[arg(long, value_parser = header)]
        header: Vec<(HeaderName, HeaderValue)>,
        /// Body of the response
        #[arg(long, default_value = "")]
        body: String,
    },
    /// Show how it works: a service that is killed in its handler, and two repairs
    Demo {
        /// Nothing changes: a demo takes a few seconds
        #[arg(long)]
        quick: bool,
    },
    /// The service of the demo
    #[command(hide = true)]
    Serve,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Seen {
    /// The run that you saw in `list` or `show`; nothing changes if there was another run since
    #[arg(long)]
    pub(crate) run: u32,
    /// Resolve even if the last run may still be at work, or replace a stored response
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Request {
    /// Path of the request as the client sent it, without the query
    pub(crate) target: String,
    /// The idempotency key, without quotes
    #[arg(long)]
    pub(crate) key: String,
    #[arg(long, default_value = "POST")]
    pub(crate) method: Method,
    /// The tenant, if the layer has a scope
    #[arg(long, default_value = "")]
    pub(crate) tenant: String,
    /// The path that the layer sees, if it is inside a nested router
    #[arg(long)]
    pub(crate) inner_path: Option<String>,
    /// The route, if the layer has a function for it
    #[arg(long)]
    pub(crate) route: Option<String>,
    /// Print the stored response, which may contain personal data
    #[arg(long)]
    pub(crate) body: bool,
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = line.split_once(':').ok_or("a header is `name: value`")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "not the name of a header")?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "not the value of a header")?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("repair").chain(line.split_whitespace()))
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_refused_with_code_2() {
        for line in [
            "",
            "list --state done",
            "list --older-than long",
            "release abc",
            "record abc --run 1",
            "record abc --run 1 --status 99",
            "record abc --run 1 --status 201 --header none",
            "--store disk list",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn settings_stand_before_or_after_the_command() {
        for line in [
            "--path x list --older-than 15m",
            "list --path x --older-than 15m",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.layer.path, Some("x".into()));
            let Command::List { older_than, .. } = cli.command else {
                panic!("{line}");
            };
            assert_eq!(older_than, Some(Duration::from_secs(900)));
        }
    }
}

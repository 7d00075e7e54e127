//! The command line, parsed into valid values.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, ValueEnum};

/// Below this a single piece of work takes so long that even a healthy response misses its time limit.
pub(crate) const MIN_CAPACITY: u32 = 10;
const MAX_CAPACITY: u32 = 400;

/// Break a real HTTP dependency twice, in the same way and under the same load: once behind a naive
/// client, once behind buttress.
#[derive(Debug, Clone, Parser)]
#[command(name = "outage")]
pub(crate) struct Args {
    /// What happens to the dependency
    #[arg(long, value_enum, default_value_t = Fault::Hang)]
    pub(crate) fault: Fault,

    /// How long the outage lasts (default: 15, with --quick 8)
    #[arg(long, value_name = "SECONDS", value_parser = seconds(3.0..=600.0))]
    outage: Option<Duration>,

    /// A run of 25 seconds: 2 healthy, 8 of outage, 12 after it, 3 to finish
    #[arg(long)]
    quick: bool,

    /// The load, as a fraction of the capacity
    #[arg(long, default_value = "0.8", value_parser = number(0.01..=1.0))]
    pub(crate) load: f64,

    /// Requests a second that each copy of the dependency can serve
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(i64::from(MIN_CAPACITY)..=i64::from(MAX_CAPACITY)))]
    pub(crate) capacity: u32,

    /// How long the dependency is three times slower after it refused (0: not at all)
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds(0.0..=60.0))]
    pub(crate) cold: Duration,

    /// Where the random arrivals start from; the same seed gives the same load
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// The first of the two ports to listen on (0: any two that are free)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=65534))]
    pub(crate) port: u16,

    /// Leave the breaker out of the protected client, to see the effect of the retry budget alone
    #[arg(long)]
    pub(crate) without_breaker: bool,

    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Its workers stop; requests are queued
    Hang,
    /// All work takes ten times as long
    Slow,
    /// The work is done, but the response is a 500
    Errors,
    /// It crashes: connections are reset and refused, and it starts cold
    Refuse,
}

/// How long each part of the run lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) healthy: Duration,
    pub(crate) outage: Duration,
    pub(crate) after: Duration,
    pub(crate) finish: Duration,
}

impl Args {
    /// Reads the command line; on an error prints the reason and the usage, and exits with 2.
    pub(crate) fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| explain(error).exit())
    }

    pub(crate) fn phases(&self) -> Phases {
        let (healthy, outage, after) = if self.quick { (2, 8, 12) } else { (5, 15, 30) };
        Phases {
            healthy: Duration::from_secs(healthy),
            outage: self.outage.unwrap_or(Duration::from_secs(outage)),
            after: Duration::from_secs(after),
            finish: Duration::from_secs(3),
        }
    }
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Slow => "slow",
            Self::Errors => "errors",
            Self::Refuse => "refuse",
        }
    }

    pub(crate) fn what_happens(self) -> &'static str {
        match self {
            Self::Hang => "its workers stop and requests are queued",
            Self::Slow => "all its work takes ten times as long",
            Self::Errors => "it does the work, then responds with 500",
            Self::Refuse => "it resets and refuses connections",
        }
    }
}

/// clap shows the usage for a flag it does not know, but not for a value it cannot take.
fn explain(error: clap::Error) -> clap::Error {
    let value = matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    );
    if !value || error.get(ContextKind::Usage).is_some() {
        return error;
    }
    let text = error.to_string();
    let what = text
        .split("\n\nFor more information")
        .next()
        .unwrap_or(&text);
    let what = what.trim_start_matches("error: ");
    Args::command().error(error.kind(), what)
}

fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let value = text.parse::<f64>().map_err(|_| "not a number".to_owned())?;
        // `contains` is false for NaN.
        range
            .contains(&value)
            .then_some(value)
            .ok_or_else(|| format!("allowed is {} to {}", range.start(), range.end()))
    }
}

fn seconds(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let number = number(range);
    move |text| number(text).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("outage").chain(flags.split_whitespace()))
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused_with_usage_and_code_2() {
        for flags in [
            "--load 0",
            "--load -1",
            "--load NaN",
            "--load inf",
            "--load 1.1",
            "--load much",
            "--capacity 0",
            "--capacity 9",
            "--capacity 401",
            "--capacity -5",
            "--capacity 1e2",
            "--outage 2.9",
            "--outage NaN",
            "--outage inf",
            "--outage 601",
            "--cold -1",
            "--cold NaN",
            "--seed -1",
            "--port 65535",
            "--fault fire",
            "--fault",
            "--fautl hang",
            "stray",
        ] {
            let error = explain(parse(flags).expect_err(flags));
            assert_eq!(error.exit_code(), 2, "{flags}");
            assert!(error.to_string().contains("Usage"), "{flags}: {error}");
        }
    }

    #[test]
    fn a_default_run_fits_into_a_minute_and_a_quick_one_into_25_seconds() {
        let total = |flags| {
            let p = parse(flags).unwrap().phases();
            p.healthy + p.outage + p.after + p.finish
        };
        assert!(total("") <= Duration::from_secs(60));
        assert_eq!(total("--quick"), Duration::from_secs(25));
        assert_eq!(total("--quick --outage 3"), Duration::from_secs(20));
    }
}

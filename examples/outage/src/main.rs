//! Watch a dependency break, once behind a naive client and once behind `buttress`.
//!
//! In one process, over real HTTP on loopback: two equal copies of a dependency, the same load to each, the
//! same fault in both. `cargo run --release -p outage -- --help` lists the options.
#![expect(
    clippy::disallowed_methods,
    reason = "an application may read the clock"
)]

mod args;
mod calls;
mod chart;
mod client;
mod dependency;
mod files;
mod live;
mod load;
mod naive;
mod plan;
mod protected;
mod report;
mod stats;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::args::Args;
use crate::calls::CallLog;
use crate::client::Client;
use crate::dependency::Port;
use crate::load::Side;
use crate::naive::Naive;
use crate::plan::Plan;
use crate::protected::Protected;
use crate::report::Report;
use crate::stats::Figures;

type Error = Box<dyn std::error::Error + Send + Sync>;

const CHART: &str = "target/outage.svg";
/// Beyond this lateness the machine, not the dependency, decides which calls are in time.
const TOO_LATE_MS: f64 = 100.0;
const HOST_TOO_BUSY: u8 = 3;
/// The exit code of a process that Ctrl-C ended, as shells report it.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    run(&Args::read()).await.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

async fn run(args: &Args) -> Result<ExitCode, Error> {
    let capacity = files::make_room(args.capacity, args.load)?;
    if capacity < args.capacity {
        eprintln!(
            "too few open files allowed: capacity lowered from {} to {capacity} requests/s",
            args.capacity
        );
    }
    let plan = Arc::new(Plan::new(args, capacity));
    let ports = [
        Port::bind(args.port)?,
        Port::bind(if args.port == 0 { 0 } else { args.port + 1 })?,
    ];
    let urls = [ports[0].url()?, ports[1].url()?];
    let clients = [
        Client::Naive(Naive::new(&urls[0])?),
        Client::Protected(Protected::new(&urls[1], args.without_breaker)?),
    ];
    eprintln!("{}", report::headline(&plan, capacity, args.load));

    let start = Instant::now();
    let sides = clients.map(|client| Side {
        client,
        log: CallLog::new(start),
    });
    let [first, second] =
        ports.map(|port| tokio::spawn(dependency::serve(port, Arc::clone(&plan), start)));
    let whole = async {
        load::run(&plan, args.seed, start, &sides).await;
        sleep_until(start + plan.end).await;
    };
    let stopped = tokio::select! {
        () = whole => false,
        signal = tokio::signal::ctrl_c() => { signal?; true }
        failed = first => return Err(failure(failed)),
        failed = second => return Err(failure(failed)),
        () = live::show(&plan, start, &sides) => unreachable!("it shows until it is dropped"),
    };
    finish(args, capacity, &plan, start.elapsed(), &sides, stopped)
}

/// Prints the report as of `now`: of the whole run, or after Ctrl-C of the run so far.
fn finish(
    args: &Args,
    capacity: u32,
    plan: &Plan,
    now: Duration,
    sides: &[Side; 2],
    stopped: bool,
) -> Result<ExitCode, Error> {
    let [naive, buttress] = sides.each_ref().map(|side| side.log.snapshot());
    let late_p99_ms = stats::late_p99_ms(naive.calls.iter().chain(&buttress.calls));
    if late_p99_ms > TOO_LATE_MS {
        eprintln!(
            "host too busy: one call in a hundred started {late_p99_ms:.0} ms late or more (allowed: {TOO_LATE_MS:.0} \
             ms), so these figures would say nothing. Try again on a quieter machine or with a lower --capacity."
        );
        return Ok(ExitCode::from(HOST_TOO_BUSY));
    }
    let until = stats::known_until(&naive.calls, now).min(stats::known_until(&buttress.calls, now));
    if stopped {
        let secs = |time: Duration| time.as_secs_f64();
        eprintln!(
            "stopped after {:.1} s; the outcomes of calls are known up to {:.1} s",
            secs(now),
            secs(until)
        );
    }
    chart::write(Path::new(CHART), plan, until, [&naive, &buttress])
        .map_err(|error| format!("cannot write {CHART}: {error}"))?;
    let opened = sides
        .each_ref()
        .map(|side| side.client.breaker().map_or(0, |breaker| breaker.opened));
    let report = Report {
        fault: plan.fault.name(),
        outage_s: plan.outage_time().as_secs_f64(),
        load: args.load,
        capacity,
        seed: args.seed,
        late_p99_ms,
        naive: Figures::of(&naive.calls, plan, until, now, opened[0]),
        buttress: Figures::of(&buttress.calls, plan, until, now, opened[1]),
    };
    let text = if args.json {
        serde_json::to_string(&report)?
    } else {
        report.table(plan)
    };
    writeln!(std::io::stdout(), "{text}")?;
    eprintln!("chart: {CHART}");
    Ok(if stopped {
        ExitCode::from(INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The server of a dependency returns only if it fails.
fn failure(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => "the dependency stopped listening".into(),
        Ok(Err(error)) => format!("the dependency failed: {error}").into(),
        Err(error) => error.into(),
    }
}

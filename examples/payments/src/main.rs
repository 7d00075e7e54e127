//! Pay through a network that loses, delays and duplicates, to a service that pays once.
//!
//! In one process, over real HTTP on loopback: clients behind the standard stack, a proxy as the network, an axum service
//! behind the idempotency layer. `cargo run --release -p payments -- --help` lists the options;
//! `--ignore-key` shows the same without the layer.

mod args;
mod checkout;
mod fate;
mod ledger;
mod network;
mod order;
mod report;
mod service;
mod stores;

use std::io::Write;
use std::process::ExitCode;

use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};

use crate::args::Args;
use crate::checkout::Checkout;
use crate::fate::Fates;
use crate::network::Network;
use crate::report::Report;
use crate::stores::Opened;

type Error = Box<dyn std::error::Error + Send + Sync>;

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
    let run = format!("{:08x}", rand::random::<u32>());
    let opened = stores::open(args, &run).await?;
    let paid = tokio::select! {
        paid = pay(args, &opened, &run) => paid.map(Some),
        signal = tokio::signal::ctrl_c() => signal.map(|()| None).map_err(Error::from),
    };
    if let Err(error) = opened.clear.await {
        eprintln!("the data of this run (with {run} in its name) was not removed: {error}");
    }
    match paid? {
        Some(report) => print_report(args, &report),
        None => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn pay(args: &Args, opened: &Opened, run: &str) -> Result<Report, Error> {
    let orders = order::orders(args.orders(), args.seed);
    let layer = if args.ignore_key {
        None
    } else {
        // There is one client; a service with several identifies them with `Scope::by`.
        let (scope, config) = (Scope::Global, IdempotencyConfig::default());
        let store = opened.store.clone();
        Some(IdempotencyLayer::new("payments", store, scope, config)?)
    };
    let service = service::serve(opened.ledger.clone(), layer.clone()).await?;
    let network = Network::new(service, Fates::new(args.seed, checkout::ATTEMPT));
    let checkout = Checkout::new(network.serve().await?, run)?;
    let receipts = checkout.pay_all(orders.clone()).await?;
    // Requests that are still in the network or have lost their client may still be executed.
    network.quiet().await;
    if let Some(layer) = layer {
        layer.idle().await;
    }
    Ok(Report {
        store: args.store.name(),
        ignores_key: args.ignore_key,
        orders,
        traffic: network.traffic(),
        receipts,
        payments: opened.ledger.payments().await?,
    })
}

fn print_report(args: &Args, report: &Report) -> Result<ExitCode, Error> {
    let text = if args.json {
        report.json()?
    } else {
        report.table()
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(match report.verdict() {
        Ok(verdict) => {
            eprintln!("{verdict}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("error: {wrong}");
            ExitCode::FAILURE
        }
    })
}

//! Look up operations with an idempotency key, and resolve those that stopped without a result.
//!
//! `cargo run -p repair -- demo` shows it with a service that is killed in its handler.
//! `cargo run -p repair -- --store postgres --name payments list --state unknown` lists the operations that need a decision, and
//! `cargo run -p repair -- --help` explains how to decide.

mod args;
mod commands;
mod demo;
mod stores;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, such as the store's own error.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn run(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Command::Demo { .. } => demo::run(&demo::own_program).await,
        Command::Serve => demo::serve().await,
        command => {
            let layer = stores::open(&cli.layer).await?;
            let text = commands::run(&layer, command).await?;
            writeln!(std::io::stdout(), "{text}")?;
            Ok(())
        }
    }
}

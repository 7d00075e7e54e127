//! Consumes orders from a NATS `JetStream` work queue and applies each of them once, even if the broker delivers messages again
//! and consumers are killed.
//!
//! ```sh
//! scripts/services.sh --nats cargo run -p nats_consumer -- --quick
//! NATS_URL=nats://127.0.0.1:4222 cargo run -p nats_consumer -- --store redis
//! ```
//!
//! The first command starts a private `nats-server`, Redis and PostgreSQL. The second one uses servers of yours; `--store redis`
//! needs `REDIS_URL`, `--store postgres` needs `DATABASE_URL`.
//!
//! Without `--role` this is a demonstration: it publishes every order twice, starts itself as consumers, kills them with `SIGKILL`
//! at random moments, and counts how often each order was applied. It exits with 1 if an order was applied twice or not at all.
//! `--ignore-key` shows the same queue without the layer.
//!
//! The code to copy is in `consumer.rs`:
//!
//! - The key is the id of the order, which the publisher sets. Sequence and delivery numbers are no keys: a message that was
//!   published twice has two sequence numbers, and a message that is delivered again has a new delivery number.
//! - The message is acknowledged after the operation has ended and its result is stored, never before.
//! - A consumer that is killed between the effect and the record leaves an operation with an unknown outcome. The next
//!   delivery runs it again, with [`Operation::run`] at 2 or above. The effect here cannot share a transaction with the record, so
//!   the handler checks for the effect of the earlier run first.
//!
//! [`Operation::run`]: buttress::idempotency::Operation::run

mod args;
mod consumer;
mod demonstration;
mod ledger;
mod stores;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Role};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// `EX_USAGE` of `sysexits.h`: the program was started without what it needs.
const USAGE: u8 = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let Ok(nats) = std::env::var("NATS_URL") else {
        eprintln!(
            "NATS_URL is not set: this program needs a nats-server with JetStream.\n\
             Run it with a private one: scripts/services.sh --nats cargo run -p nats_consumer -- --quick\n\
             Or start one by `nats-server -js` and set NATS_URL=nats://127.0.0.1:4222"
        );
        return ExitCode::from(USAGE);
    };
    if let Some(variable) = args.store.variable() {
        if std::env::var_os(variable).is_none() {
            eprintln!("{variable} is not set: --store {} needs it", args.store);
            return ExitCode::from(USAGE);
        }
    }
    let result = match args.role {
        Role::Demonstration => demonstration::run(&nats, &args).await,
        Role::Consumer => consumer::run(&nats, &args).await.map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Publishes orders, starts consumers, kills some of them, and counts what was applied.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{self, Context, stream};
use rand::seq::SliceRandom;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::args::Args;
use crate::consumer::{DURABLE, MAX_AGE, ORDER_ID};
use crate::ledger::{Count, Ledger, count};
use crate::{Error, stores};

/// How often progress is checked.
const TICK: Duration = Duration::from_millis(20);

/// Consumers that need longer than this are broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the demonstration. `false` if an order was not applied exactly once.
pub(crate) async fn run(nats: &str, args: &Args) -> Result<bool, Error> {
    let id = format!("{:016x}", rand::random::<u64>());
    let folder = Folder::new(&id)?;
    let mut args = args.clone();
    // A stream of its own, so that demonstrations on one server do not meet. The stream is the scope of the keys, too.
    args.stream = format!("orders-{id}");
    args.folder.clone_from(&folder.0);
    let jetstream = jetstream::new(async_nats::connect(nats).await?);
    stores::prepare(args.store).await?;
    let shown = tokio::select! {
        shown = timeout(PATIENCE, show(&jetstream, &args)) => shown,
        _ = tokio::signal::ctrl_c() => Ok(Err("interrupted".into())),
    };
    // Unless it was not even created. With its consumer.
    drop(jetstream.delete_stream(&args.stream).await);
    shown.map_err(|_| format!("the orders were not processed within {PATIENCE:?}"))?
}

async fn show(jetstream: &Context, args: &Args) -> Result<bool, Error> {
    let subject = format!("{}.new", args.stream);
    let stream = jetstream
        .create_stream(stream::Config {
            name: args.stream.clone(),
            subjects: vec![subject.clone()],
            // A message is removed when it was acknowledged.
            retention: stream::RetentionPolicy::WorkQueue,
            max_age: MAX_AGE,
            ..stream::Config::default()
        })
        .await?;
    let orders: Vec<String> = (0..args.orders())
        .map(|number| format!("order-{number}"))
        .collect();
    let messages = publish(jetstream, &subject, &orders).await?;

    let ledger = Ledger::new(&args.folder);
    let mut consumers = Consumers::start(args)?;
    for kill in 1..=args.kills() {
        // Spread over the work. A killed consumer always has messages in hand.
        let lines = orders.len() * kill as usize / (args.kills() as usize + 1);
        while ledger.lines()?.len() < lines {
            consumers.check()?;
            sleep(TICK).await;
        }
        sleep(Duration::from_millis(rand::random_range(0..150))).await;
        consumers.kill_one().await?;
    }
    while stream.get_info().await?.state.messages > 0 {
        consumers.check()?;
        sleep(TICK * 5).await;
    }
    consumers.stop().await?;

    let deliveries = stream
        .consumer_info(DURABLE)
        .await?
        .delivered
        .consumer_sequence;
    let count = count(&orders, &ledger.lines()?);
    report(args, orders.len(), messages, deliveries, &count);
    Ok(count.twice == 0 && count.missing == 0)
}

/// Publishes every order twice, in random order, and one message that is no order. Returns the number of messages.
///
/// A publisher that times out publishes again. With the same `Nats-Msg-Id` the broker would drop the second message if it comes within
/// its `duplicate_window`; later, or with another id, it stores both.
async fn publish(jetstream: &Context, subject: &str, orders: &[String]) -> Result<usize, Error> {
    let mut messages: Vec<Option<(&String, u32)>> = orders
        .iter()
        .flat_map(|order| [Some((order, 1)), Some((order, 2))])
        .collect();
    messages.push(None);
    messages.shuffle(&mut rand::rng());
    let mut stored = Vec::new();
    for message in &messages {
        let mut headers = HeaderMap::new();
        let mut payload = "not an order".to_owned();
        if let Some((order, attempt)) = message {
            headers.insert(NATS_MESSAGE_ID, format!("{order}/{attempt}"));
            headers.insert(ORDER_ID, order.as_str());
            payload = format!("apply {order}");
        }
        let published = jetstream.publish_with_headers(subject.to_owned(), headers, payload.into());
        stored.push(published.await?);
    }
    for stored in stored {
        stored.await?;
    }
    Ok(messages.len())
}

fn report(args: &Args, orders: usize, messages: usize, deliveries: u64, count: &Count) {
    let lines = [
        ("orders", orders.to_string()),
        ("messages", messages.to_string()),
        ("consumers killed", args.kills().to_string()),
        ("deliveries", deliveries.to_string()),
        ("dead letters", count.dead_letters.to_string()),
        ("applied", count.applied.to_string()),
        ("applied by a later run", count.later.to_string()),
        ("found by a later run", count.found.to_string()),
        ("applied twice", count.twice.to_string()),
        ("not applied", count.missing.to_string()),
    ];
    println!("store {}", args.store);
    for (name, value) in lines {
        println!("{name:<24}{value:>6}");
    }
}

/// The consumers, in processes of their own.
struct Consumers {
    args: Args,
    running: Vec<Child>,
}

impl Consumers {
    fn start(args: &Args) -> Result<Self, Error> {
        let mut consumers = Self {
            args: args.clone(),
            running: Vec::new(),
        };
        for _ in 0..args.store.consumers() {
            consumers.start_one()?;
        }
        Ok(consumers)
    }

    fn start_one(&mut self) -> Result<(), Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", "consumer", "--stop-with-stdin"]);
        command.args(["--store", &self.args.store.to_string()]);
        command.args(["--stream", &self.args.stream]);
        command.arg("--folder").arg(&self.args.folder);
        if self.args.ignore_key {
            command.arg("--ignore-key");
        }
        command.stdin(Stdio::piped()).kill_on_drop(true);
        self.running.push(command.spawn()?);
        Ok(())
    }

    /// Kills one, waits for its end, since the file store is for one process at a time, and starts another.
    async fn kill_one(&mut self) -> Result<(), Error> {
        let victim = rand::random_range(0..self.running.len());
        let mut victim = self.running.swap_remove(victim);
        victim.kill().await?;
        self.start_one()
    }

    /// Fails if a consumer has ended that was not killed.
    fn check(&mut self) -> Result<(), Error> {
        for consumer in &mut self.running {
            if let Some(status) = consumer.try_wait()? {
                return Err(format!("a consumer has ended: {status}").into());
            }
        }
        Ok(())
    }

    /// Lets all consumers finish their orders.
    async fn stop(&mut self) -> Result<(), Error> {
        for mut consumer in self.running.drain(..) {
            drop(consumer.stdin.take());
            let status = consumer.wait().await?;
            if !status.success() {
                return Err(format!("a consumer has failed: {status}").into());
            }
        }
        Ok(())
    }
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(id: &str) -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("nats-consumer-{id}"));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

//! A consumer that applies each order once.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, Message};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
use buttress::{BoxError, CallError, KeyProblem, Reason};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use crate::args::Args;
use crate::ledger::{Event, Ledger};
use crate::{Error, stores};

/// The name of the durable consumer. All processes share it, and the broker gives each message to one of them at a time.
pub(crate) const DURABLE: &str = "apply-orders";

/// The header with the id of the order.
pub(crate) const ORDER_ID: &str = "Order-Id";

/// After this time without an acknowledgement the broker delivers the message again. Short for the demonstration. In production it is
/// longer than most operations take, because a redelivery that comes too early costs a round trip.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(1);

/// How long a message stays in the stream.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// When a message that cannot be processed now is delivered again, unless the layer sets a time.
const LATER: Duration = Duration::from_millis(500);

/// How many orders a consumer applies concurrently.
const CONCURRENCY: usize = 4;

pub(crate) async fn run(nats: &str, args: &Args) -> Result<(), Error> {
    let config = IdempotencyConfig::default()
        // Longer than a message can be delivered again, or it would be a new operation.
        .ttl(MAX_AGE * 2)
        // How long the order of a killed consumer has to wait for the next run. Short for the demonstration; at least three times
        // `store_timeout`. The file store needs no wait: opening it ends all leases.
        .lease(Duration::from_secs(3));
    // The stream is the scope of each run; there is no request to find a scope in.
    let once = IdempotencyLayer::new("orders", stores::open(args).await?, Scope::Global, config)?;
    let handler = Handler {
        once,
        ledger: Ledger::new(&args.folder),
        stream: args.stream.clone(),
        ignore_key: args.ignore_key,
    };

    let client = async_nats::connect(nats).await?;
    let stream = jetstream::new(client.clone())
        .get_stream(&args.stream)
        .await?;
    let config = pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        ack_wait: ACK_WAIT,
        // No limit of deliveries: a consumer that crashes often must not lose orders. A message that will never succeed is
        // terminated below.
        max_deliver: -1,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.get_or_create_consumer(DURABLE, config).await?;
    // Few messages in advance: their `ack_wait` runs while they wait in this process.
    let messages = consumer
        .stream()
        .max_messages_per_batch(CONCURRENCY)
        .messages()
        .await?;
    messages
        .take_until(Box::pin(stopped(args.stop_with_stdin)))
        .for_each_concurrent(CONCURRENCY, |message| async {
            match message {
                Ok(message) => handler.handle(&message).await,
                // The stream of messages survives a lost connection. It ends when it cannot reconnect.
                Err(error) => eprintln!("consumer: {error}"),
            }
        })
        .await;
    // `for_each_concurrent` has waited for the messages that were begun. Acknowledgements may still be in the buffer.
    client.flush().await?;
    handler.once.idle().await;
    Ok(())
}

/// Ctrl-C, or the end of the demonstration.
async fn stopped(with_stdin: bool) {
    let stdin = async {
        if with_stdin {
            let mut rest = Vec::new();
            drop(tokio::io::stdin().read_to_end(&mut rest).await);
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stdin => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

struct Handler {
    once: IdempotencyLayer,
    ledger: Ledger,
    stream: String,
    ignore_key: bool,
}

/// How to acknowledge a message.
enum Verdict {
    /// It was processed, by this delivery or an earlier one.
    Done,
    /// Deliver it again after this time.
    Later(Duration),
    /// It can never be processed: an operator has to check it.
    Dead(String),
}

impl Handler {
    /// Processes a message and reports the result to the broker.
    ///
    /// The broker does not confirm a plain acknowledgement. If it gets lost, the message is delivered again and the stored result
    /// is found, so `double_ack` would only save a delivery.
    async fn handle(&self, message: &Message) {
        let reply = match self.process(message).await {
            Verdict::Done => AckKind::Ack,
            Verdict::Later(delay) => AckKind::Nak(Some(delay)),
            Verdict::Dead(why) => match self.bury(message, &why) {
                Ok(()) => AckKind::Term,
                Err(error) => {
                    eprintln!("consumer: {error}");
                    AckKind::Nak(Some(LATER))
                }
            },
        };
        if let Err(error) = message.ack_with(reply).await {
            eprintln!("consumer: the message will be delivered again: {error}");
        }
    }

    /// Records a dead letter, before the broker removes the message. A service would publish it to a stream of its own.
    fn bury(&self, message: &Message, why: &str) -> Result<(), Error> {
        let sequence = message.info()?.stream_sequence;
        println!("dead letter: message {sequence}: {why}");
        self.ledger
            .append(Event::DeadLetter, &sequence.to_string(), 0)?;
        Ok(())
    }

    async fn process(&self, message: &Message) -> Verdict {
        let Some(order) = order_id(message) else {
            return Verdict::Dead(format!("it has no valid {ORDER_ID}"));
        };
        if self.ignore_key {
            return match apply(&self.ledger, order, 1).await {
                Ok(_) => Verdict::Done,
                Err(error) => verdict(order, &error),
            };
        }
        let ledger = self.ledger.clone();
        let id = order.to_owned();
        // The payload is the fingerprint: another order with an id that was used before is refused.
        let applied = self
            .once
            .run(
                &self.stream,
                order,
                &message.payload,
                |operation| async move { apply(&ledger, &id, operation.run()).await },
            )
            .await;
        match applied {
            Ok(_) => Verdict::Done,
            Err(error) => verdict(order, &error),
        }
    }
}

/// The id that the publisher has given to the order.
fn order_id(message: &Message) -> Option<&str> {
    let id = message.headers.as_ref()?.get(ORDER_ID)?.as_str();
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!id.is_empty() && id.bytes().all(valid)).then_some(id)
}

/// The verdict for a message whose operation failed or was rejected.
fn verdict(order: &str, error: &BoxError) -> Verdict {
    let Some(rejected) = error.rejected() else {
        // The handler's own error. The next delivery is another run, which checks the ledger first.
        eprintln!("consumer: {order} is delivered again: {error}");
        return Verdict::Later(LATER);
    };
    let later = Verdict::Later(rejected.retry_after.unwrap_or(LATER));
    match rejected.reason {
        // The operation was executed, but its result was too large to be stored.
        Reason::Key(KeyProblem::NotStored) => Verdict::Done,
        // The outcome is unknown, or the id was used for another order: another delivery would not help.
        Reason::Key(KeyProblem::Unknown | KeyProblem::Failed | KeyProblem::Reused) => {
            Verdict::Dead(format!("{order}: {error}"))
        }
        // Another delivery of this order is being processed, here or by a consumer whose lease has not ended.
        Reason::Key(KeyProblem::InProgress) => later,
        // For example, the store is unavailable.
        _ => {
            eprintln!("consumer: {order} is delivered again: {error}");
            later
        }
    }
}

/// Applies an order. The effect is a line in the ledger.
///
/// Effect and record are in different places, so a consumer may be killed when one is written and the other is not. No queue and no
/// layer can close that gap; the effect has to be idempotent. This one checks the ledger in every run after the first. For an
/// effect at another service, send `operation.derived_key("…")` instead; an effect in PostgreSQL can commit the record in its
/// own transaction.
async fn apply(ledger: &Ledger, order: &str, run: u32) -> Result<Bytes, BoxError> {
    if run > 1 && ledger.is_applied(order)? {
        ledger.append(Event::Found, order, run)?;
        return Ok("applied by an earlier run".into());
    }
    let work = work(order);
    sleep(work / 2).await;
    ledger.append(Event::Applied, order, run)?;
    // A consumer that is killed here leaves the effect without a record.
    sleep(work / 2).await;
    Ok("applied".into())
}

/// How long an order takes. One in twenty takes longer than `ack_wait`, so that it is delivered again while it is applied.
fn work(order: &str) -> Duration {
    let number: u32 = order
        .rsplit('-')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    if number % 20 == 10 {
        ACK_WAIT * 3 / 2
    } else {
        Duration::from_millis(u64::from(60 + number % 7 * 20))
    }
}

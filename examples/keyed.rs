//! One of three shards is dead. One breaker for all of them makes an outage of it; one for each leaves the others alone.
//!
//! `cargo run --example keyed`, with `-- --quick` in two seconds.

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::{KeyedConfig, Policy};
use buttress::http::{ByAuthority, ByStatus};
use buttress::reqwest::SendThrough;
use buttress::timeout::TimeoutLayer;
use buttress::{BoxError, Error, Executed};
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::interval;
use tower::ServiceBuilder;

/// The outcomes of the calls to one shard.
#[derive(Clone, Copy, Default)]
struct Tally {
    answered: u32,
    failed: u32,
    refused: u32,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let quick = std::env::args().any(|flag| flag == "--quick");
    let rounds = if quick { 50 } else { 200 };
    let shards = [serve(true).await?, serve(true).await?, serve(false).await?];

    // A third of all calls will fail. With the default of 50 % a single breaker for all shards would never open, and callers
    // of the dead shard would always wait.
    let config = BreakerConfig::default().failure_rate(Some(0.3));

    println!("One breaker for all shards:");
    let one = Breaker::new("shards", config)?;
    show(run(one, &shards, rounds).await?);

    println!("One breaker for each shard:");
    let keys = KeyedConfig::default().max_keys(100);
    let each = Breaker::keyed("shards", config, keys, ByAuthority)?;
    show(run(each.clone(), &shards, rounds).await?);
    for (shard, breaker) in each.entries() {
        println!("  {shard}: {:?}", breaker.state());
    }
    Ok(())
}

/// A call to each shard every 20 ms, each with a timeout of 200 ms.
async fn run<P>(policy: P, shards: &[String; 3], rounds: u32) -> Result<[Tally; 3], BoxError>
where
    P: Policy<reqwest::Request, Permit: Send> + Clone + Send + 'static,
{
    let client = Client::builder().no_proxy().build()?;
    let stack = ServiceBuilder::new()
        .layer(BreakerLayer::new(policy, ByStatus::new()))
        .layer(TimeoutLayer::new("shards", Duration::from_millis(200)))
        .map_err(Error::Inner)
        .service(client.clone());
    let mut ticks = interval(Duration::from_millis(20));
    let mut calls = JoinSet::new();
    for _ in 0..rounds {
        ticks.tick().await;
        for (shard, url) in shards.iter().enumerate() {
            let call = client.get(url).send_through(&stack);
            calls.spawn(async move { (shard, call.await) });
        }
    }
    let mut tallies = [Tally::default(); 3];
    while let Some(call) = calls.join_next().await {
        let (shard, result) = call?;
        let tally = &mut tallies[shard];
        match result {
            Ok(_) => tally.answered += 1,
            Err(Error::Rejected(rejected)) if rejected.executed == Executed::No => {
                tally.refused += 1;
            }
            Err(_) => tally.failed += 1,
        }
    }
    Ok(tallies)
}

fn show(tallies: [Tally; 3]) {
    println!("  shard  answered  failed  rejected");
    for (shard, tally) in tallies.iter().enumerate() {
        let Tally {
            answered,
            failed,
            refused,
        } = tally;
        println!("  {shard:>5}  {answered:>8}  {failed:>6}  {refused:>8}");
    }
}

/// A shard that responds, or one that never does.
async fn serve(alive: bool) -> Result<String, BoxError> {
    let answer = move || async move {
        if !alive {
            pending::<()>().await;
        }
        "rows"
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/", get(answer));
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

//! The trials: which servers, over which store.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::crowd::{Crowd, Size};
use crate::fleet::Fleet;
use crate::judge::{Case, Verdict};
use crate::ledger::{Effect, Ledger, Pen};
use crate::process::{Records, Spec};
use crate::shop::{Shop, Till};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome = Result<Verdict, Failure>;

pub(crate) fn memory(size: Size) -> Outcome {
    in_process("memory", size, Arc::new(MemoryStore::new()))
}

pub(crate) fn file(size: Size) -> Outcome {
    let name = format!("buttress-torture-{:016x}", rand::random::<u64>());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    let records = Records::File(folder.join("records.redb"));
    let outcome = in_processes("file", size, records, 1);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

pub(crate) fn redis(size: Size) -> Outcome {
    let (url, client) = crate::redis::reached();
    let prefix = format!("torture-{:016x}:", rand::random::<u64>());
    let records = Records::Redis {
        url,
        prefix: prefix.clone(),
    };
    let outcome = in_processes("redis", size, records, 3);
    running(crate::redis::clear(&client, &prefix))?;
    outcome
}

/// Three primaries of this trial's own. They are not killed, only the servers that use them.
pub(crate) fn redis_cluster(size: Size) -> Outcome {
    let cluster = running(async { Ok(crate::redis::nodes::Cluster::start(3, 0, &[]).await) })?;
    let records = Records::RedisCluster {
        urls: cluster.urls(),
    };
    in_processes("redis_cluster", size, records, 3)
}

pub(crate) fn postgres(size: Size) -> Outcome {
    running(async {
        let tables = crate::postgres::Tables::create().await?;
        let records = Records::Postgres {
            url: tables.url.clone(),
            name: tables.name.clone(),
        };
        let outcome = async {
            let heard = tortured(size, records, 3, Ledger::default().open()?).await?;
            let effects = tables.effects().await?;
            Ok(heard.judged("postgres", &effects, true))
        }
        .await;
        tables.drop().await?;
        outcome
    })
}

fn running<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}

/// A server in this process, which is not killed.
pub(crate) fn in_process(name: &str, size: Size, store: Arc<dyn Store>) -> Outcome {
    running(async {
        let seed = seed();
        let ledger = Ledger::default();
        let till = Till::Ledger(Pen::new(ledger.open()?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let fleet = Fleet::of(listener.local_addr()?);
        let shop = Shop::new(seed, "0.0".into(), till);
        tokio::spawn(shop.clone().serve(store, listener));
        let crowd = Crowd::new(seed, fleet, size);
        let (begun, _) = mpsc::unbounded_channel();
        let took = crowd.run(begun).await?;
        // A handler whose client disconnected may still be running. Its effect counts too.
        drop(shop.running.write().await);
        let kills = HashMap::new();
        let heard = Heard { crowd, kills, took };
        Ok(heard.judged(name, &ledger.effects(), false))
    })
}

/// Server processes, which are killed, with their effects in the ledger.
pub(crate) fn in_processes(name: &str, size: Size, records: Records, count: usize) -> Outcome {
    running(async {
        let ledger = Ledger::default();
        let heard = tortured(size, records, count, ledger.open()?).await?;
        Ok(heard.judged(name, &ledger.effects(), false))
    })
}

/// The results of a trial.
struct Heard {
    crowd: Arc<Crowd>,
    kills: HashMap<String, Instant>,
    took: Duration,
}

async fn tortured(
    size: Size,
    records: Records,
    count: usize,
    ledger: SocketAddr,
) -> Result<Heard, Failure> {
    let seed = seed();
    let spec = Spec {
        seed,
        name: String::new(),
        ledger,
        records,
    };
    let (fleet, processes) = Fleet::start(&spec, count).await?;
    let crowd = Crowd::new(seed, fleet.clone(), size);
    let (begun, beginning) = mpsc::unbounded_channel();
    let every = usize::try_from(size.keys)? / (size.kills + 1);
    let killing = tokio::spawn(fleet.clone().kill(spec, processes, every, beginning));
    let took = crowd.run(begun).await?;
    // Handlers whose clients disconnected may still be running. Their effects count too.
    for process in killing.await?? {
        process.finish().await?;
    }
    Ok(Heard {
        crowd,
        kills: fleet.kills(),
        took,
    })
}

impl Heard {
    fn judged(&self, name: &str, effects: &[Effect], joined: bool) -> Verdict {
        let verdict = Case {
            seed: self.crowd.seed,
            witnesses: &self.crowd.witnesses(),
            effects,
            kills: &self.kills,
            joined,
        }
        .verdict();
        println!(
            "store={name} keys={} duplicates={} {} kills={} {verdict} seed={} seconds={:.1}",
            self.crowd.size.keys,
            self.crowd.size.duplicates,
            self.crowd.counts,
            self.kills.len(),
            self.crowd.seed,
            self.took.as_secs_f64()
        );
        verdict
    }
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random)
}

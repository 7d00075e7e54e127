//! The torture: thousands of operations, each sent many times at once, over connections that break, to handlers that panic,
//! in server processes that are killed. Each must be done once and answered alike.
//!
//! `cargo test --release --all-features --test exactly_once -- --ignored` runs it at full size, and without `--ignored` a small
//! one. The variable `SEED` repeats the draws of a run; what the machine makes of them differs.

#![allow(
    clippy::disallowed_methods,
    reason = "the judge needs the time at which processes were killed"
)]

mod broken;
mod client;
mod fleet;
mod judge;
mod ledger;
mod plan;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "postgres"))]
#[path = "../suite/servers.rs"]
mod servers;
mod shop;
mod trial;

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buttress::idempotency::MemoryStore;
use buttress::idempotency::store::Store;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::broken::{Breach, Broken, CheckThenAct};
use self::fleet::Fleet;
use self::judge::{Case, Verdict};
use self::ledger::{Effect, Ledger, Pen};
use self::process::{Records, SPEC, Spec};
use self::shop::{Planned, Shop, Till};
use self::trial::{Crowd, Size};

const FULL: Size = Size {
    keys: 10_000,
    duplicates: 32,
    at_once: 512,
    kills: 40,
};

const SMALL: Size = Size {
    keys: 300,
    duplicates: 16,
    at_once: 256,
    kills: 6,
};

fn main() -> ExitCode {
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload().is::<Planned>() {
            said(panic);
        }
    }));
    if let Ok(spec) = std::env::var(SPEC) {
        return match process::serve(&spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("a server of the torture: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // Each uses the whole machine.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (size, name, full) in [(SMALL, "small", false), (FULL, "full", true)] {
        let mut add = |store: &str, run: fn(Size) -> Outcome| {
            let trial = Trial::test(format!("{store}_{name}"), move || passed(run(size)));
            trials.push(trial.with_ignored_flag(full));
        };
        add("memory", memory);
        #[cfg(feature = "file")]
        add("file", file);
        #[cfg(feature = "redis")]
        add("redis", redis);
        #[cfg(feature = "postgres")]
        add("postgres", postgres);
    }
    trials.extend(findings());
    trials
}

fn passed(outcome: Outcome) -> Result<(), Failed> {
    let verdict = outcome.map_err(|error| error.to_string())?;
    for how in &verdict.explained {
        println!("  twice, {how}");
    }
    let faults = verdict.faults();
    if faults.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = faults.iter().take(20).map(|fault| fault.as_str()).collect();
    Err(format!("{} faults:\n{}", faults.len(), shown.join("\n")).into())
}

/// What the judge must find, where it is.
fn findings() -> [Trial; 5] {
    let size = Size {
        keys: 100,
        duplicates: 8,
        at_once: 128,
        kills: 6,
    };
    let found = move |name: &str, run: fn(Size) -> Outcome, what: fn(&Verdict) -> &Vec<String>| {
        Trial::test(name, move || {
            let verdict = run(size).map_err(|error| error.to_string())?;
            match what(&verdict).first() {
                Some(first) => println!("  found, as it must be: {first}"),
                None => return Err(format!("not found: {verdict}").into()),
            }
            Ok(())
        })
    };
    [
        found(
            "a_store_that_looks_first_and_writes_later_is_found",
            |size| in_process("broken", size, Arc::new(CheckThenAct::default())),
            |verdict| &verdict.doubles,
        ),
        found(
            "a_store_that_does_not_renew_is_found",
            |size| in_process("broken", size, Arc::new(Broken::new(Breach::DoesNotRenew))),
            |verdict| &verdict.doubles,
        ),
        found(
            "a_store_that_loses_answers_is_found",
            |size| in_process("broken", size, Arc::new(Broken::new(Breach::LosesAnswers))),
            |verdict| &verdict.doubles,
        ),
        found(
            "a_store_that_cuts_answers_is_found",
            |size| in_process("broken", size, Arc::new(Broken::new(Breach::Cuts))),
            |verdict| &verdict.torn,
        ),
        found(
            "processes_that_forget_are_not_excused_by_kills",
            |size| in_processes("broken", Size { kills: 20, ..size }, Records::Memory, 1),
            |verdict| &verdict.doubles,
        ),
    ]
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random)
}

type Failure = Box<dyn Error + Send + Sync>;
type Outcome = Result<Verdict, Failure>;

fn memory(size: Size) -> Outcome {
    in_process("memory", size, Arc::new(MemoryStore::new()))
}

#[cfg(feature = "file")]
fn file(size: Size) -> Outcome {
    let name = format!("buttress-torture-{:016x}", rand::random::<u64>());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    let records = Records::File(folder.join("records.redb"));
    let outcome = in_processes("file", size, records, 1);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

#[cfg(feature = "redis")]
fn redis(size: Size) -> Outcome {
    let (url, client) = self::redis::reached();
    let prefix = format!("torture-{:016x}:", rand::random::<u64>());
    let records = Records::Redis {
        url,
        prefix: prefix.clone(),
    };
    let outcome = in_processes("redis", size, records, 3);
    running(self::redis::clear(&client, &prefix))?;
    outcome
}

#[cfg(feature = "postgres")]
fn postgres(size: Size) -> Outcome {
    running(async {
        let tables = self::postgres::Tables::create().await?;
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

/// A server in this process, which nobody kills.
fn in_process(name: &str, size: Size, store: Arc<dyn Store>) -> Outcome {
    running(async {
        let seed = seed();
        let ledger = Ledger::default();
        let till = Till::Ledger(Pen::new(ledger.open()?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let fleet = Fleet::of(listener.local_addr()?);
        let shop = Shop::new(seed, "0.0".into(), till);
        tokio::spawn(async move { shop.serve(store, listener).await });
        let crowd = Crowd::new(seed, fleet, size);
        let (begun, _) = mpsc::unbounded_channel();
        let took = crowd.run(size, begun).await?;
        let kills = HashMap::new();
        let heard = Heard {
            seed,
            size,
            crowd,
            kills,
            took,
        };
        Ok(heard.judged(name, &ledger.effects(), false))
    })
}

/// Server processes, which are killed, with their effects in the ledger.
fn in_processes(name: &str, size: Size, records: Records, count: usize) -> Outcome {
    running(async {
        let ledger = Ledger::default();
        let heard = tortured(size, records, count, ledger.open()?).await?;
        Ok(heard.judged(name, &ledger.effects(), false))
    })
}

/// What was heard in a trial.
struct Heard {
    seed: u64,
    size: Size,
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
    let took = crowd.run(size, begun).await?;
    // They live until here, so that no effect comes later.
    drop(killing.await??);
    Ok(Heard {
        seed,
        size,
        crowd,
        kills: fleet.kills(),
        took,
    })
}

impl Heard {
    fn judged(&self, name: &str, effects: &[Effect], joined: bool) -> Verdict {
        let verdict = Case {
            seed: self.seed,
            witnesses: &self.crowd.witnesses(),
            effects,
            kills: &self.kills,
            joined,
        }
        .verdict();
        println!(
            "store={name} keys={} {} kills={} {verdict} seed={} seconds={:.1}",
            self.size.keys,
            self.crowd.counts,
            self.kills.len(),
            self.seed,
            self.took.as_secs_f64()
        );
        verdict
    }
}

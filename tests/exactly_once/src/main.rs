//! The torture test: thousands of operations, each sent many times concurrently, over connections that break, to handlers that
//! panic, in server processes that are killed. Each must be executed once, and all its requests must get the same response.
//!
//! `scripts/torture.sh` runs it at full size, `cargo test -p exactly_once` a small one. The variable `TORTURE_KEYS`
//! sets the number of keys, each of which is sent 32 times. `SEED` repeats the random draws of a run, but not its timing.

#![allow(
    clippy::disallowed_methods,
    reason = "the judge needs the time at which processes were killed"
)]

mod broken;
mod client;
mod crowd;
mod fleet;
#[path = "../../suite/forwarding.rs"]
mod forwarding;
mod judge;
mod ledger;
mod plan;
mod postgres;
mod process;
mod redis;
mod shop;
mod trial;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use self::broken::{Breach, Broken};
use self::crowd::Size;
use self::judge::Verdict;
use self::process::{Records, SPEC};
use self::shop::Planned;
use self::trial::{Outcome, in_process, in_processes};

/// The variable for the number of keys of each store.
const KEYS: &str = "TORTURE_KEYS";

/// For the debug build of a test run.
const SMALL: Size = Size {
    keys: 300,
    duplicates: 16,
    at_once: 256,
    kills: 6,
};

fn size() -> Size {
    let Ok(keys) = std::env::var(KEYS) else {
        return SMALL;
    };
    let keys: u64 = match keys.parse() {
        Ok(keys) if keys > 0 => keys,
        _ => panic!("{KEYS} must be a number of keys, not `{keys}`"),
    };
    let kills = usize::try_from(keys / 250).expect("a number of kills");
    Size {
        keys,
        duplicates: 32,
        at_once: 512,
        kills: kills.max(SMALL.kills),
    }
}

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
    let size = size();
    println!("{size}");
    let mut trials = Vec::new();
    let mut add = |store: &str, run: fn(Size) -> Outcome| {
        trials.push(Trial::test(store, move || passed(run(size))));
    };
    add("memory", trial::memory);
    add("file", trial::file);
    add("redis", trial::redis);
    add("redis_cluster", trial::redis_cluster);
    add("postgres", trial::postgres);
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

/// What the judge must find for each fault.
fn findings() -> [Trial; 4] {
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
            |size| broken(size, Breach::ChecksThenActs),
            |verdict| &verdict.doubles,
        ),
        found(
            "a_store_that_does_not_renew_is_found",
            |size| broken(size, Breach::DoesNotRenew),
            |verdict| &verdict.doubles,
        ),
        found(
            "a_store_that_cuts_answers_is_found",
            |size| broken(size, Breach::Cuts),
            |verdict| &verdict.torn,
        ),
        found(
            "processes_that_forget_are_not_excused_by_kills",
            |size| in_processes("broken", Size { kills: 20, ..size }, Records::Memory, 1),
            |verdict| &verdict.doubles,
        ),
    ]
}

fn broken(size: Size, breach: Breach) -> Outcome {
    in_process("broken", size, Arc::new(Broken::new(breach)))
}

/// Ignores poisoning.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

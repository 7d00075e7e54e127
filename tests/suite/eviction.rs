//! Which keys a full map evicts, compared with a small model.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::Outcome;
use buttress::breaker::{Breaker, BreakerConfig};
use buttress::clock::Now;
use buttress::event::Source;
use buttress::gate::{Evict, EvictionCost, Keyed, KeyedConfig, Policy, by};
use proptest::prelude::*;
use tokio::time::advance;

use crate::common::SECOND;

/// A policy whose eviction cost a test sets.
#[derive(Clone)]
struct Important(Arc<Source>, Arc<Mutex<EvictionCost>>);

impl Evict for Important {
    fn eviction_cost(&self, _: &Now) -> EvictionCost {
        *self.1.lock().unwrap()
    }
    fn source(&self) -> &Source {
        &self.0
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A key is used, and is new perhaps.
    Use(u32),
    SetCost(u32, EvictionCost),
    Hold(u32),
    Release,
    Wait(u64),
}

/// An entry of the model, which is a list of at most sixteen keys.
#[derive(Clone, Debug)]
struct Naive {
    key: u32,
    last_used: u64,
    /// Counts the uses.
    last_use: u64,
    touched: bool,
    eviction_cost: EvictionCost,
    held: u32,
}

fn any_step() -> impl Strategy<Value = Step> {
    let eviction_cost = prop_oneof![
        3 => Just(EvictionCost::Nothing),
        2 => Just(EvictionCost::Memory),
        1 => Just(EvictionCost::Essentials),
    ];
    prop_oneof![
        6 => (0_u32..20).prop_map(Step::Use),
        3 => ((0_u32..20), eviction_cost).prop_map(|(key, eviction_cost)| Step::SetCost(key, eviction_cost)),
        1 => (0_u32..20).prop_map(Step::Hold),
        1 => Just(Step::Release),
        2 => (1_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_small_map_evicts_as_a_naive_one_does(
        max_keys in 1_usize..9,
        steps in proptest::collection::vec(any_step(), 0..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(evicts_as_a_naive_one_does(max_keys, steps));
    }
}

async fn evicts_as_a_naive_one_does(max_keys: usize, steps: Vec<Step>) {
    const IDLE: u64 = 60;
    let own: fn(&u32) -> u32 = |key| *key;
    let keys = KeyedConfig::default()
        .max_keys(max_keys)
        .idle(Duration::from_secs(IDLE));
    let keyed = Keyed::new(by(own), keys, |key| {
        let source = Arc::new(Source::new("naive", key));
        Important(source, Arc::new(Mutex::new(EvictionCost::Nothing)))
    })
    .unwrap();
    let keys = || {
        let mut keys: Vec<_> = keyed.entries().into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys
    };
    let mut model: Vec<Naive> = Vec::new();
    let mut held = Vec::new();
    let (mut now, mut uses) = (0, 0);
    for step in steps {
        now += 1;
        advance(SECOND).await;
        match step {
            Step::Use(key) | Step::Hold(key) => {
                let policy = keyed.get(&key, &Now::unread());
                let known = model.iter_mut().find(|one| one.key == key);
                if let Some(known) = known {
                    known.touched = true;
                } else {
                    let all = model.clone();
                    evict(&mut model, &mut uses, max_keys, IDLE, now);
                    if model.len() < max_keys {
                        uses += 1;
                        model.push(Naive {
                            key,
                            last_used: now,
                            last_use: uses,
                            touched: false,
                            eviction_cost: EvictionCost::Nothing,
                            held: 0,
                        });
                    }
                    let mut expected: Vec<_> = model.iter().map(|one| one.key).collect();
                    expected.sort_unstable();
                    assert_eq!(keys(), expected, "at {now}, of {all:?}");
                }
                if let (Step::Hold(_), Some(known)) =
                    (&step, model.iter_mut().find(|one| one.key == key))
                {
                    known.held += 1;
                    held.push((key, policy));
                }
            }
            Step::SetCost(key, eviction_cost) => {
                if let Some(known) = model.iter_mut().find(|one| one.key == key) {
                    known.eviction_cost = eviction_cost;
                    let entries = keyed.entries();
                    let (_, policy) = entries.iter().find(|(of, _)| *of == key).unwrap();
                    *policy.1.lock().unwrap() = eviction_cost;
                }
            }
            Step::Release => {
                if let Some((key, _)) = held.pop() {
                    if let Some(known) = model.iter_mut().find(|one| one.key == key) {
                        known.held -= 1;
                    }
                }
            }
            Step::Wait(seconds) => {
                now += seconds;
                advance(Duration::from_secs(seconds)).await;
            }
        }
    }
}

/// Makes room for one more. A key that was used since it was last checked counts as used now, once.
fn evict(model: &mut Vec<Naive>, uses: &mut u64, max_keys: usize, idle: u64, now: u64) {
    let may_go = |one: &Naive| one.held == 0 && one.eviction_cost < EvictionCost::Essentials;
    let is_idle = |one: &Naive| now - one.last_used >= idle;
    let mut is_spared = |one: &mut Naive| {
        let spared = std::mem::take(&mut one.touched);
        if spared {
            *uses += 1;
            (one.last_used, one.last_use) = (now, *uses);
        }
        spared
    };
    let mut at = 0;
    while let Some(one) = model.get_mut(at) {
        if is_idle(one) && may_go(one) && !is_spared(one) {
            model.swap_remove(at);
        } else {
            at += 1;
        }
    }
    let mut spared = Vec::new();
    while model.len() >= max_keys {
        let candidates = model.iter().enumerate().filter(|(_, one)| may_go(one));
        let first =
            candidates.min_by_key(|(_, one)| (!is_idle(one), one.eviction_cost, one.last_use));
        let Some((at, _)) = first else {
            return;
        };
        let key = model[at].key;
        if !spared.contains(&key) && is_spared(&mut model[at]) {
            spared.push(key);
        } else {
            model.swap_remove(at);
        }
    }
}

#[test]
fn a_key_stays_while_a_call_is_in_flight_whatever_other_threads_do() {
    let own: fn(&u32) -> u32 = |key| *key;
    let keys = KeyedConfig::default().max_keys(12);
    let keyed = Breaker::keyed("in-flight-crowd", BreakerConfig::default(), keys, by(own)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6_u32 {
            let keyed = &keyed;
            scope.spawn(move || {
                for call in 0..1_000_u32 {
                    let key = (call.wrapping_mul(2_654_435_761) >> 9) % 30 + 1000 * thread;
                    let permit = keyed.admit(&key, &Now::unread()).unwrap();
                    let is_present = || keyed.entries().iter().any(|(of, _)| *of == key);
                    // Half of the entries have no call in flight, so there is always one that can go.
                    for _ in 0..3 {
                        assert!(is_present(), "{key} was evicted under a call");
                        std::thread::yield_now();
                    }
                    permit.settle(Outcome::SUCCESS);
                    assert!(keyed.len() <= 12);
                }
            });
        }
    });
}

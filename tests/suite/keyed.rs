//! A breaker per key: which keys share a policy, how many there are, and which are evicted.

use std::fmt;
use std::sync::Arc;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerState};
use buttress::clock::Now;
use buttress::event::Source;
use buttress::gate::{Evict, EvictionCost, KeyBy, Keyed, KeyedConfig, by, by_str};
use buttress::{Error, ErrorIsTransient, Outcome};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};

use crate::common::{
    Inner, Listener, Reported, SECOND, bad, good, rejection, settle, three_in_a_row,
};
use BreakerState::{Closed, Open};

/// The key is the request.
struct Own;

impl KeyBy<u32> for Own {
    type Key = u32;
    type Lookup<'a> = u32;

    fn lookup(&self, request: &u32) -> u32 {
        *request
    }

    fn to_key(&self, lookup: &u32) -> u32 {
        *lookup
    }
}

type PerNumber = Keyed<u32, Own, Breaker>;

fn per_number(name: &str, config: BreakerConfig, keys: KeyedConfig) -> PerNumber {
    Breaker::keyed(name, config, keys, Own).expect("a configuration that works")
}

fn at_most(max_keys: usize) -> KeyedConfig {
    KeyedConfig::default().max_keys(max_keys)
}

fn get(keyed: &PerNumber, key: u32) -> Arc<Breaker> {
    keyed.get(&key, &Now::unread())
}

/// The keys in the map, in order.
fn keys_of(keyed: &PerNumber) -> Vec<u32> {
    let mut keys: Vec<_> = keyed.entries().into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys
}

#[derive(Clone, Debug)]
struct Query {
    shard: &'static str,
}

fn shard() -> impl KeyBy<Query, Key = Box<str>> {
    by_str(|query: &Query| query.shard)
}

// ── which policy a key finds ──

#[test]
fn the_same_key_finds_the_same_policy_on_any_thread() {
    let keyed = per_number("threads", three_in_a_row(), KeyedConfig::default());
    settle(&get(&keyed, 7), 1, Outcome::TRANSIENT);
    std::thread::scope(|scope| {
        // More threads than shards, each of them new to the key.
        for _ in 0..20 {
            scope.spawn(|| settle(&get(&keyed, 7), 1, Outcome::SUCCESS));
        }
    });
    assert_eq!(keyed.len(), 1);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| settle(&get(&keyed, 7), 1, Outcome::TRANSIENT));
        });
    }
    assert_eq!(get(&keyed, 7).state(), Open);
    assert_eq!(&**get(&keyed, 7).name(), "threads/7");
    assert_eq!(get(&keyed, 8).state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn one_dead_shard_of_three_leaves_the_other_two_untouched() {
    let shards = tower::service_fn(async |query: Query| match query.shard {
        "dead" => Err(Error::Inner("dead")),
        alive => Ok(alive),
    });
    let keyed = Breaker::keyed("shards", three_in_a_row(), KeyedConfig::default(), shard());
    let mut service = BreakerLayer::new(keyed.unwrap(), ErrorIsTransient).layer(shards);
    let mut refused = 0;
    for _ in 0..100 {
        for shard in ["a", "dead", "b"] {
            let result = service.ready().await.unwrap().call(Query { shard }).await;
            match result {
                Ok(response) => assert_eq!(response, shard),
                Err(Error::Inner(_)) => assert_eq!(shard, "dead"),
                Err(Error::Rejected(rejected)) => {
                    assert_eq!(&*rejected.name, "shards/dead");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused, 97, "all but the three that opened it");
}

#[tokio::test(start_paused = true)]
async fn a_keyed_gate_polls_readiness_and_rejects_only_in_the_call() {
    let inner: Inner<Query> = Inner::new(|_| bad());
    let config = three_in_a_row().consecutive_failures(Some(1));
    let keyed = Breaker::keyed("in-call", config, KeyedConfig::default(), shard()).unwrap();
    let mut service = BreakerLayer::new(keyed, ErrorIsTransient).layer(inner.clone());
    let query = Query { shard: "s" };
    assert!(
        service
            .ready()
            .await
            .unwrap()
            .call(query.clone())
            .await
            .is_err()
    );
    for polled in 2..5 {
        let result = service.ready().await.unwrap().call(query.clone()).await;
        rejection(result);
        assert_eq!((inner.calls(), inner.ready_polls()), (1, polled));
    }
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_keyed_handle_and_its_layers_are_one() {
    let keyed =
        Breaker::keyed("clones", three_in_a_row(), KeyedConfig::default(), shard()).unwrap();
    let layer = BreakerLayer::new(keyed.clone(), ErrorIsTransient);
    let query = Query { shard: "s" };
    for _ in 0..3 {
        let service = layer.clone().layer(Inner::new(|_| bad()));
        assert!(service.oneshot(query.clone()).await.is_err());
    }
    assert_eq!(keyed.entries()[0].1.state(), Open);
    rejection(layer.layer(Inner::new(|_| good())).oneshot(query).await);
}

#[test]
fn a_key_that_is_borrowed_is_made_only_when_it_is_new() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CLONED: AtomicUsize = AtomicUsize::new(0);

    #[derive(PartialEq, Eq, Hash)]
    struct Key(&'static str);
    impl Clone for Key {
        fn clone(&self) -> Self {
            CLONED.fetch_add(1, Ordering::SeqCst);
            Self(self.0)
        }
    }
    impl fmt::Display for Key {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    let own: fn(&&'static str) -> Key = |key| Key(key);
    let keyed = Breaker::keyed("made", three_in_a_row(), KeyedConfig::default(), by(own)).unwrap();
    let first = keyed.get(&"k", &Now::unread());
    let made = CLONED.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(Arc::ptr_eq(&first, &keyed.get(&"k", &Now::unread())));
    }
    assert_eq!(CLONED.load(Ordering::SeqCst), made);
}

// ── eviction ──

#[tokio::test(start_paused = true)]
async fn at_the_cap_the_longest_idle_key_without_state_goes_first() {
    let listener = Listener::new("cap");
    let keyed = per_number("cap", three_in_a_row(), at_most(6));
    for key in 0..6 {
        settle(&get(&keyed, key), 1, Outcome::SUCCESS);
        advance(SECOND).await;
    }
    // An open circuit, a call in flight, a counted failure: 3 is the first without state.
    settle(&get(&keyed, 0), 3, Outcome::TRANSIENT);
    let _in_flight = get(&keyed, 1).try_acquire().unwrap();
    settle(&get(&keyed, 2), 1, Outcome::TRANSIENT);
    listener.take();
    get(&keyed, 6);
    assert_eq!(keys_of(&keyed), [0, 1, 2, 4, 5, 6]);
    assert_eq!(listener.take(), [Reported::Evicted("cap/3".to_owned())]);
    for key in 7..10 {
        advance(SECOND).await;
        get(&keyed, key);
    }
    assert_eq!(keys_of(&keyed), [0, 1, 2, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn counts_are_evicted_as_a_last_resort_but_an_open_circuit_never_before_its_time() {
    let keyed = per_number("before-its-time", three_in_a_row(), at_most(2));
    settle(&get(&keyed, 0), 3, Outcome::TRANSIENT);
    settle(&get(&keyed, 1), 2, Outcome::TRANSIENT);
    get(&keyed, 2);
    assert_eq!(keys_of(&keyed), [0, 2]);
    for key in 3..50 {
        advance(SECOND / 100).await;
        get(&keyed, key);
        assert_eq!(get(&keyed, 0).state(), Open);
    }
    // Its open time is over: its counts are out of date.
    advance(2 * SECOND).await;
    let _in_flight = get(&keyed, 49).try_acquire().unwrap();
    get(&keyed, 50);
    assert_eq!(keys_of(&keyed), [49, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_without_room_shares_the_overflow_policy_and_reports_it() {
    let listener = Listener::new("overflow");
    let keyed = per_number("overflow", three_in_a_row(), at_most(3));
    for key in 0..3 {
        settle(&get(&keyed, key), 3, Outcome::TRANSIENT);
    }
    listener.take();
    let shared = get(&keyed, 3);
    assert_eq!(&**shared.name(), "overflow/overflow");
    let overflowed = Reported::Overflow("overflow/overflow".to_owned());
    assert_eq!(listener.take(), [overflowed]);
    settle(&shared, 1, Outcome::TRANSIENT);
    settle(&get(&keyed, 4), 1, Outcome::TRANSIENT);
    settle(&get(&keyed, 5), 1, Outcome::TRANSIENT);
    assert_eq!(get(&keyed, 6).state(), Open, "they are one circuit");
    assert_eq!(keys_of(&keyed), [0, 1, 2], "and take no room");
    advance(2 * SECOND).await;
    assert_eq!(
        &**get(&keyed, 7).name(),
        "overflow/7",
        "there is room again"
    );
    assert_eq!(keyed.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_key_is_evicted_when_the_next_new_one_comes() {
    let listener = Listener::new("idle");
    let keys = KeyedConfig::default().idle(60 * SECOND);
    let keyed = per_number("idle", three_in_a_row(), keys);
    settle(&get(&keyed, 0), 2, Outcome::TRANSIENT);
    get(&keyed, 1);
    get(&keyed, 2).isolate();
    let used = get(&keyed, 3);
    drop(used);
    for _ in 0..7 {
        advance(10 * SECOND).await;
        get(&keyed, 3);
        get(&keyed, 1000);
    }
    listener.take();
    advance(10 * SECOND).await;
    get(&keyed, 4);
    assert_eq!(keys_of(&keyed), [2, 3, 4, 1000]);
    let mut reported = listener.take();
    reported.sort_by_key(|reported| format!("{reported:?}"));
    let evicted = ["idle/0", "idle/1"].map(|name| Reported::Evicted(name.to_owned()));
    assert_eq!(reported, evicted);
    settle(&get(&keyed, 0), 2, Outcome::TRANSIENT);
    assert_eq!(get(&keyed, 0).state(), Closed, "it was evicted");
}

#[test]
fn invalid_settings_are_named() {
    let field = |keys, config| {
        let refused = Breaker::keyed::<u32, _>("bad", config, keys, Own);
        refused.expect_err("it cannot work").field
    };
    assert_eq!(field(at_most(0), three_in_a_row()), "max_keys");
    assert_eq!(field(at_most(usize::MAX), three_in_a_row()), "max_keys");
    let at_once = KeyedConfig::default().idle(std::time::Duration::ZERO);
    assert_eq!(field(at_once, three_in_a_row()), "idle");
    let no_probes = three_in_a_row().probes(0);
    assert_eq!(field(at_most(1), no_probes), "probes");
}

#[test]
fn a_new_key_in_a_full_map_checks_a_bounded_number_of_entries() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CHECKS: AtomicUsize = AtomicUsize::new(0);

    /// The keys below the given one must stay.
    #[derive(Clone)]
    struct Fixed(Arc<Source>, EvictionCost);
    impl Evict for Fixed {
        fn eviction_cost(&self, _: &Now) -> EvictionCost {
            CHECKS.fetch_add(1, Ordering::Relaxed);
            self.1
        }
        fn source(&self) -> &Source {
            &self.0
        }
    }

    // All can go, none can, or only the newest.
    for stay in [0, 1600, 1599] {
        let keyed = Keyed::new(Own, at_most(1600), move |key| {
            let stays = key.parse::<u32>().is_ok_and(|key| key < stay);
            let eviction_cost =
                [EvictionCost::Nothing, EvictionCost::Essentials][usize::from(stays)];
            Fixed(
                Arc::new(Source::new("fixed", format!("checks/{key}"))),
                eviction_cost,
            )
        })
        .unwrap();
        for key in 0..1600 {
            keyed.get(&key, &Now::unread());
        }
        let now = Now::unread();
        for key in 1600..3200 {
            CHECKS.store(0, Ordering::Relaxed);
            keyed.get(&key, &now);
            let checks = CHECKS.load(Ordering::Relaxed);
            // Sixteen that are sampled, and a second check of the one that is evicted.
            assert!(checks <= 17, "{checks} checks for one new key");
        }
        assert_eq!(keyed.len(), 1600);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_keys_of_a_large_map_go_as_new_ones_come() {
    let keys = KeyedConfig::default().idle(60 * SECOND);
    let keyed = per_number("idle-large", three_in_a_row(), keys);
    for key in 0..1000 {
        get(&keyed, key);
        get(&keyed, key);
    }
    advance(60 * SECOND).await;
    // Each new key checks sixteen. The first check finds that each was used, the next one that it has been idle since.
    for key in 1000..1070 {
        get(&keyed, key);
    }
    assert_eq!(keyed.len(), 1070);
    advance(60 * SECOND).await;
    for key in 2000..2080 {
        get(&keyed, key);
    }
    assert_eq!(keyed.len(), 80);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_new_keys_evicts_no_open_circuit_and_no_call() {
    let keyed = per_number(
        "flooded",
        three_in_a_row().open_for(3600 * SECOND),
        at_most(200),
    );
    for key in 0..50 {
        settle(&get(&keyed, key), 3, Outcome::TRANSIENT);
    }
    let permits: Vec<_> = (50..100)
        .map(|key| get(&keyed, key).try_acquire().unwrap())
        .collect();
    let held: Vec<_> = (100..120).map(|key| get(&keyed, key)).collect();
    for key in 1000..5000 {
        settle(&get(&keyed, key), 1, Outcome::SUCCESS);
        assert!(keyed.len() <= 200);
    }
    let stayed: Vec<_> = keys_of(&keyed)
        .into_iter()
        .take_while(|key| *key < 120)
        .collect();
    assert_eq!(stayed, (0..120).collect::<Vec<_>>());
    drop((permits, held));
}

#[test]
fn many_threads_and_many_keys_stay_within_the_cap() {
    let keyed = per_number("crowd", three_in_a_row(), at_most(64));
    get(&keyed, 0).isolate();
    let in_flight = get(&keyed, 1).try_acquire().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let keyed = &keyed;
            scope.spawn(move || {
                for call in 0..2_000_u32 {
                    let key = 2 + (call.wrapping_mul(2_654_435_761) >> 7) % 500;
                    let outcome = [Outcome::SUCCESS, Outcome::PERMANENT][(call % 2) as usize];
                    settle(&get(keyed, key), 1, outcome);
                    assert!(get(keyed, 0).try_acquire().is_err(), "thread {thread}");
                    assert!(keyed.len() <= 64);
                }
            });
        }
    });
    assert!(keys_of(&keyed).starts_with(&[0, 1]));
    get(&keyed, 1).force_open(SECOND);
    in_flight.settle(Outcome::SUCCESS);
    assert_eq!(get(&keyed, 1).state(), BreakerState::ForcedOpen);
}

#[test]
fn make_may_use_the_map() {
    use std::sync::{OnceLock, mpsc};
    static MAP: OnceLock<PerNumber> = OnceLock::new();

    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let map = Keyed::new(Own, at_most(1), |key| {
            let map = MAP.get().expect("made before");
            Breaker::new(format!("{key} after {}", map.len()), three_in_a_row()).unwrap()
        });
        let map = MAP.get_or_init(|| map.unwrap());
        let names = [1, 2, 3].map(|key| {
            let policy = get(map, key);
            policy.isolate();
            policy.name().to_string()
        });
        done.send(names).unwrap();
    });
    let names = finished.recv_timeout(10 * SECOND).expect("no deadlock");
    assert_eq!(names, ["1 after 0", "overflow after 1", "overflow after 1"]);
}

// ── other settings while it runs ──

#[tokio::test(start_paused = true)]
async fn reconfigure_reaches_all_keys_and_new_ones() {
    let fast = three_in_a_row();
    let breakers = per_number("reconfigured", fast, at_most(1));
    let inserted = get(&breakers, 1);
    let _held = inserted.try_acquire().unwrap();
    let overflow = get(&breakers, 2);
    let slow = fast.open_for(60 * SECOND);
    breakers.reconfigure(slow).unwrap();
    assert_eq!((inserted.config(), overflow.config()), (slow, slow));
    let roomy = at_most(10);
    breakers.bound(roomy).unwrap();
    assert_eq!(get(&breakers, 3).config(), slow);
    assert_eq!(breakers.len(), 2);
    let error = breakers.reconfigure(slow.probes(0)).unwrap_err();
    assert_eq!(error.field, "probes");
    assert_eq!(inserted.config(), slow, "nothing was changed");
}

//! A server that is no longer the primary although its connections are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buttress::idempotency::store::{Begun, Store as _, StoreError};
use buttress_redis::RedisStore;

use super::fake::Fake;
use super::private::{Private, free_ports};
use super::proxy::Proxy;
use super::trouble::command;
use super::{HOUR, STARTED, begin_at_once, claim, key, unavailable};

const RUNNING: &str = "*1\r\n$7\r\nrunning\r\n";

/// A primary and its replica, which is up to date.
pub(super) struct Pair {
    pub(super) primary: Private,
    pub(super) replica: Private,
    pub(super) ports: [u16; 2],
}

impl Pair {
    pub(super) async fn start() -> Self {
        let ports = free_ports::<2>();
        let of = |port: u16| format!("port {port}");
        let at_once = "repl-diskless-sync-delay 0";
        let primary = Private::start(&["bind 127.0.0.1", &of(ports[0]), at_once]);
        let master = format!("replicaof 127.0.0.1 {}", ports[0]);
        let replica = Private::start(&["bind 127.0.0.1", &of(ports[1]), &master]);
        let pair = Self {
            primary,
            replica,
            ports,
        };
        pair.settle().await;
        pair
    }

    /// Waits until the replica is up to date.
    pub(super) async fn settle(&self) {
        let mut beside = self.primary.connection().await;
        let () = redis::cmd("SET")
            .arg("settled")
            .arg(1)
            .query_async(&mut beside)
            .await
            .unwrap();
        for _ in 0..100 {
            let mut wait = redis::cmd("WAIT");
            let wait = wait.arg(1).arg(100).query_async::<i64>(&mut beside).await;
            if wait.unwrap() == 1 {
                return;
            }
        }
        panic!("the replica does not follow");
    }

    pub(super) async fn promote(&self) {
        command(&mut self.replica.connection().await, "REPLICAOF NO ONE").await;
    }

    /// As an orchestrator does: first promotes the replica, then demotes the primary.
    async fn fail_over(&self) {
        self.promote().await;
        let follow = format!("REPLICAOF 127.0.0.1 {}", self.ports[1]);
        command(&mut self.primary.connection().await, &follow).await;
    }
}

/// A store that is connected to the primary of a pair through a proxy.
async fn connected_pair() -> (Pair, Proxy, RedisStore) {
    let pair = Pair::start().await;
    let proxy = Proxy::to(&pair.primary).await;
    let store = RedisStore::connect(proxy.url()).await.unwrap();
    (pair, proxy, store)
}

/// Claims new keys until one succeeds. Returns how many failed.
async fn failures(store: &RedisStore) -> usize {
    for failed in 0..40 {
        match store.begin(&key(), &claim()).await {
            Ok(begun) => {
                assert_eq!(begun, STARTED);
                return failed;
            }
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the store does not recover");
}

/// Longer than the shortest time between two connections.
async fn connection_is_old() {
    tokio::time::sleep(Duration::from_millis(120)).await;
}

#[tokio::test]
async fn a_demoted_primary_is_replaced_within_the_first_call() {
    let (pair, proxy, store) = connected_pair().await;
    let (key, claim) = (key(), claim());
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    pair.settle().await;
    connection_is_old().await;
    pair.fail_over().await;
    proxy.switch_to(&pair.replica);
    // The record was replicated, and its holder still has it.
    assert!(store.renew(&key, claim.token, HOUR, HOUR).await.unwrap());
    assert_eq!(proxy.accepted(), 2);
    assert_eq!(failures(&store).await, 0);
}

#[tokio::test]
async fn many_calls_replace_a_demoted_primary_once() {
    let (pair, proxy, store) = connected_pair().await;
    connection_is_old().await;
    pair.fail_over().await;
    proxy.switch_to(&pair.replica);
    for begun in begin_at_once(&store, 100).await {
        assert_eq!(begun.unwrap(), STARTED);
    }
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_primary_demoted_before_the_failover_of_its_address_is_replaced_soon_after() {
    let (pair, proxy, store) = connected_pair().await;
    connection_is_old().await;
    pair.fail_over().await;
    for _ in 0..20 {
        let refused = store.begin(&key(), &claim()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
    proxy.switch_to(&pair.replica);
    // The newest connection may be too young to be replaced.
    assert!(failures(&store).await <= 3);
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_after_one_call_without_a_response() {
    let (pair, proxy, store) = connected_pair().await;
    assert_eq!(failures(&store).await, 0);
    pair.settle().await;
    pair.primary.freeze();
    pair.promote().await;
    proxy.switch_to(&pair.replica);
    assert!(failures(&store).await <= 1);
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_new_address_is_used_after_failed_calls_to_a_frozen_primary() {
    let (pair, proxy, store) = connected_pair().await;
    pair.primary.freeze();
    for _ in 0..3 {
        let silent = store.begin(&key(), &claim()).await;
        assert!(matches!(silent, Err(StoreError::Unavailable(_))));
    }
    pair.promote().await;
    proxy.switch_to(&pair.replica);
    assert_eq!(failures(&store).await, 0);
}

#[tokio::test]
async fn dropped_calls_reveal_a_frozen_primary_too() {
    let (pair, proxy, store) = connected_pair().await;
    pair.primary.freeze();
    pair.promote().await;
    proxy.switch_to(&pair.replica);
    let mut left = 0;
    while left < 20 {
        let limit = Duration::from_millis(300);
        match tokio::time::timeout(limit, store.begin(&key(), &claim())).await {
            Ok(begun) => {
                assert_eq!(begun.unwrap(), STARTED);
                break;
            }
            Err(_) => left += 1,
        }
    }
    assert!((1..=5).contains(&left), "{left} calls left");
}

#[tokio::test]
async fn an_error_of_a_misplaced_server_replaces_the_connection() {
    for response in [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "NOAUTH Authentication required.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    ] {
        let server = Fake::start(move |connection, _| match connection {
            1 => Some(format!("-{response}\r\n")),
            _ => Some(RUNNING.to_owned()),
        })
        .await;
        let store = RedisStore::connect(&server.url).await.unwrap();
        connection_is_old().await;
        let begun = store.begin(&key(), &claim()).await;
        assert!(matches!(begun, Ok(Begun::Running)), "{response}: {begun:?}");
        assert_eq!(server.accepted(), 2, "{response}");
        assert_eq!(server.commands(), ["EVALSHA", "EVALSHA"], "{response}");
    }
}

#[tokio::test]
async fn an_error_about_the_record_or_the_script_does_not_replace_the_connection() {
    for response in [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR the store needs Redis 7.0 or later",
        "BUSY Redis is busy running a script.",
    ] {
        let server = Fake::start(move |_, _| Some(format!("-{response}\r\n"))).await;
        let store = RedisStore::connect(&server.url).await.unwrap();
        connection_is_old().await;
        store.begin(&key(), &claim()).await.expect_err(response);
        assert_eq!(server.accepted(), 1, "{response}");
        assert_eq!(server.commands(), ["EVALSHA"], "{response}");
    }
}

#[tokio::test]
async fn not_every_call_reconnects_to_a_read_only_server() {
    let read_only = "-READONLY You can't write against a read only replica.\r\n";
    let server = Fake::start(move |_, _| Some(read_only.to_owned())).await;
    let store = RedisStore::connect(&server.url).await.unwrap();
    for _ in 0..500 {
        unavailable(store.begin(&key(), &claim())).await;
    }
    assert!(server.accepted() < 100, "{} connections", server.accepted());
}

#[tokio::test]
async fn a_rejected_password_is_tried_again() {
    let is_refused = Arc::new(AtomicBool::new(false));
    let refuses = Arc::clone(&is_refused);
    let server = Fake::start(move |connection, command| {
        let refused = refuses.load(Ordering::SeqCst);
        let response = match command {
            "AUTH" if refused => {
                "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
            }
            "AUTH" => "+OK\r\n",
            _ if connection == 1 => "-NOAUTH Authentication required.\r\n",
            _ => RUNNING,
        };
        Some(response.to_owned())
    })
    .await;
    let url = server.url.replace("//", "//:secret@");
    let store = RedisStore::connect(&url).await.unwrap();
    connection_is_old().await;
    is_refused.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = unavailable(store.begin(&key(), &claim())).await;
        assert!(!error.contains("secret"), "{error}");
    }
    is_refused.store(false, Ordering::SeqCst);
    let begun = store.begin(&key(), &claim()).await.unwrap();
    assert_eq!(begun, Begun::Running);
}

#[tokio::test]
async fn many_calls_share_one_attempt_to_connect_and_its_failure() {
    let server = Fake::start(|connection, command| match (connection, command) {
        (2, "AUTH") => None,
        (_, "AUTH") => Some("+OK\r\n".to_owned()),
        (1, _) => Some("-READONLY You can't write against a read only replica.\r\n".to_owned()),
        _ => Some(RUNNING.to_owned()),
    })
    .await;
    let url = server.url.replace("//", "//:secret@");
    let store = RedisStore::connect(&url).await.unwrap();
    connection_is_old().await;
    for begun in begin_at_once(&store, 50).await {
        unavailable(async { begun }).await;
    }
    assert_eq!(server.accepted(), 2);
    let begun = store.begin(&key(), &claim()).await.unwrap();
    assert_eq!(begun, Begun::Running);
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn a_lazy_store_needs_no_server_before_its_first_call() {
    let server = Fake::start(|_, _| Some(RUNNING.to_owned())).await;
    let store = RedisStore::connect_lazy(&server.url).unwrap();
    assert_eq!(server.accepted(), 0);
    let begun = store.begin(&key(), &claim()).await.unwrap();
    assert_eq!((begun, server.accepted()), (Begun::Running, 1));
    RedisStore::connect_lazy("no address").expect_err("no address");
}

#[test]
fn a_store_outlives_the_runtime_that_connected() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let servers = runtime();
    let server = servers.block_on(Fake::start(|_, _| Some(RUNNING.to_owned())));
    std::thread::spawn(move || servers.block_on(std::future::pending::<()>()));
    let store = RedisStore::connect_lazy(&server.url).unwrap();
    let begun = || async { store.begin(&key(), &claim()).await };
    for _ in 0..2 {
        // Each runtime ends with its connections.
        assert_eq!(runtime().block_on(begun()).unwrap(), Begun::Running);
    }
    // A runtime that exists but is not driven any more.
    let stopped = runtime();
    assert_eq!(stopped.block_on(begun()).unwrap(), Begun::Running);
    let begun_again = runtime().block_on(async {
        for failed in 0.. {
            match begun().await {
                Ok(begun) => return (begun, failed),
                Err(error) => assert!(failed < 2, "{error}"),
            }
        }
        unreachable!("an endless loop")
    });
    assert!(matches!(begun_again, (Begun::Running, 0 | 1)));
    drop(stopped);
}

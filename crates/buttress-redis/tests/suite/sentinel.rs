//! A primary that Redis Sentinel names.

use std::time::Duration;

use buttress::idempotency::store::{Begun, Store as _, StoreError};
use buttress_redis::RedisStore;
use redis::aio::MultiplexedConnection;

use super::failover::Pair;
use super::private::{Private, free_ports};
use super::{STARTED, claim, key};

/// A sentinel that watches the pair as `payments`.
struct Sentinel {
    server: Private,
    url: String,
}

impl Sentinel {
    async fn of(pair: &Pair) -> Self {
        let [port] = free_ports();
        let settings = ["bind 127.0.0.1", &format!("port {port}")];
        let server = Private::start_sentinel(&settings);
        let url = format!("redis://127.0.0.1:{port}");
        let sentinel = Self { server, url };
        let monitor = format!("SENTINEL MONITOR payments 127.0.0.1 {} 1", pair.ports[0]);
        let () = sentinel.ask(&monitor).await;
        let soon = "SENTINEL SET payments down-after-milliseconds 1000 failover-timeout 3000";
        let () = sentinel.ask(soon).await;
        // It finds the replica through the primary, at the start and every ten seconds.
        for turn in 0.. {
            let replicas: Vec<redis::Value> = sentinel.ask("SENTINEL REPLICAS payments").await;
            if !replicas.is_empty() {
                break;
            }
            assert!(turn < 600, "no replica in 30 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sentinel
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &str) -> T {
        let client = redis::Client::open(&*self.url).unwrap();
        let connection = client.get_multiplexed_async_connection().await;
        let mut connection: MultiplexedConnection = connection.unwrap();
        let mut command = redis::Cmd::new();
        for word in words.split(' ') {
            command.arg(word);
        }
        let response = command.query_async(&mut connection).await;
        response.unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// A promoted replica is not a primary to the sentinel at once: it rejects the failover until it has checked.
    async fn fail_over(&self) {
        for turn in 0.. {
            let client = redis::Client::open(&*self.url).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let mut command = redis::cmd("SENTINEL");
            command.arg("FAILOVER").arg("payments");
            match command.exec_async(&mut connection).await {
                Ok(()) => return,
                Err(error) => assert!(turn < 300, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Claims a key until it succeeds. Returns the result and the number of failed attempts.
async fn claimed(store: &RedisStore) -> (Begun, usize) {
    for failed in 0..300 {
        match store.begin(&key(), &claim()).await {
            Ok(begun) => return (begun, failed),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the store does not recover");
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let pair = Pair::start().await;
    let sentinel = Sentinel::of(&pair).await;
    let [dead] = free_ports();
    let dead = format!("redis://127.0.0.1:{dead}");
    let urls = [&*dead, &*sentinel.url];
    let store = RedisStore::sentinel(urls, "payments").await.unwrap();
    let (mine, held) = (key(), claim());
    assert_eq!(store.begin(&mine, &held).await.unwrap(), STARTED);
    pair.settle().await;
    sentinel.fail_over().await;
    // The old primary accepts claims until the replica is promoted.
    let promoted = format!("{}", pair.ports[1]);
    for turn in 0.. {
        let address: Vec<String> = sentinel
            .ask("SENTINEL GET-MASTER-ADDR-BY-NAME payments")
            .await;
        if address[1] == promoted {
            break;
        }
        assert!(turn < 600, "no failover in 30 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(claimed(&store).await.0, STARTED);
    pair.primary.freeze();
    let (begun, failed) = claimed(&store).await;
    assert_eq!(begun, STARTED);
    assert!(failed <= 2, "{failed} attempts failed");
    // The record was replicated.
    assert_eq!(store.begin(&mine, &claim()).await.unwrap(), Begun::Running);
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_an_error() {
    let pair = Pair::start().await;
    let sentinel = Sentinel::of(&pair).await;
    let unknown = RedisStore::sentinel([&*sentinel.url], "orders").await;
    let error = unknown.expect_err("another service");
    assert!(error.to_string().contains("orders"), "{error}");
    for (urls, service) in [
        (vec![], "payments"),
        (vec!["no address"], "payments"),
        (vec![&*sentinel.url], ""),
    ] {
        let error = RedisStore::sentinel(urls, service)
            .await
            .expect_err(service);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    // The password and database are those of the primary; the sentinel has none.
    let secret = "CONFIG SET requirepass secret";
    super::trouble::command(&mut pair.primary.connection().await, secret).await;
    let refused = RedisStore::sentinel([&*sentinel.url], "payments").await;
    refused.expect_err("no password");
    let address = "redis://:secret@payments/1";
    let store = RedisStore::sentinel([&*sentinel.url], address)
        .await
        .unwrap();
    assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
    drop(sentinel.server);
}

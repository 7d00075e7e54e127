//! Records in a Redis Cluster.

use std::time::Duration;

use buttress::idempotency::store::{Begun, RecordKey, Store as _, StoreError};
use buttress::testing::{check_lookup, check_store};
use buttress_redis::RedisStore;

use super::nodes::{Cluster, Node};
use super::replicas::Patient;
use super::{HOUR, STARTED, claim, key};

async fn store(cluster: &Cluster) -> RedisStore {
    let urls = cluster.urls();
    RedisStore::cluster(urls.iter().map(String::as_str))
        .await
        .expect("a cluster")
}

fn name(key: &RecordKey) -> String {
    let (high, low) = key.0.split_at(16);
    let [high, low] = [high, low].map(|half| u128::from_be_bytes(half.try_into().unwrap()));
    format!("buttress:{high:032x}{low:032x}")
}

async fn slot(node: &Node, key: &RecordKey) -> u32 {
    node.ask(&format!("CLUSTER KEYSLOT {}", name(key))).await
}

#[tokio::test]
async fn a_cluster_fulfills_the_contract_on_all_its_nodes() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let store = store(&cluster).await;
    check_store(&store).await;
    check_lookup(&store).await;
    for _ in 0..60 {
        assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
    }
    for node in &cluster.nodes {
        assert!(node.ask::<u64>("DBSIZE").await > 5);
    }
}

#[tokio::test]
async fn a_connection_of_the_users_own_leads_to_all_nodes() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let store = RedisStore::with(client.get_async_connection().await.unwrap());
    check_store(&store).await;
    let (key, claim) = (key(), claim());
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    let found = store.find(&key).await.unwrap().expect("an entry");
    assert_eq!((found.token, found.run), (claim.token, 1));
    // A scan would only see one of the nodes.
    let error = store.list(None, 10).await.expect_err("several servers");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    println!("{error}");
}

#[tokio::test]
async fn scripts_flushed_from_one_node_are_sent_again() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let store = store(&cluster).await;
    for _ in 0..3 {
        for node in &cluster.nodes {
            let () = node.ask("SCRIPT FLUSH").await;
        }
        for _ in 0..10 {
            assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
        }
    }
}

#[tokio::test]
async fn a_migrated_slot_takes_its_records_along() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let store = store(&cluster).await;
    let (key, claim) = (key(), claim());
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    let slot = slot(&cluster.nodes[0], &key).await;
    let from = usize::try_from(slot * 3 / 16_384).unwrap();
    let (from, to) = (&cluster.nodes[from], &cluster.nodes[(from + 1) % 3]);
    let importing = format!("CLUSTER SETSLOT {slot} IMPORTING {}", from.id);
    let () = to.ask(&importing).await;
    let migrating = format!("CLUSTER SETSLOT {slot} MIGRATING {}", to.id);
    let () = from.ask(&migrating).await;
    let held = |token| store.renew(&key, token, HOUR, HOUR);
    assert!(held(claim.token).await.unwrap());
    let migrate = format!("MIGRATE 127.0.0.1 {} {} 0 5000", to.port, name(&key));
    let () = from.ask(&migrate).await;
    // ASK: the slot is still the other node's.
    assert!(held(claim.token).await.unwrap());
    for node in &cluster.nodes {
        let assign = format!("CLUSTER SETSLOT {slot} NODE {}", to.id);
        let () = node.ask(&assign).await;
    }
    // MOVED.
    assert!(held(claim.token).await.unwrap());
    let second = super::claim();
    assert_eq!(store.begin(&key, &second).await.unwrap(), Begun::Running);
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_by_its_replica() {
    let cluster = Cluster::start(3, 1, &[]).await;
    let store = store(&cluster).await;
    // Some on each node.
    let keys: Vec<RecordKey> = (0..30).map(|_| key()).collect();
    for key in &keys {
        assert_eq!(store.begin(key, &claim()).await.unwrap(), STARTED);
    }
    let [primary, .., replica] = &cluster.nodes[..] else {
        panic!("four nodes");
    };
    let written: i64 = primary.ask("WAIT 1 400").await;
    assert_eq!(written, 1);
    primary.server.freeze();
    let () = replica.ask("CLUSTER FAILOVER TAKEOVER").await;
    let mut failed = 0;
    for key in &keys {
        loop {
            match store.begin(key, &claim()).await {
                Ok(begun) => {
                    assert_eq!(begun, Begun::Running);
                    break;
                }
                Err(StoreError::Unavailable(_)) => failed += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(failed < 10, "the store does not recover");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("{failed} calls failed until the replica was used");
}

#[tokio::test]
async fn claims_wait_for_the_replicas_of_their_own_node() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let store = store(&cluster).await;
    let one = Patient(store.clone().replicas(1).unwrap());
    for _ in 0..20 {
        assert_eq!(one.begin(&key(), &claim()).await.unwrap(), STARTED);
    }
    let two = store.replicas(2).unwrap();
    let error = two.begin(&key(), &claim()).await.expect_err("one replica");
    assert!(
        error.to_string().contains("must reach 2 replicas"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_evicts_is_found() {
    let cluster = Cluster::start(3, 0, &["maxmemory-policy noeviction"]).await;
    let node = &cluster.nodes[1];
    let reports = super::eviction_policy::Reports::of(format!("127.0.0.1:{}", node.port));
    store(&cluster).await;
    assert_eq!(reports.take(), [""; 0]);
    let () = node.ask("CONFIG SET maxmemory-policy volatile-lru").await;
    store(&cluster).await;
    let lines = reports.take();
    assert!(
        matches!(&lines[..], [line] if line.contains("`volatile-lru`")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_unreachable_cluster_is_an_error_soon() {
    let [port] = super::private::free_ports();
    let nowhere = format!("redis://127.0.0.1:{port}");
    for urls in [vec![&*nowhere], vec!["no address"], Vec::new()] {
        let error = RedisStore::cluster(urls).await.expect_err("no cluster");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

//! Look-up and repair of records in Redis.

use std::collections::HashSet;
use std::time::Duration;

use buttress::idempotency::store::{RecordKey, Resolved, Store as _, StoreError};
use buttress_redis::RedisStore;
use bytes::Bytes;

use super::nodes::Cluster;
use super::private::Private;
use super::proxy::Proxy;
use super::trouble::command;
use super::{HOUR, STARTED, claim, key, started};

/// All keys that a scan finds, and in how many pages.
async fn scanned(store: &RedisStore, limit: usize) -> (HashSet<RecordKey>, usize) {
    let (mut keys, mut pages) = (HashSet::new(), 0);
    let mut after: Option<String> = None;
    loop {
        let page = store.list(after.as_deref(), limit).await.unwrap();
        assert_eq!(page.unreadable, 0);
        keys.extend(page.entries.iter().map(|entry| entry.key));
        pages += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => return (keys, pages),
        }
    }
}

async fn claimed(store: &RedisStore, count: usize) -> HashSet<RecordKey> {
    let mut keys = HashSet::new();
    for _ in 0..count {
        let key = key();
        assert_eq!(store.begin(&key, &claim()).await.unwrap(), STARTED);
        keys.insert(key);
    }
    keys
}

#[tokio::test]
async fn a_scan_finds_the_records_of_its_prefix_and_no_others() {
    let (server, store) = started(&[]).await;
    // As patterns they would match each other.
    let mut all = Vec::new();
    for prefix in ["a", "a*", "a?", "[ab]", "a\\b", "a^", "ab"] {
        let store = store.clone().prefix(prefix).unwrap();
        let keys = claimed(&store, 20).await;
        all.push((store, keys));
    }
    command(&mut server.connection().await, "SET a:not-a-record 1").await;
    command(&mut server.connection().await, "SET abc 1").await;
    for (store, keys) in all {
        let (found, pages) = scanned(&store, 5).await;
        assert_eq!(found, keys, "{store:?}");
        assert!(pages > 1);
    }
}

#[tokio::test]
async fn a_scan_of_a_cluster_goes_through_all_nodes() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let urls = cluster.urls();
    let store = RedisStore::cluster(urls.iter().map(String::as_str)).await;
    let store = store.unwrap();
    let keys = claimed(&store, 200).await;
    let (found, pages) = scanned(&store, 20).await;
    assert_eq!(found, keys);
    assert!(pages >= 9, "{pages} pages");
    // At least one page for each node.
    assert_eq!(scanned(&store, usize::MAX).await, (keys, 3));

    // A scan fails after slots were migrated, because it would leave out records.
    let page = store.list(None, 20).await.unwrap();
    let epoch: String = cluster.nodes[0].ask("CLUSTER BUMPEPOCH").await;
    println!("the epoch: {epoch}");
    let later = store.list(page.next.as_deref(), 20).await;
    let error = later.expect_err("another epoch");
    assert!(error.to_string().contains("start it again"), "{error}");
}

#[tokio::test]
async fn a_scan_does_not_continue_on_another_server() {
    let (mut first, second) = (Private::start(&[]), Private::start(&[]));
    let proxy = Proxy::to(&first).await;
    let store = RedisStore::connect(proxy.url()).await.unwrap();
    claimed(&store, 100).await;
    let page = store.list(None, 10).await.unwrap();
    let next = page.next.expect("more than a page");
    assert!(store.list(Some(&next), 10).await.is_ok());
    proxy.switch_to(&second);
    first.kill();
    let error = store
        .list(Some(&next), 10)
        .await
        .expect_err("another server");
    assert!(error.to_string().contains("start it again"), "{error}");
    for wrong in ["", "0", "x/y", "1/-1"] {
        let error = store.list(Some(wrong), 10).await;
        let error = error.expect_err(wrong);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("is not a cursor"), "{error}");
    }
}

#[tokio::test]
async fn a_full_server_is_looked_up_and_released() {
    let (server, store) = started(&["maxmemory-policy noeviction"]).await;
    let (key, held) = (key(), claim());
    assert_eq!(store.begin(&key, &held).await.unwrap(), STARTED);
    let ended = store.renew(&key, held.token, Duration::ZERO, HOUR).await;
    assert!(ended.unwrap());
    command(&mut server.connection().await, "CONFIG SET maxmemory 1000").await;
    let seen = store.find(&key).await.unwrap().expect("an entry");
    assert_eq!(scanned(&store, 100).await.0, HashSet::from([key]));
    let record = |length| {
        let response = Bytes::from(vec![b'x'; length]);
        seen.resolve(Duration::ZERO, Some((response, HOUR)))
    };
    let refused = store.resolve(&key, &record(1_000)).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let resolved = store.resolve(&key, &record(100)).await.unwrap();
    assert_eq!(resolved, Resolved::Resolved);
    command(&mut server.connection().await, "CONFIG SET maxmemory 0").await;
    let seen = store.find(&key).await.unwrap().expect("an entry");
    let long = seen.resolve(Duration::ZERO, Some((vec![b'x'; 1_000].into(), HOUR)));
    let resolved = store.resolve(&key, &long).await.unwrap();
    assert_eq!(resolved, Resolved::Resolved);
    command(&mut server.connection().await, "CONFIG SET maxmemory 1000").await;
    let seen = store.find(&key).await.unwrap().expect("an entry");
    let release = seen.resolve(Duration::ZERO, None);
    let resolved = store.resolve(&key, &release).await.unwrap();
    assert_eq!(resolved, Resolved::Resolved);
    assert_eq!(store.find(&key).await.unwrap(), None);
}

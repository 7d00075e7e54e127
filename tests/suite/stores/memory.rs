//! Records in memory.

use std::time::Duration;

use buttress::idempotency::store::{
    Begun, Claim, Ended, Fingerprint, MemoryStore, Resolved, Store,
};
use buttress::testing::{check_lookup, check_store};
use bytes::Bytes;

use super::{LEASE, TTL, claim, fill, is_full, key};

/// A store for this many records without responses.
fn room_for(records: usize) -> MemoryStore {
    MemoryStore::with_max_bytes(records * 512).unwrap()
}

#[tokio::test]
async fn it_fulfills_the_contract() {
    let store = MemoryStore::new();
    check_store(&store).await;
    check_lookup(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_store_rejects_new_keys_until_records_expire() {
    let store = room_for(2);
    fill(&store).await;
    tokio::time::advance(LEASE + Duration::from_millis(1)).await;
    let holder = claim();
    store.begin(&key(3), &holder).await.unwrap();
    assert_eq!(store.len(), 1);
    let fits = Bytes::from(vec![0; 512]);
    let taken = store.complete(&key(3), holder.token, fits, TTL).await;
    assert_eq!(taken.unwrap(), Ended::Taken);
    assert!(is_full(&store.begin(&key(4), &claim()).await));
}

#[tokio::test(start_paused = true)]
async fn a_recorded_response_takes_room_and_a_released_record_gives_it_back() {
    let store = room_for(2);
    let claim = Claim::new(Fingerprint([0; 32]), Duration::ZERO, TTL);
    store.begin(&key(1), &claim).await.unwrap();
    let resolve = async |length: usize| {
        let entry = store.find(&key(1)).await.unwrap().unwrap();
        let resolve = entry.resolve(Duration::ZERO, Some((vec![1; length].into(), TTL)));
        store.resolve(&key(1), &resolve).await
    };
    let refused = resolve(513).await;
    assert!(is_full(&refused), "{refused:?}");
    let entry = store.find(&key(1)).await.unwrap().unwrap();
    assert!(!entry.is_done(), "a response without room changes nothing");
    assert_eq!(resolve(512).await.unwrap(), Resolved::Resolved);
    assert!(is_full(&store.begin(&key(2), &claim).await));
    let entry = store.find(&key(1)).await.unwrap().unwrap();
    let release = entry.resolve(Duration::ZERO, None);
    let released = store.resolve(&key(1), &release).await.unwrap();
    assert_eq!(released, Resolved::Resolved);
    assert!(store.is_empty());
    let begun = store.begin(&key(2), &claim).await.unwrap();
    assert_eq!(begun, Begun::Started { run: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_another_store_is_an_error() {
    let store = MemoryStore::new();
    let error = store.list(Some("1:17"), 10).await.unwrap_err().to_string();
    assert!(
        error.contains("`1:17` is not a cursor of this store"),
        "{error}"
    );
}

#[tokio::test]
async fn debug_shows_the_number_of_records_and_no_response() {
    let store = MemoryStore::new();
    let holder = claim();
    store.begin(&key(1), &holder).await.unwrap();
    let secret = Bytes::from_static(b"secret");
    store
        .complete(&key(1), holder.token, secret, TTL)
        .await
        .unwrap();
    let shown = format!("{store:?}");
    assert!(
        shown.contains("len: 1") && !shown.contains("secret"),
        "{shown}"
    );
    assert!(!store.is_empty());
}

#[test]
fn max_bytes_is_checked() {
    let error = MemoryStore::with_max_bytes(511).unwrap_err();
    assert_eq!(
        error.to_string(),
        "store `memory`: `max_bytes` is 511, but it must be at least 512, the size of one record"
    );
}

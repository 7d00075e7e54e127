//! Records in memory.

use std::time::Duration;

use buttress::idempotency::store::{
    Begun, Claim, Ended, Fingerprint, MemoryStore, RecordKey, Resolved, Store, StoreError,
};
use buttress::testing::{check_lookup, check_store};
use bytes::Bytes;

use crate::common::SECOND;

const LEASE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(100);

fn key(number: u8) -> RecordKey {
    RecordKey([number; 32])
}

fn claim() -> Claim {
    Claim::new(Fingerprint([0; 32]), LEASE, TTL)
}

/// A store for this many records without answers.
fn room_for(records: usize) -> MemoryStore {
    MemoryStore::with_max_bytes(records * 512).unwrap()
}

fn is_full<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full(_)))
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let store = MemoryStore::new();
    check_store(&store).await;
    check_lookup(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_one_refuses_new_keys_only_until_records_reach_their_time() {
    let store = room_for(2);
    let holder = claim();
    store.begin(&key(1), &holder).await.unwrap();
    store.begin(&key(2), &claim()).await.unwrap();
    let refused = store.begin(&key(3), &claim()).await;
    assert!(is_full(&refused), "{refused:?}");
    assert_eq!(
        store.begin(&key(1), &claim()).await.unwrap(),
        Begun::Running
    );
    assert!(
        store
            .renew(&key(1), holder.token, LEASE, TTL)
            .await
            .unwrap()
    );
    tokio::time::advance(109_999 * (SECOND / 1000)).await;
    assert!(is_full(&store.begin(&key(3), &claim()).await));
    tokio::time::advance(SECOND / 1000).await;
    let begun = store.begin(&key(3), &claim()).await.unwrap();
    assert_eq!(begun, Begun::Started { run: 1 });
    assert_eq!(store.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_fit_is_refused_but_a_word_in_its_place_is_not() {
    let store = room_for(2);
    let [first, second] = [claim(), claim()];
    store.begin(&key(1), &first).await.unwrap();
    store.begin(&key(2), &second).await.unwrap();
    let long = Bytes::from(vec![0; 600]);
    let word = Bytes::from(vec![1; 128]);
    let refused = store
        .complete(&key(1), first.token, long.clone(), TTL)
        .await;
    assert!(is_full(&refused), "{refused:?}");
    // A holder that would be told so anyway is told that it came too late, full or not.
    let stranger = claim().token;
    let late = store.complete(&key(1), stranger, long.clone(), TTL).await;
    assert_eq!(late.unwrap(), Ended::Lost);
    for (key, token) in [(key(1), first.token), (key(2), second.token)] {
        let taken = store
            .complete(&key, token, word.clone(), TTL)
            .await
            .unwrap();
        assert_eq!(taken, Ended::Taken);
        let again = store
            .complete(&key, token, long.clone(), TTL)
            .await
            .unwrap();
        assert_eq!(again, Ended::Already(word.clone()));
    }
    tokio::time::advance(TTL).await;
    store.begin(&key(3), &first).await.unwrap();
    let fits = Bytes::from(vec![0; 512]);
    let taken = store.complete(&key(3), first.token, fits, TTL).await;
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

#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_before_its_time() {
    let store = MemoryStore::new();
    for number in 0..100 {
        let holder = claim();
        store.begin(&key(number), &holder).await.unwrap();
        let answer = Bytes::from(vec![number]);
        store
            .complete(
                &key(number),
                holder.token,
                answer,
                u32::from(number) * SECOND,
            )
            .await
            .unwrap();
    }
    for passed in 1..100 {
        tokio::time::advance(SECOND).await;
        // Sweeps a few.
        store.begin(&key(200), &claim()).await.unwrap();
        for number in passed + 1..100 {
            let begun = store.begin(&key(number), &claim()).await.unwrap();
            assert_eq!(begun, Begun::Done(Bytes::from(vec![number])));
        }
        let gone = store.begin(&key(passed), &claim()).await.unwrap();
        assert_eq!(gone, Begun::Started { run: 1 });
    }
}

#[tokio::test]
async fn it_shows_how_much_it_holds_and_nothing_of_it() {
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
fn its_bound_is_checked() {
    let error = MemoryStore::with_max_bytes(511).unwrap_err();
    assert_eq!(
        error.to_string(),
        "store `memory`: `max_bytes` is 511, but it must be at least 512, for one record"
    );
}

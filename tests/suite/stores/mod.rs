//! All stores fulfill the same contract, and its checks find stores that do not.

mod broken;
#[cfg(feature = "file")]
mod file;
mod lookup;
mod memory;

use std::time::Duration;

use buttress::idempotency::store::{
    Begun, Claim, Ended, Fingerprint, RecordKey, Store, StoreError,
};
use bytes::Bytes;

const LEASE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(100);

fn key(number: u8) -> RecordKey {
    RecordKey([number; 32])
}

fn claim() -> Claim {
    Claim::new(Fingerprint([0; 32]), LEASE, TTL)
}

fn is_full<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full(_)))
}

/// The message of a check that fails.
async fn verdict(check: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    tokio::spawn(check).await.map_err(|error| {
        let panic = error.into_panic();
        *panic.downcast::<String>().expect("a message")
    })
}

/// Fills a store with room for two records. It rejects new keys and long responses, and nothing else.
async fn fill(store: &dyn Store) {
    let [first, second] = [claim(), claim()];
    store.begin(&key(1), &first).await.unwrap();
    store.begin(&key(2), &second).await.unwrap();
    let refused = store.begin(&key(3), &claim()).await;
    assert!(is_full(&refused), "{refused:?}");
    let (long, word) = (Bytes::from(vec![0; 600]), Bytes::from(vec![1; 128]));
    let complete = |number, token, answer: &Bytes| {
        let (key, answer) = (key(number), answer.clone());
        async move { store.complete(&key, token, answer, TTL).await }
    };
    let refused = complete(1, first.token, &long).await;
    assert!(is_full(&refused), "{refused:?}");
    // A holder that has lost the record gets `Lost`, even if the store is full.
    let late = complete(1, claim().token, &long).await;
    assert_eq!(late.unwrap(), Ended::Lost);
    let taken = complete(1, first.token, &word).await;
    assert_eq!(taken.unwrap(), Ended::Taken);
    let again = complete(1, first.token, &long).await;
    assert_eq!(again.unwrap(), Ended::Already(word.clone()));
    let begun = store.begin(&key(1), &claim()).await;
    assert_eq!(begun.unwrap(), Begun::Done(word));
    let running = store.begin(&key(2), &claim()).await;
    assert_eq!(running.unwrap(), Begun::Running);
    let renewed = store.renew(&key(2), second.token, LEASE, TTL).await;
    assert!(renewed.unwrap());
    tokio::time::advance(TTL.saturating_sub(Duration::from_millis(1))).await;
    assert!(is_full(&store.begin(&key(3), &claim()).await));
}

//! Checks that a store fulfills the contract of its trait.

mod cases;
mod history;
mod lookup;
mod promises;
mod race;
mod resolve;
mod step;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::chance;
use crate::idempotency::store::{RecordKey, Store};

/// Checks that a store of your own fulfills the contract of [`Store`].
///
/// It makes some two thousand calls, in scripted cases, random histories and concurrently, and compares each result with the rules.
/// All keys are new, so the store may be in use; the records expire within an hour. [`check_lookup`] checks look-up and repair. Test
/// yourself that records survive a restart, and how the store behaves when it is full or unreachable.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::idempotency::store::MemoryStore;
/// use buttress::testing::check_store;
///
/// check_store(&MemoryStore::new()).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics if the store violates the contract or returns an error. The message names the promise and the steps.
pub async fn check_store(store: &dyn Store) {
    cases::check(store).await;
    race::check(store).await;
    history::check(store, false).await;
}

/// Checks that a store fulfills the contract of [`Store::find`], [`Store::list`] and [`Store::resolve`], which are optional.
///
/// It claims a few hundred new keys, which expire within an hour, and scans all records of the store twice. The store may be in use.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::idempotency::store::MemoryStore;
/// use buttress::testing::check_lookup;
///
/// check_lookup(&MemoryStore::new()).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics if the store violates the contract or returns an error, including a store that does not implement these methods. The
/// message names the promise and the steps.
pub async fn check_lookup(store: &dyn Store) {
    lookup::check(store).await;
    resolve::check(store).await;
    history::check(store, true).await;
}

/// A key that nobody has used.
fn new_key() -> RecordKey {
    let mut key = [0; 32];
    for part in key.chunks_exact_mut(8) {
        part.copy_from_slice(&chance::unseeded().bits().to_le_bytes());
    }
    RecordKey(key)
}

/// Polls all futures concurrently until they end.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut ended: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, end) in waiting.iter_mut().zip(&mut ended) {
            if end.is_none() {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    *end = Some(output);
                }
            }
        }
        if ended.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    ended.into_iter().flatten().collect()
}

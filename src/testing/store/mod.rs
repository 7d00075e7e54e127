//! Whether a store keeps the promises of its trait.

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

/// Checks that this store keeps every promise of [`Store`]: for one of your own.
///
/// It asks some two thousand questions, in scripted cases, in histories that are drawn, and many at once, and compares each
/// answer with the one that the rules give. All keys are new, so that the store may be in use; what is left of them expires
/// within an hour. Look-up and repair are checked by [`check_lookup`]. Whether records survive a restart, and what a store does when it is full or cannot be reached, is for
/// its own tests.
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
/// If a promise is broken, or the store returns an error; the message says which, and after which steps.
pub async fn check_store(store: &dyn Store) {
    cases::check(store).await;
    race::check(store).await;
    history::check(store, false).await;
}

/// Checks that this store keeps the promises of [`Store::find`], [`Store::list`] and [`Store::resolve`], which a store need not
/// implement.
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
/// If a promise is broken, or the store returns an error, as a store does that does not implement these methods; the message says
/// which, and after which steps.
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

/// Polls all of them at once, to their end.
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

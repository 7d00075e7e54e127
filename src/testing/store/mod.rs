//! Checks that a store fulfills the contract of its trait.

mod cases;
mod history;
mod lookup;
mod new_key;
mod promises;
mod race;
mod resolve;
mod step;

use crate::idempotency::store::Store;

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

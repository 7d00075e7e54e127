//! Stores for the records of operations.
//!
//! | store | from | survives a restart | several processes | exactly-once execution |
//! |---|---|---|---|---|
//! | [`MemoryStore`] | feature `idempotency` | no | no | until the process ends |
//! | `FileStore` | feature `file` | yes | no | except for a crash between effect and record |
//! | `RedisStore` | crate `buttress-redis` | as Redis is configured | yes | except for a crash between effect and record |
//! | `PostgresStore` | crate `buttress-postgres` | yes | yes | yes, if effect and record are committed together |
//!
//! A store of your own implements [`Store`]. `testing::check_store` (feature `test-util`) checks that it fulfills the contract.

mod error;
#[cfg(feature = "file")]
mod file;
mod lookup;
mod memory;

pub use self::error::StoreError;
#[cfg(feature = "file")]
pub use self::file::FileStore;
pub use self::lookup::{Entry, EntryState, Listed, Resolve, Resolved};
pub use self::memory::MemoryStore;
pub use super::record::{Begun, Claim, Ended, Fingerprint, RecordKey, Token};

use self::future::StoreFuture;
use super::record::{Record, State};

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::ConfigError;

/// The size of a record without its response, in bytes: measured in memory and rounded up.
const RECORD: usize = 512;

/// A response up to this size, such as the marker for "no response stored", fits into the space of the record itself.
const SMALL: usize = RECORD / 4;

/// Checks the `max_bytes` setting of the store with this name.
fn check_bound(store: &'static str, max_bytes: u64) -> Result<(), ConfigError> {
    let expected = "at least 512, the size of one record";
    ConfigError::unless(
        max_bytes >= RECORD as u64,
        "max_bytes",
        &max_bytes,
        expected,
    )
    .map_err(|error| error.of("store", store))
}

/// Length of the stored response.
fn response_len(record: &Record) -> usize {
    match &record.state {
        State::Running { .. } => 0,
        State::Done { answer } => answer.len(),
    }
}

fn full(max_bytes: impl fmt::Display) -> StoreError {
    StoreError::Full(format!(
        "the records take up all {max_bytes} bytes of `max_bytes`; raise it, or store responses for a shorter time"
    ))
}

/// For stores that commit a record in the same transaction as the effect of the handler, as `PostgresStore` does.
pub mod joined {
    pub use crate::idempotency::server::joined::Finished;
}

pub mod future {
    //! The future that stores return.

    use std::future::Future;
    use std::pin::Pin;

    #[cfg(doc)]
    use super::Store;
    use super::StoreError;

    /// The future of a [`Store`]'s method. It is boxed, because the store is chosen at run time.
    pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;
}

/// Stores the records of an [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// Each method is **atomic**: of two concurrent calls for the same key, in any process, one takes effect completely before
/// the other, which sees its result. A change that returned `Ok` is **durable**: a store that survives a restart has written it
/// to disk by then. A call that returned an error may have taken effect or not. Each method is idempotent: calling it again with
/// the same arguments has no further effect.
///
/// Leases and times to live follow **one clock** for all processes that share the records, the store's own. Setting that clock
/// forward ends leases early. They may be as long as `Duration::MAX`: a store cuts them to the longest time it can represent, and
/// does not panic.
///
/// # Cancel safety
///
/// A call whose future is dropped may have taken effect or not. The layer drops a future after its `store_timeout`; a claim it
/// continues to poll in the background for as long as a lease. All are dropped when the runtime shuts down.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Claims the record of this key.
    ///
    /// In one step: if there is no record, or it has expired, a new one is created, running, in run 1. A running record whose
    /// lease has ended passes to the claimant, in the next run, if the fingerprints are equal. A repeated claim with the
    /// holder's token returns the same run, with a new lease. In all other cases nothing changes, and the result is the reason.
    /// A different fingerprint takes precedence over all other reasons.
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun>;

    /// Renews the lease of a running record for `lease` from now; the record expires `ttl` after that. Returns `false`, and
    /// changes nothing, if the record is not running or not held by `token`. A lease that has ended is renewed if nobody has
    /// taken over the record. A `lease` of zero ends the lease at once; the next claim starts the next run.
    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool>;

    /// Completes a running record held by `token` with a response, which is stored for `ttl` from now, even if the lease has
    /// ended. [`begin`](Self::begin) returns the response byte for byte.
    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended>;

    /// Gives up a running record held by `token`. In run 1 the record is deleted, and the next claim of its key creates a new
    /// one. In a later run it stays, with its lease ended and without a holder, because an earlier run may have had an effect:
    /// the next claim starts the next run.
    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended>;

    /// Looks up a record, with the whole stored response. `None` if there is none or it has expired.
    ///
    /// The default implementation of this and of the next two methods returns [`StoreError::Unavailable`]: a store without them
    /// works, but its operations cannot be looked up or repaired. `testing::check_lookup` checks them.
    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        let _ = key;
        Box::pin(ready(Err(lookup::not_supported())))
    }

    /// Returns one page of all records, starting at the cursor `after` or at the beginning. Responses are cut to their first 16 bytes.
    ///
    /// This is a scan, not a snapshot: each record that exists during the whole scan appears at least once, other records may
    /// appear or not. `limit` is approximate: a page may be shorter, even empty, or slightly longer. The scan ends with the page
    /// whose `next` is `None`.
    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        let _ = (after, limit);
        Box::pin(ready(Err(lookup::not_supported())))
    }

    /// Releases or completes a record whose operation stopped, or replaces its stored response, if it is still in the state that
    /// `resolve` names. A lease in force is never overridden.
    ///
    /// If several conditions fail, a missing record is reported first, then a changed one, then a running one.
    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        let _ = (key, resolve);
        Box::pin(ready(Err(lookup::not_supported())))
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        (**self).begin(key, claim)
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        (**self).renew(key, token, lease, ttl)
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        (**self).complete(key, token, answer, ttl)
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        (**self).abandon(key, token)
    }

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        (**self).find(key)
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        (**self).list(after, limit)
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        (**self).resolve(key, resolve)
    }
}

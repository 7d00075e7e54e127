//! Where records are kept.
//!
//! | store | feature | survives a restart | several processes | exactly once |
//! |---|---|---|---|---|
//! | [`MemoryStore`] | `idempotency` | no | no | while the process lives |
//! | `FileStore` | `file` | yes | no | but for a crash between effect and record |
//! | `RedisStore` | `redis` | as Redis is configured | yes | but for a crash between effect and record |
//! | `PostgresStore` | `postgres` | yes | yes | yes, if effect and record are committed together |
//!
//! A store of your own implements [`Store`], and is asked by `testing::check_store` (feature `test-util`) whether it keeps
//! its promises.

#[cfg(feature = "file")]
mod file;
mod lookup;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "file")]
pub use self::file::FileStore;
pub use self::lookup::{Entry, EntryState, Listed, Resolve, Resolved};
pub use self::memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use self::postgres::{CommitError, PostgresStore};
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use super::record::{Begun, Claim, Ended, Fingerprint, RecordKey, Token};

use self::future::StoreFuture;

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{BoxError, ConfigError};

/// What a record takes besides its answer, in bytes; measured in memory, and rounded up.
const RECORD: usize = 512;

/// An answer as small as the word that no answer was kept: it has room in the record's own.
const SMALL: usize = RECORD / 4;

/// Whether a store of this name may be bounded by this much.
fn check_bound(store: &'static str, max_bytes: u64) -> Result<(), ConfigError> {
    let expected = "at least 512, for one record";
    ConfigError::unless(
        max_bytes >= RECORD as u64,
        "max_bytes",
        &max_bytes,
        expected,
    )
    .map_err(|error| error.of("store", store))
}

fn full(max_bytes: impl fmt::Display) -> StoreError {
    StoreError::Full(format!(
        "its records take the {max_bytes} bytes of `max_bytes`"
    ))
}

pub mod future {
    //! The future of a store.

    use std::future::Future;
    use std::pin::Pin;

    #[cfg(doc)]
    use super::Store;
    use super::StoreError;

    /// What a [`Store`] returns: boxed, so that a store can be chosen while the program runs.
    pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;
}

/// Keeps the records of an [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// Each method is **atomic**: of two that run at once on the same key, in whatever process, one happens wholly before the
/// other, and what it wrote is seen by the other. What returned `Ok` **stays**, for as long as the store promises to keep
/// anything: a store that survives a restart has it on disk by then. What returned an error may have happened or not; each
/// method may be called again with the same arguments, and then does no more than once would have.
///
/// Leases and times to live are measured by **one clock** for all who share the records, which is the store's own: a clock
/// that is put forward while a lease lasts ends the lease early. They may be as long as `Duration::MAX`: a store cuts them to what
/// it can count, and does not panic.
///
/// # Cancel safety
///
/// A future that is dropped may have had its effect or not. The layer drops one that takes longer than its `store_timeout`, but
/// for a claim, whose end it waits for as long as a lease; and any when the runtime is shut down.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Claims the record of this key.
    ///
    /// In one step: where there is no record, or one whose time is over, a new one is made, running, in run 1. A running one
    /// whose lease is over passes to the claimant, in the next run, if the fingerprints are equal. A claim that is made
    /// again with the token of the holder is told the same run again, with a new lease. In all other cases nothing changes,
    /// and the claimant is told why; another fingerprint is told before all else.
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun>;

    /// Holds a running record for another `lease`, counted from now, and keeps it for `ttl` after that. `false` if it is not
    /// running, or not held by `token`: then nothing changes. A lease that is over is renewed if nobody has taken the record.
    /// A `lease` of zero ends the lease at once and keeps the run: the next claim is the run after it.
    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool>;

    /// Gives a running record its answer, and keeps it for `ttl` from now, if it is held by `token`, even with its lease
    /// over. The answer is returned by [`begin`](Self::begin) byte for byte.
    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended>;

    /// Gives a running record up, if it is held by `token`. In run 1 it is deleted: the next claim of its key makes a new one. In a
    /// later run it stays, held by nobody and its lease over, because an earlier run may have acted: the next claim is of the run
    /// after it.
    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended>;

    /// Looks up a record, with the whole stored response. `None` if there is none, or its time is over.
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
    /// appear or not. `limit` is a hint: a page may be shorter, even empty, or slightly longer. The scan ends with the page
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

/// Why a store could not do what it was asked for.
///
/// The message of [`Unavailable`](Self::Unavailable) includes that of its cause, so the
/// [`source`](std::error::Error::source) is what is behind the cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, did not answer in time, or failed, because of this cause.
    Unavailable(BoxError),
    /// It has no room for this.
    Full(String),
    /// What it holds for this key is none of ours, or was written by a newer version.
    Unreadable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(cause) => write!(f, "the store cannot be used: {cause}"),
            Self::Full(why) => write!(f, "the store is full: {why}"),
            Self::Unreadable(why) => write!(f, "the record cannot be read: {why}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The message has named the cause itself already.
            Self::Unavailable(cause) => cause.source(),
            Self::Full(_) | Self::Unreadable(_) => None,
        }
    }
}

impl StoreError {
    /// It cannot be used, because of this.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn a_chain_of_errors_prints_the_cause_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = StoreError::unavailable(refused);
        assert_eq!(
            chain(&error),
            ["the store cannot be used: connection refused"]
        );
        let deeper = StoreError::unavailable(crate::Error::<std::io::Error>::Rejected(
            crate::Rejected::new(crate::Reason::CircuitOpen, "records"),
        ));
        assert_eq!(
            chain(&deeper),
            [
                "the store cannot be used: call rejected by circuit breaker `records`",
                "circuit breaker `records` is open"
            ]
        );
    }
}

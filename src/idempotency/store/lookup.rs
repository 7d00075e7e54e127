//! Look-up and repair of records: the types that [`Store::find`], [`Store::list`] and [`Store::resolve`] take and return.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

#[cfg(doc)]
use super::Store;
use super::StoreError;
use crate::idempotency::record::{ByLength, RecordKey, Token};

/// A record as a look-up found it.
///
/// [`Store::find`] returns it with the whole stored response, [`Store::list`] with the first 16 bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key of the record.
    pub key: RecordKey,
    /// The holder of the record, or the last one it had.
    pub token: Token,
    /// The number of the last run, starting at 1.
    pub run: u32,
    /// Time since the record was first claimed. A takeover does not reset it.
    pub age: Duration,
    /// Whether the operation is running, stopped or done.
    pub state: EntryState,
    /// Time until the record expires.
    pub expires_in: Duration,
}

/// The state of a record.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryState {
    /// The operation is running: its lease is in force.
    Running {
        /// Time until the lease ends, unless it is renewed.
        lease: Duration,
    },
    /// The operation stopped without a result: its lease ended and nobody completed the record.
    Stopped {
        /// Time since the lease ended.
        since: Duration,
    },
    /// The operation is done.
    Done {
        /// The stored response. `Debug` shows only its length.
        answer: Bytes,
    },
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The records on this page, in no particular order.
    pub entries: Vec<Entry>,
    /// Number of records that were skipped because this version cannot read them.
    pub unreadable: usize,
    /// The cursor that the next page starts at, or `None` after the last page. It is opaque, and only valid for the store that
    /// returned it.
    pub next: Option<String>,
}

impl Listed {
    /// How many bytes of a stored response a page contains: enough for the status.
    pub const RESPONSE_BYTES: usize = 16;
}

/// A request to end an operation that will not end by itself.
///
/// It names the state that was seen, and only takes effect if the record is still in that state.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolve {
    /// The holder that was seen.
    pub token: Token,
    /// The run that was seen.
    pub run: u32,
    /// Whether the record was done when it was seen.
    pub done: bool,
    /// How long the lease of a record that is not done must have been over.
    pub stopped_for: Duration,
    /// The response to store, and for how long from now. `None` deletes the record: the next claim of its key is run 1.
    ///
    /// A response completes the record, or replaces the response of one that is done. The record gets a new token, so a previous
    /// holder that comes back gets [`Ended::Lost`](super::Ended::Lost). Run and age stay as they are. `Debug` shows only the
    /// length.
    pub response: Option<(Bytes, Duration)>,
}

/// The result of [`Store::resolve`]. Only [`Resolved`](Self::Resolved) changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolved {
    /// The record has the requested state.
    Resolved,
    /// The record is no longer in the state that was seen: it has another token, another run, or was completed.
    Changed,
    /// The lease is in force, or has not been over for `stopped_for` yet.
    Running,
    /// There is no such record.
    Missing,
}

impl Entry {
    /// An entry with these fields.
    pub fn new(
        key: RecordKey,
        token: Token,
        run: u32,
        age: Duration,
        state: EntryState,
        expires_in: Duration,
    ) -> Self {
        Self {
            key,
            token,
            run,
            age,
            state,
            expires_in,
        }
    }

    /// Whether the operation is done.
    pub fn is_done(&self) -> bool {
        matches!(self.state, EntryState::Done { .. })
    }

    /// A request to resolve the record if it is still in this state.
    pub fn resolve(&self, stopped_for: Duration, response: Option<(Bytes, Duration)>) -> Resolve {
        Resolve {
            token: self.token,
            run: self.run,
            done: self.is_done(),
            stopped_for,
            response,
        }
    }

    /// This entry as a page shows it.
    pub(crate) fn shortened(mut self) -> Self {
        if let EntryState::Done { answer } = &mut self.state {
            // A copy: a slice would hold the whole response in memory.
            *answer = Bytes::copy_from_slice(&answer[..answer.len().min(Listed::RESPONSE_BYTES)]);
        }
        self
    }
}

/// The key that the page starts after, for a store that lists its records in the order of the keys.
pub(super) fn cursor_key(cursor: &str) -> Result<RecordKey, StoreError> {
    cursor
        .parse()
        .map_err(|_| StoreError::invalid_cursor(cursor))
}

impl fmt::Debug for EntryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { lease } => f.debug_struct("Running").field("lease", lease).finish(),
            Self::Stopped { since } => f.debug_struct("Stopped").field("since", since).finish(),
            Self::Done { answer } => f
                .debug_struct("Done")
                .field("answer", &ByLength(answer))
                .finish(),
        }
    }
}

impl fmt::Debug for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let response = self.response.as_ref();
        f.debug_struct("Resolve")
            .field("token", &self.token)
            .field("run", &self.run)
            .field("done", &self.done)
            .field("stopped_for", &self.stopped_for)
            .field(
                "response",
                &response.map(|(answer, ttl)| (ByLength(answer), ttl)),
            )
            .finish()
    }
}

/// The error that the default implementations of the look-up methods return.
pub(super) fn not_supported() -> StoreError {
    StoreError::unavailable(
        "this store cannot look up records; implement `Store::find`, `list` and `resolve`",
    )
}

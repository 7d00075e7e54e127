//! The result of a look-up.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;

use super::state::OperationState;
use crate::event::OperationId;
use crate::idempotency::record::RecordKey;
use crate::idempotency::server::response::recorded::{Recorded, StoredResponse, peek};
use crate::idempotency::store::{Entry, EntryState};

/// An operation that was found by its record.
///
/// A snapshot: an operation that is running may have ended since. `Debug` does not show the response.
#[derive(Clone)]
pub struct Found {
    pub(super) entry: Entry,
    state: OperationState,
    status: Option<StatusCode>,
    response: Option<Box<StoredResponse>>,
}

/// One page of [`IdempotencyLayer::list`](crate::idempotency::IdempotencyLayer::list).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FoundPage {
    /// The operations on this page that match the filter.
    pub operations: Vec<Found>,
    /// Number of records on this page that this version cannot read at all.
    pub unreadable: usize,
    /// Where the next page starts, or `None` after the last page.
    pub next: Option<String>,
}

/// Which operations to list. Default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    state: Option<OperationState>,
    older_than: Option<Duration>,
    prefix: Option<String>,
}

impl Found {
    /// With the whole response.
    pub(super) fn whole(entry: Entry) -> Self {
        let mut found = Self::listed(entry);
        if let EntryState::Done { answer } = &found.entry.state {
            match Recorded::decode(answer) {
                Ok(Recorded::Response(stored)) => found.response = Some(Box::new(stored)),
                Ok(Recorded::Problem(_)) => {}
                Err(_) => found.state = OperationState::Unreadable,
            }
        }
        found
    }

    /// With the first bytes of the response.
    pub(super) fn listed(entry: Entry) -> Self {
        let (state, status) = match &entry.state {
            EntryState::Running { .. } => (OperationState::Running, None),
            EntryState::Stopped { .. } => (OperationState::Stopped, None),
            EntryState::Done { answer } => peek(answer),
        };
        Self {
            entry,
            state,
            status,
            response: None,
        }
    }

    /// The key of the record.
    pub fn record(&self) -> RecordKey {
        self.entry.key
    }

    /// The short name of the operation.
    pub fn operation_id(&self) -> OperationId {
        self.entry.key.operation_id()
    }

    /// The number of the last run, starting at 1. Above 1, earlier runs were cut off.
    pub fn run(&self) -> u32 {
        self.entry.run
    }

    /// The state of the operation.
    pub fn state(&self) -> OperationState {
        self.state
    }

    /// Time since the first claim of the key.
    pub fn age(&self) -> Duration {
        self.entry.age
    }

    /// Time until the record expires. After that, a request with its key runs the operation again.
    pub fn expires_in(&self) -> Duration {
        self.entry.expires_in
    }

    /// Time until the lease ends, if the operation is running and does not renew it.
    pub fn lease(&self) -> Option<Duration> {
        match self.entry.state {
            EntryState::Running { lease } => Some(lease),
            _ => None,
        }
    }

    /// Time since the lease ended, if the operation stopped without a result.
    pub fn stopped_since(&self) -> Option<Duration> {
        match self.entry.state {
            EntryState::Stopped { since } => Some(since),
            _ => None,
        }
    }

    /// The status of the stored response.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The stored response. `None` if there is none, or if the operation comes from a list.
    ///
    /// It may contain personal data: show it only to those who ask for it.
    pub fn response(&self) -> Option<Response<Bytes>> {
        let stored = self.response.as_ref()?;
        let mut response = Response::new(stored.body.clone());
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers.clone();
        Some(response)
    }

    /// The trailers of the stored response, with the status of a gRPC call.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.response.as_ref().map(|stored| &stored.trailers)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("operation_id", &self.operation_id())
            .field("run", &self.run())
            .field("state", &self.state)
            .field("status", &self.status)
            .field("age", &self.age())
            .field("expires_in", &self.expires_in())
            .finish_non_exhaustive()
    }
}

impl ListFilter {
    /// All operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only operations in this state.
    #[must_use]
    pub fn state(mut self, state: OperationState) -> Self {
        self.state = Some(state);
        self
    }

    /// Only operations whose key was first claimed at least this long ago.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Only operations whose record key starts with these hexadecimal digits: an [`OperationId`], the key of a record, or the start of one.
    #[must_use]
    pub fn prefix(mut self, digits: impl Into<String>) -> Self {
        self.prefix = Some(digits.into().to_ascii_lowercase());
        self
    }

    pub(super) fn matches(&self, found: &Found) -> bool {
        self.state.is_none_or(|state| found.state == state)
            && self.older_than.is_none_or(|age| found.age() >= age)
            && self
                .prefix
                .as_ref()
                .is_none_or(|prefix| found.record().to_hex().starts_with(prefix.as_str()))
    }
}

//! Ends operations by the decision of an operator.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, Response, header};
use bytes::Bytes;

use super::found::Found;
use super::state::OperationState;
use crate::event::OperationStep;
use crate::idempotency::server::execution::claim::limited;
use crate::idempotency::server::layer::IdempotencyLayer;
use crate::idempotency::server::response::recorded::StoredResponse;
use crate::idempotency::server::response::storage::{HeaderPolicy, headers};
use crate::idempotency::store::{Resolved, StoreError};

/// A decision about an operation: see [`IdempotencyLayer::repair`].
#[derive(Clone)]
pub struct Repair {
    end: End,
    force: bool,
}

#[derive(Clone)]
enum End {
    Release,
    Record(Response<Bytes>),
}

/// Why [`IdempotencyLayer::repair`] changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The operation is running. A lease in force is never overridden.
    #[error(
        "the operation is running, and a repair never overrides a lease in force: wait until it ends or its lease is over"
    )]
    Running,
    /// The last run may still be running, although its lease is over or its outcome is stored as unknown. Wait until `max_run` has
    /// passed, or force the repair.
    #[error(
        "the last run may still be running: its handler may take {max_run:?}, of which {since:?} have passed. Wait, or force the \
         repair if you know that the handler has ended"
    )]
    TooRecent {
        /// Time since the lease ended; for an unknown outcome, time since the first claim.
        since: Duration,
        /// The maximum time of a handler.
        max_run: Duration,
    },
    /// The operation is done. Only a forced repair replaces its result.
    #[error("the operation is done (state `{0}`): force the repair to replace its result")]
    Done(OperationState),
    /// The record has changed since it was looked up.
    #[error("the record has changed since it was looked up: look it up again")]
    Changed,
    /// The record does not exist: it expired, or was released.
    #[error("the record does not exist: it has expired, or was released")]
    Missing,
    /// The body of the response is larger than `max_response_body`.
    #[error("the response is larger than `max_response_body` ({max} bytes)")]
    TooLarge {
        /// The maximum body of a stored response, in bytes.
        max: usize,
    },
    /// The store failed. The repair may have been applied: look up the record again.
    #[error("the repair failed and may have been applied: look up the record again")]
    Store(#[source] StoreError),
}

impl Repair {
    /// Releases the key: the record is deleted, and the next request runs the operation as run 1.
    ///
    /// Use it if the operation certainly did not happen.
    pub const fn release() -> Self {
        Self {
            end: End::Release,
            force: false,
        }
    }

    /// Records this response: retries get it, and the operation does not run again.
    ///
    /// Use it if the operation certainly happened, or must not happen any more. Headers about one connection or one exchange are
    /// not stored, as with every response.
    pub fn record(response: impl Into<Response<Bytes>>) -> Self {
        Self {
            end: End::Record(response.into()),
            force: false,
        }
    }

    /// Whether to repair an operation whose last run may still be running, and to replace a stored result. A lease in force is
    /// never overridden. Default: no.
    #[must_use]
    pub const fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

impl IdempotencyLayer {
    /// Ends an operation by the decision of an operator: releases its key, or records its response.
    ///
    /// Changes nothing if the record has changed since it was looked up, or while a lease is in force. A late run cannot overwrite the
    /// result, because its token is no longer valid. Unless the repair is [forced](Repair::force), the lease must have been over for
    /// `max_run`, and a stored result is not replaced.
    ///
    /// Reported as [`Event::Operation`](crate::event::Event::Operation).
    ///
    /// # Errors
    ///
    /// See [`RepairError`]. Only after [`RepairError::Store`] may the record have changed.
    pub async fn repair(&self, seen: &Found, repair: Repair) -> Result<(), RepairError> {
        let config = &self.engine.config;
        let max_run = config.max_run;
        if !repair.force {
            seen.allows_repair(max_run)?;
        }
        let (step, end) = match repair.end {
            End::Release => (OperationStep::ReleasedByOperator, None),
            End::Record(response) => {
                let max = config.max_response_body;
                if response.body().len() > max {
                    return Err(RepairError::TooLarge { max });
                }
                let response = Some((encode(response), config.ttl));
                (OperationStep::RecordedByOperator, response)
            }
        };
        let stopped_for = if repair.force {
            Duration::ZERO
        } else {
            max_run
        };
        let resolve = seen.entry.resolve(stopped_for, end);
        let resolved = self.engine.store.resolve(&seen.entry.key, &resolve);
        match limited(&self.engine, resolved).await {
            Ok(Resolved::Resolved) => {
                let run = Some(seen.entry.run);
                self.engine.report(step, &seen.entry.key, run);
                Ok(())
            }
            Ok(Resolved::Changed) => Err(RepairError::Changed),
            Ok(Resolved::Missing) => Err(RepairError::Missing),
            Ok(Resolved::Running) => {
                let now = self.find(&seen.record()).await;
                Err(match now {
                    Ok(Some(now)) => match now.stopped_since() {
                        Some(since) => RepairError::TooRecent { since, max_run },
                        None => RepairError::Running,
                    },
                    Ok(None) => RepairError::Missing,
                    Err(error) => RepairError::Store(error),
                })
            }
            Err(error) => Err(RepairError::Store(error)),
        }
    }
}

impl Found {
    /// Checks the conditions of a repair that is not forced, except for leases, which the store checks.
    fn allows_repair(&self, max_run: Duration) -> Result<(), RepairError> {
        match self.state() {
            // A run that has lost its lease may run until `max_run` after its claim.
            OperationState::Unknown if self.age() < max_run => Err(RepairError::TooRecent {
                since: self.age(),
                max_run,
            }),
            OperationState::Running
            | OperationState::Stopped
            | OperationState::Failed
            | OperationState::Unknown => Ok(()),
            state @ (OperationState::Stored
            | OperationState::NotStored
            | OperationState::Unreadable) => Err(RepairError::Done(state)),
        }
    }
}

fn encode(response: Response<Bytes>) -> Bytes {
    let (head, body) = response.into_parts();
    let mut headers = headers(&head.headers, &HeaderPolicy::All, false);
    // The server computes the length of the body that it sends.
    headers.remove(header::CONTENT_LENGTH);
    let stored = StoredResponse {
        status: head.status,
        headers,
        trailers: HeaderMap::new(),
        body,
    };
    stored.encode()
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match &self.end {
            End::Release => "release".to_owned(),
            End::Record(response) => {
                let (status, length) = (response.status(), response.body().len());
                format!("record {status}, {length} bytes")
            }
        };
        f.debug_struct("Repair")
            .field("end", &format_args!("{end}"))
            .field("force", &self.force)
            .finish()
    }
}

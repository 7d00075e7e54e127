//! Ends operations that will not end by themselves.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, Response, header};
use bytes::Bytes;

use super::found::{Found, OperationState};
use crate::event::OperationStep;
use crate::idempotency::server::claim::limited;
use crate::idempotency::server::layer::IdempotencyLayer;
use crate::idempotency::server::recorded::StoredResponse;
use crate::idempotency::server::storage::HeaderPolicy;
use crate::idempotency::server::storage::headers;
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
#[derive(Debug)]
#[non_exhaustive]
pub enum RepairError {
    /// The operation is running. A lease in force is never overridden.
    Running,
    /// The last run may still be at work, although its lease is over or its outcome was given up. Wait until `max_run` has passed, or
    /// force the repair.
    TooRecent {
        /// Time since the lease ended; of an outcome that is unknown, since the first claim.
        since: Duration,
        /// How long a handler may run.
        max_run: Duration,
    },
    /// The operation is done: its result is only replaced if the repair is forced.
    Done(OperationState),
    /// The record has changed since it was looked up.
    Changed,
    /// The record is gone: it expired, or was released.
    Missing,
    /// The body of the response is larger than `max_response_body`.
    TooLarge {
        /// The largest body that is stored, in bytes.
        max: usize,
    },
    /// The store failed. The repair may have happened: look at the record again.
    Store(StoreError),
}

impl Repair {
    /// Releases the key: the record is deleted, and the next request runs the operation as run 1.
    ///
    /// For an operation that certainly did not happen.
    pub const fn release() -> Self {
        Self {
            end: End::Release,
            force: false,
        }
    }

    /// Records this response: repetitions get it, and the operation does not run again.
    ///
    /// For an operation that certainly happened, or that must not happen any more. Headers about one connection or one exchange are
    /// not stored, as with every response.
    pub fn record(response: impl Into<Response<Bytes>>) -> Self {
        Self {
            end: End::Record(response.into()),
            force: false,
        }
    }

    /// Whether to act although the last run may still be at work, and to replace a stored result. A lease in force is never
    /// overridden. Default: no.
    #[must_use]
    pub const fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

impl IdempotencyLayer {
    /// Ends an operation by the decision of an operator: releases its key, or records its response.
    ///
    /// Only acts if the record is still as it was seen, and never while a lease is in force. A late run cannot overwrite the result: its
    /// token is no longer valid. Unless the repair is [forced](Repair::force), the lease must have been over for `max_run`, and a stored
    /// result is not replaced.
    ///
    /// Reported as [`Event::Operation`](crate::event::Event::Operation).
    ///
    /// # Errors
    ///
    /// See [`RepairError`]. Nothing was changed, unless it is [`RepairError::Store`].
    pub async fn repair(&self, seen: &Found, repair: Repair) -> Result<(), RepairError> {
        let config = &self.shared.config;
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
        let resolved = self.shared.store.resolve(&seen.entry.key, &resolve);
        match limited(&self.shared, resolved).await {
            Ok(Resolved::Resolved) => {
                let run = Some(seen.entry.run);
                self.shared.report(step, &seen.entry.key, run);
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
    /// What a repair that is not forced is refused for, as far as the record shows it. Leases are for the store to check.
    fn allows_repair(&self, max_run: Duration) -> Result<(), RepairError> {
        match self.state() {
            // A run whose lease was lost may be at work for `max_run` after the claim.
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
    // The layer in front writes the length of the body that it sends.
    headers.remove(header::CONTENT_LENGTH);
    let kept = StoredResponse {
        status: head.status,
        headers,
        trailers: HeaderMap::new(),
        body,
    };
    kept.encode()
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

impl fmt::Display for RepairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str(
                "the operation is running: a lease in force is never overridden. Wait until it ends or its lease is over",
            ),
            Self::TooRecent { since, max_run } => write!(
                f,
                "the last run may still be at work: {since:?} have passed, and a handler may run for {max_run:?}. Wait, or force the \
                 repair if you know that it has ended"
            ),
            Self::Done(state) => write!(
                f,
                "the operation is done (state `{state}`): only a forced repair replaces its result"
            ),
            Self::Changed => {
                f.write_str("the record has changed since it was looked up. Look at it again")
            }
            Self::Missing => f.write_str("there is no such record: it expired, or was released"),
            Self::TooLarge { max } => write!(
                f,
                "the response is too large to be stored: `max_response_body` is {max} bytes"
            ),
            Self::Store(error) => write!(f, "the repair failed, look at the record again: {error}"),
        }
    }
}

impl std::error::Error for RepairError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its message is part of this one.
            Self::Store(error) => error.source(),
            _ => None,
        }
    }
}

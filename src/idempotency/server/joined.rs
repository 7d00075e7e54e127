//! The seam for stores that commit a record together with the effect of the handler.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use http_body::Body;

use super::operation::Operation;
use crate::error::BoxError;
use crate::idempotency::record::{RecordKey, Token};
use crate::idempotency::server::execution::ending::recorded;
use crate::idempotency::server::execution::handler::{HandlerOutcome, read};
use crate::idempotency::server::response::body::StoredBody;

/// A finished operation whose record is committed by the store, in the transaction that has the effect.
///
/// 1. [`new`](Self::new) reads the handler's response and encodes its record.
/// 2. The store writes [`record`](Self::record) for [`ttl`](Self::ttl) under [`key`](Self::key), in the transaction of the effect and
///    only if the record is running and held by [`token`](Self::token), as in [`Store::complete`](super::super::store::Store::complete).
/// 3. After the commit, [`committed`](Self::committed) returns the response, which the handler returns. The layer sends the caller what
///    was recorded and does not write the record again.
///
/// If it is dropped without `committed`, the operation counts as one that [did not happen](Operation::did_not_happen). The layer then
/// reads the record, in case the transaction was committed without an acknowledgment, and releases the key only if it was not.
#[must_use = "call `committed` once the transaction is committed"]
pub struct Finished<B> {
    operation: Operation,
    record: Bytes,
    /// Never locked. It makes `Finished` `Sync` with bodies that are not, so that a store may hold a reference to it while it waits.
    response: Mutex<Response<StoredBody<B>>>,
}

impl<B: Body<Data = Bytes>> Finished<B> {
    /// Reads the response to its end and encodes its record.
    ///
    /// # Errors
    ///
    /// The response cannot be recorded: it is a stream, larger than
    /// [`max_response_body`](crate::idempotency::IdempotencyConfig::max_response_body), or its body failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the response. The operation counts as one that did not happen.
    pub async fn new(operation: &Operation, response: Response<B>) -> Result<Self, BoxError> {
        operation.did_not_happen();
        let config = &operation.engine().config;
        match read::<B, Infallible>(response, config.max_response_body).await {
            HandlerOutcome::Response {
                mut head,
                body,
                trailers,
            } => {
                let record = recorded(config, &mut head, &body, trailers.as_ref());
                Ok(Self {
                    operation: operation.clone(),
                    record,
                    response: Mutex::new(Response::from_parts(
                        head,
                        StoredBody::whole(body, trailers),
                    )),
                })
            }
            HandlerOutcome::Unbuffered(_) => {
                Err("it is a stream, or its body is larger than `max_response_body`".into())
            }
            HandlerOutcome::Problem(_) => Err("its body failed".into()),
            HandlerOutcome::CallerLeft => Err("its caller has left".into()),
            HandlerOutcome::Refused(never) | HandlerOutcome::Failed(never) => match never {},
        }
    }
}

impl<B> Finished<B> {
    /// The key of the record.
    pub fn key(&self) -> &RecordKey {
        self.operation.record()
    }

    /// The holder of the record.
    pub fn token(&self) -> Token {
        self.operation.token()
    }

    /// The response as it is stored.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// How long the record is stored from now on.
    pub fn ttl(&self) -> Duration {
        self.operation.engine().config.ttl
    }

    /// Reports that the transaction was committed. Returns the response for the handler to return.
    pub fn committed(self) -> Response<StoredBody<B>> {
        self.operation.commit(self.record);
        let response = self.response.into_inner();
        response.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the response, which may be confidential.
impl<B> fmt::Debug for Finished<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::combinators::UnsyncBoxBody;

    use super::*;

    #[test]
    fn a_store_may_hold_a_reference_while_it_waits() {
        fn is_sync<T: Sync>() {}
        is_sync::<Finished<UnsyncBoxBody<Bytes, BoxError>>>();
    }
}

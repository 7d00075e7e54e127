//! A response that the handler records in the transaction of its effect.

use std::convert::Infallible;

use ::http::Response;
use bytes::Bytes;
use http_body::Body;

use super::body::StoredBody;
use super::ending::recorded;
use super::handler::{HandlerOutcome, read};
use super::operation::Operation;

/// A response whose body was read, and its record.
pub(in crate::idempotency) struct Final<B> {
    pub(in crate::idempotency) record: Bytes,
    pub(in crate::idempotency) response: Response<StoredBody<B>>,
}

/// Reads a response. The error is the reason why it cannot be recorded.
pub(in crate::idempotency) async fn finish<B: Body<Data = Bytes>>(
    operation: &Operation,
    response: Response<B>,
) -> Result<Final<B>, &'static str> {
    let config = &operation.engine().config;
    match read::<B, Infallible>(response, config.max_response_body).await {
        HandlerOutcome::Response {
            mut head,
            body,
            trailers,
        } => {
            let record = recorded(config, &mut head, &body, trailers.as_ref());
            Ok(Final {
                record,
                response: Response::from_parts(head, StoredBody::whole(body, trailers)),
            })
        }
        HandlerOutcome::Unbuffered(_) => {
            Err("it is a stream, or its body is larger than `max_response_body`")
        }
        HandlerOutcome::Problem(_) => Err("its body failed"),
        HandlerOutcome::CallerLeft => Err("its caller has left"),
        HandlerOutcome::Refused(never) | HandlerOutcome::Failed(never) => match never {},
    }
}

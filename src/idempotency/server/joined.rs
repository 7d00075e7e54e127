//! A response that the handler itself records, together with its effect.

use std::convert::Infallible;

use ::http::Response;
use bytes::Bytes;
use http_body::Body;

use super::body::StoredBody;
use super::ending::recorded;
use super::handler::{Came, read};
use super::operation::Operation;

/// A response, read to its end, and how it is recorded.
pub(in crate::idempotency) struct Final<B> {
    pub(in crate::idempotency) record: Bytes,
    pub(in crate::idempotency) response: Response<StoredBody<B>>,
}

/// Reads a response to its end; an error says why that is not possible.
pub(in crate::idempotency) async fn finish<B: Body<Data = Bytes>>(
    operation: &Operation,
    response: Response<B>,
) -> Result<Final<B>, &'static str> {
    let config = &operation.shared().config;
    match read::<B, Infallible>(response, config.max_response_body).await {
        Came::Answered {
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
        Came::Unbuffered(_) => {
            Err("it is a stream, or its body is larger than `max_response_body`")
        }
        Came::Problem(_) => Err("its body broke off"),
        Came::CallerLeft => Err("its caller has left"),
        Came::Refused(never) | Came::Failed(never) => match never {},
    }
}

//! Rejections as responses, and the headers that report them to the client.

mod key_problem;
pub(super) mod layer;
pub(super) mod response;
pub(super) mod retry_headers;
pub(super) mod trust_not_executed;

use ::http::Response;

use crate::error::Rejected;

/// How a rejection becomes a response.
pub trait Respond<B> {
    /// The body of all responses.
    type Body;

    /// The response to a call that was rejected.
    fn respond(&self, rejected: &Rejected) -> Response<Self::Body>;

    /// The response to a HEAD request that was rejected: the same, without a body.
    fn respond_to_head(&self, rejected: &Rejected) -> Response<Self::Body> {
        self.respond(rejected)
    }

    /// The service's own response.
    fn pass(&self, response: Response<B>) -> Response<Self::Body>;
}

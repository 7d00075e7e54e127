//! Makes the response to a rejected call.

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

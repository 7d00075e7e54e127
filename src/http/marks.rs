//! What is said of a failed call beyond its status: in this process, and on the wire.

use ::http::Response;
use ::http::header::HeaderValue;

use crate::call::Call;
pub(super) use crate::outcome::NotExecuted;

/// About this hop only.
pub(super) const NOT_EXECUTED: &str = "x-buttress-not-executed";
pub(super) const SHOULD_RETRY: &str = "x-should-retry";

/// What clients are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tells {
    pub(super) not_executed: bool,
}

impl Tells {
    /// Marks the answer to a call that was not executed.
    pub(super) fn refused<B>(self, response: &mut Response<B>) {
        // The refusal of a repetition says nothing about the attempt before it.
        if Call::current().is_repeat() {
            response.extensions_mut().insert(NotExecuted::HereAgain);
            return;
        }
        response.extensions_mut().insert(NotExecuted::Here);
        if self.not_executed {
            let yes = HeaderValue::from_static("1");
            response.headers_mut().insert(NOT_EXECUTED, yes);
        }
    }

    /// Removes the mark from a response that passes through, unless this layer marks responses and one further in has
    /// refused the call.
    pub(super) fn passed<B>(self, response: &mut Response<B>) {
        if !self.not_executed || response.extensions().get() != Some(&NotExecuted::Here) {
            response.headers_mut().remove(NOT_EXECUTED);
        }
    }
}

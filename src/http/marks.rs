//! What is said of a failed call beyond its status: in this process, and on the wire.

use ::http::Response;
use ::http::header::HeaderValue;

use crate::call::Call;
pub(super) use crate::outcome::NotExecuted;

/// About this hop only.
pub(super) const NOT_EXECUTED: &str = "x-buttress-not-executed";
pub(super) const SHOULD_RETRY: &str = "x-should-retry";

/// Marks the answer to a call that was not executed; `on_wire`: for the client too.
pub(super) fn mark_refused<B>(response: &mut Response<B>, on_wire: bool) {
    // The refusal of a repetition says nothing about the attempt before it.
    if Call::current().is_repeat() {
        response.extensions_mut().insert(NotExecuted::HereAgain);
        return;
    }
    response.extensions_mut().insert(NotExecuted::Here);
    if on_wire {
        let yes = HeaderValue::from_static("1");
        response.headers_mut().insert(NOT_EXECUTED, yes);
    }
}

/// Removes the mark from a response that passes through, unless this layer marks responses and one further in has refused
/// the call.
pub(super) fn mark_passed<B>(response: &mut Response<B>, on_wire: bool) {
    if !on_wire || response.extensions().get() != Some(&NotExecuted::Here) {
        response.headers_mut().remove(NOT_EXECUTED);
    }
}

//! What is said of a failed call beyond its status: in this process, and on the wire.

use ::http::header::HeaderValue;
use ::http::{Response, StatusCode};

use crate::call::Call;
pub(super) use crate::outcome::NotExecuted;

/// About this hop only.
pub(super) const NOT_EXECUTED: &str = "x-buttress-not-executed";
pub(super) const SHOULD_RETRY: &str = "x-should-retry";

/// What clients are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tells {
    pub(super) not_executed: bool,
    pub(super) should_retry: bool,
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
}

impl Tells {
    /// Removes the mark from a response that passes through, unless this layer marks responses and one further in has
    /// refused the call.
    pub(super) fn passed<B>(self, response: &mut Response<B>) {
        if !self.not_executed || response.extensions().get() != Some(&NotExecuted::Here) {
            response.headers_mut().remove(NOT_EXECUTED);
        }
    }
}

/// A retry layer inside has given up: a failure is not to be repeated by the client either.
pub(super) fn veto<B>(response: &mut Response<B>) {
    if response.status() >= StatusCode::INTERNAL_SERVER_ERROR {
        // An error means that there is no room for another header.
        if let Ok(entry) = response.headers_mut().try_entry(SHOULD_RETRY) {
            let _ = entry.or_try_insert(HeaderValue::from_static("false"));
        }
    }
}

/// Does this, and says whether a retry layer in it has given up. One further out hears of all that was said in it all the
/// same.
pub(super) fn watch_spent<T>(act: impl FnOnce() -> T) -> (T, bool) {
    let scope = Call::current().enter();
    let result = act();
    let marks = scope.marks();
    drop(scope);
    marks.tell();
    (result, marks.spent_below())
}

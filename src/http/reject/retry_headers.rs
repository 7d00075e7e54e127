//! Headers and extensions of the response to a failed call that report whether it was executed and may be retried.

use ::http::header::HeaderValue;
use ::http::{Response, StatusCode};

use crate::call::Call;
pub(in crate::http) use crate::outcome::NotExecuted;

/// Concerns this hop only.
pub(in crate::http) const NOT_EXECUTED: &str = "x-buttress-not-executed";
pub(in crate::http) const SHOULD_RETRY: &str = "x-should-retry";

/// Marks the response to a call that was not executed; `on_wire`: for the client too.
pub(in crate::http) fn mark_refused<B>(response: &mut Response<B>, on_wire: bool) {
    // A rejected retry does not prove that the earlier attempt was not executed.
    if Call::current().is_retry() {
        response.extensions_mut().insert(NotExecuted::HereAgain);
        return;
    }
    response.extensions_mut().insert(NotExecuted::Here);
    if on_wire {
        let yes = HeaderValue::from_static("1");
        response.headers_mut().insert(NOT_EXECUTED, yes);
    }
}

/// Removes the mark from a response that passes through, unless this layer marks responses and an inner layer has
/// rejected the call.
pub(in crate::http) fn mark_passed<B>(response: &mut Response<B>, on_wire: bool) {
    if !on_wire || response.extensions().get() != Some(&NotExecuted::Here) {
        response.headers_mut().remove(NOT_EXECUTED);
    }
}

/// Vetoes retries of the client, after a retry layer inside has given up.
pub(in crate::http) fn veto<B>(response: &mut Response<B>) {
    if response.status() >= StatusCode::INTERNAL_SERVER_ERROR {
        // An error means that there is no room for another header.
        if let Ok(entry) = response.headers_mut().try_entry(SHOULD_RETRY) {
            let _ = entry.or_try_insert(HeaderValue::from_static("false"));
        }
    }
}

/// Runs `run` and returns whether a retry layer in it has given up. The marks that `run` sets still reach outer layers.
pub(in crate::http) fn watch_spent<T>(run: impl FnOnce() -> T) -> (T, bool) {
    let scope = Call::current().enter();
    let result = run();
    let marks = scope.marks();
    drop(scope);
    marks.publish();
    (result, marks.spent_below())
}

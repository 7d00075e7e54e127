//! The outcome of a response: by its status and the server's retry directives.

use ::http::{HeaderMap, StatusCode};

use crate::error::BoxError;
use crate::http::body::end::ClassifyEnd;
use crate::http::classify::errors::ErrorOutcome;
use crate::http::classify::retry_after::{asked, retry_after};
use crate::http::classify::status_code::of_status;
use crate::http::reject::retry_headers::{NotExecuted, SHOULD_RETRY};
use crate::http::request::HttpResponse;
use crate::outcome::{Classify, Kind, Outcome, RetryAdvice};

/// The standard classifier of HTTP responses and errors.
///
/// | status | outcome |
/// |---|---|
/// | 1xx, 2xx, 3xx | success |
/// | 408, 500, 502, 503, 504, 520–527 | transient |
/// | 429, and 503 with a wait | overloaded |
/// | 501, 505, 511, other 4xx | permanent |
/// | other 5xx and above | transient, never retried |
/// | 409 with `Retry-After`: the operation of this key is still running | neutral, may be retried: see [`Replay`](crate::http::Replay) |
/// | 425: too early for a request that may be a replay | permanent, not executed, retried once |
/// | 4xx, 5xx with `Idempotent-Replayed: true` | neutral, never retried |
///
/// [`retry_after`] reads the wait. A retry layer waits that long; a circuit that such a failure opens can stay open that
/// long, too ([`max_server_wait`](crate::breaker::BreakerConfig::max_server_wait)). A server may veto a retry with `x-should-retry: false`,
/// `stripe-should-retry: false` or `x-envoy-ratelimited`; `true` in one of the first two allows a retry that the status would
/// not, but never makes an unsafe request safe: [`Replay`](crate::http::Replay) decides that. Errors are classified by
/// [`error_outcome`](crate::http::error_outcome).
///
/// A response with `Idempotent-Replayed: true` is stored: the server returns it to every request with this idempotency key, so a
/// retry gets it again. Such a failure is final, whatever the server's other headers, and a breaker does not count
/// it, because the server may have recovered since. A replayed success is a success.
///
/// A 409 without a wait is classified as a conflict that a retry will not resolve.
///
/// ```
/// use buttress::http::ByStatus;
/// use buttress::{Classify, Outcome};
///
/// let response = http::Response::builder().status(502).body(()).unwrap();
/// let outcome = ByStatus::new().classify(Ok::<_, &std::io::Error>(&response));
/// assert_eq!(outcome, Outcome::TRANSIENT);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByStatus {
    /// Whether a 429 is overloaded; otherwise it is neutral. Default: yes.
    ///
    /// Switch it off for a breaker that many callers share, each with its own quota: a 429 then says nothing about
    /// the service's health. Leave it on for a retry layer, which does not retry neutral outcomes.
    pub count_429: bool,
}

impl Default for ByStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl ByStatus {
    /// The table above.
    pub const fn new() -> Self {
        Self { count_429: true }
    }

    /// Whether a 429 is overloaded; otherwise it is neutral.
    #[must_use]
    pub const fn count_429(mut self, count_429: bool) -> Self {
        self.count_429 = count_429;
        self
    }

    /// The outcome of this response.
    pub fn response<R: HttpResponse>(self, response: &R) -> Outcome {
        let status = response.status();
        if status.as_u16() < 400 {
            return Outcome::SUCCESS;
        }
        let wait = match status {
            // The reset of a quota does not concern the operation in progress.
            StatusCode::CONFLICT => asked(response.headers()),
            _ => retry_after(response),
        };
        let mark = response.extensions().get();
        if matches!(mark, Some(NotExecuted::Here | NotExecuted::HereAgain)) {
            let refused = Outcome::NEUTRAL.not_executed();
            return refused.retry(RetryAdvice::Never).wait(wait);
        }
        if is_replayed(response.headers()) {
            return REPLAYED_FAILURE;
        }
        let directive = retry_directive(response.headers());
        let mut outcome = match of_status(status, wait) {
            // An explicit permission to retry, so the wait does not imply an operation in progress.
            _ if status == StatusCode::CONFLICT && directive == Some(true) => {
                Outcome::PERMANENT.wait(wait)
            }
            _ if status == StatusCode::TOO_MANY_REQUESTS && !self.count_429 => {
                Outcome::NEUTRAL.wait(wait)
            }
            outcome => outcome,
        };
        if mark == Some(&NotExecuted::There) {
            outcome = refused_by_server(outcome);
        }
        match directive {
            Some(true) => outcome.retry(RetryAdvice::Allowed),
            Some(false) => outcome.retry(RetryAdvice::Vetoed),
            None => outcome,
        }
    }
}

impl<Res: HttpResponse> Classify<Res, BoxError> for ByStatus {
    fn classify(&self, result: Result<&Res, &BoxError>) -> Outcome {
        match result {
            Ok(response) => self.response(response),
            Err(error) => error.outcome(),
        }
    }

    fn error_type(&self, error: &BoxError) -> &'static str {
        error.error_type()
    }
}

impl<Res: HttpResponse, E: ErrorOutcome> Classify<Res, E> for ByStatus {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(response) => self.response(response),
            Err(error) => error.outcome(),
        }
    }

    fn error_type(&self, error: &E) -> &'static str {
        error.error_type()
    }
}

/// The head decides the outcome: the end of a body does not change it.
impl ClassifyEnd for ByStatus {}

/// A server that rejects a call is alive but limiting. A transient outcome would be retried at once, free of charge.
pub(in crate::http) fn refused_by_server(outcome: Outcome) -> Outcome {
    let kind = match outcome.kind {
        Kind::Transient => Kind::Overloaded,
        kind => kind,
    };
    Outcome { kind, ..outcome }.not_executed()
}

/// A failure that the server has stored for this idempotency key: a retry gets it again, and it may be hours old.
pub(in crate::http) const REPLAYED_FAILURE: Outcome = Outcome::NEUTRAL.retry(RetryAdvice::Never);

/// Whether the server replays a response that it has stored for the idempotency key of this request.
pub(in crate::http) fn is_replayed(headers: &HeaderMap) -> bool {
    has_word(headers, "idempotent-replayed", b"true")
}

/// Whether one value of this header equals `word`.
fn has_word(headers: &HeaderMap, name: &str, word: &[u8]) -> bool {
    let values = headers.get_all(name).iter();
    // A proxy may have made one line of two (RFC 9110 §5.3).
    let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
}

/// Whether the server permits or vetoes a retry; a veto outweighs a permission.
pub(in crate::http) fn retry_directive(headers: &HeaderMap) -> Option<bool> {
    let either = |word: &[u8]| {
        has_word(headers, SHOULD_RETRY, word) || has_word(headers, "stripe-should-retry", word)
    };
    if headers.contains_key("x-envoy-ratelimited") || either(b"false") {
        Some(false)
    } else {
        either(b"true").then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use ::http::Response;

    use super::*;
    use crate::call::Call;

    fn meaning(status: u16, headers: &[(&'static str, &'static str)]) -> Outcome {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(()).unwrap();
        ByStatus::new().classify(Ok::<_, &io::Error>(&response))
    }

    #[test]
    fn every_status_has_its_outcome() {
        let never = Outcome::TRANSIENT.retry(RetryAdvice::Never);
        for (statuses, outcome) in [
            (
                vec![100, 101, 200, 204, 299, 301, 304, 399],
                Outcome::SUCCESS,
            ),
            (
                vec![408, 500, 502, 503, 504, 520, 524, 527],
                Outcome::TRANSIENT,
            ),
            (vec![429], Outcome::OVERLOADED),
            (
                vec![400, 401, 403, 404, 409, 410, 418, 422, 499, 501, 505, 511],
                Outcome::PERMANENT,
            ),
            (vec![506, 507, 508, 510, 519, 528, 599, 600, 999], never),
        ] {
            for status in statuses {
                assert_eq!(meaning(status, &[]), outcome, "{status}");
            }
        }
    }

    #[test]
    fn a_wait_is_passed_on_and_makes_503_overloaded() {
        let wait = Some(Duration::from_secs(7));
        let named = [("retry-after", "7")];
        assert_eq!(meaning(429, &named), Outcome::OVERLOADED.wait(wait));
        assert_eq!(meaning(503, &named), Outcome::OVERLOADED.wait(wait));
        assert_eq!(meaning(500, &named), Outcome::TRANSIENT.wait(wait));
        assert_eq!(meaning(301, &named), Outcome::SUCCESS);
        assert_eq!(
            meaning(503, &[("retry-after", "soon")]),
            Outcome::TRANSIENT,
            "a wait that cannot be parsed is ignored"
        );
    }

    #[test]
    fn a_conflict_with_a_wait_may_be_retried() {
        let wait = Some(Duration::from_secs(1));
        assert_eq!(
            meaning(409, &[("retry-after", "1")]),
            Outcome::NEUTRAL.retry(RetryAdvice::Allowed).wait(wait)
        );
    }

    #[test]
    fn a_spent_quota_does_not_make_a_conflict_transient() {
        let spent = [("ratelimit", "\"default\";r=0;t=1")];
        assert_eq!(meaning(409, &spent).kind, Kind::Permanent);
        assert_eq!(meaning(503, &spent).kind, Kind::Overloaded);
    }

    #[test]
    fn too_early_is_retried_once() {
        let outcome = Outcome::PERMANENT;
        let once = outcome.not_executed().retry(RetryAdvice::Allowed);
        assert_eq!(meaning(425, &[]), once);
        let _second = Call::new(2, false).enter();
        assert_eq!(meaning(425, &[]), outcome.retry(RetryAdvice::Never));
        let sent = [("x-should-retry", "true")];
        assert_eq!(meaning(425, &sent), outcome.retry(RetryAdvice::Allowed));
    }

    #[test]
    fn the_servers_directive_overrides_the_status() {
        for veto in [
            ("x-should-retry", "false"),
            ("stripe-should-retry", "FALSE"),
            ("x-should-retry", "true, false"),
            ("x-envoy-ratelimited", "true"),
        ] {
            assert_eq!(
                meaning(500, &[veto]),
                Outcome::TRANSIENT.retry(RetryAdvice::Vetoed)
            );
            assert_eq!(
                meaning(429, &[("x-should-retry", "true"), veto]).retry,
                RetryAdvice::Vetoed,
                "a veto outweighs a permission"
            );
        }
        let allowed = [("stripe-should-retry", "true")];
        assert_eq!(
            meaning(400, &allowed),
            Outcome::PERMANENT.retry(RetryAdvice::Allowed)
        );
        assert_eq!(
            meaning(507, &allowed),
            Outcome::TRANSIENT.retry(RetryAdvice::Allowed)
        );
        assert_eq!(meaning(200, &allowed), Outcome::SUCCESS);
        assert_eq!(
            meaning(500, &[("x-should-retry", "perhaps")]),
            Outcome::TRANSIENT
        );
    }

    #[test]
    fn a_replayed_failure_is_neutral_and_never_retried() {
        let replayed = ("idempotent-replayed", "true");
        let wait = ("retry-after", "1");
        for status in [400, 408, 409, 425, 429, 500, 503, 507, 999] {
            for headers in [
                &[replayed][..],
                &[replayed, wait],
                &[replayed, wait, ("x-should-retry", "true")],
                &[wait, ("idempotent-replayed", "false"), replayed],
            ] {
                assert_eq!(meaning(status, headers), REPLAYED_FAILURE, "{status}");
            }
            let first = [("idempotent-replayed", "false"), wait];
            assert_eq!(meaning(status, &first), meaning(status, &[wait]));
        }
        assert_eq!(meaning(201, &[replayed]), Outcome::SUCCESS);
    }

    #[test]
    fn a_replayed_failure_was_executed() {
        for (mark, outcome) in [
            (NotExecuted::There, REPLAYED_FAILURE),
            // A refusal by a layer of this process is no replay, whatever headers it has.
            (NotExecuted::Here, REPLAYED_FAILURE.not_executed()),
        ] {
            let mut response = Response::builder()
                .status(503)
                .header("idempotent-replayed", "true")
                .body(())
                .unwrap();
            response.extensions_mut().insert(mark);
            assert_eq!(ByStatus::new().response(&response), outcome);
        }
    }

    #[test]
    fn a_429_may_be_left_out() {
        let response = Response::builder()
            .status(429)
            .header("retry-after", "3")
            .body(())
            .unwrap();
        let wait = Some(Duration::from_secs(3));
        assert_eq!(
            ByStatus::new().count_429(false).response(&response),
            Outcome::NEUTRAL.wait(wait)
        );
    }
}

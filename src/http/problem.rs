//! The answer to a rejected call, as RFC 9457 has it.

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::answer::Respond;
use crate::error::{Reason, Rejected};

/// Answers with `application/problem+json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem;

impl<B: From<String>> Respond<B> for Problem {
    fn respond(&self, rejected: &Rejected) -> Response<B> {
        let status = status(&rejected.reason);
        let body = problem(status, rejected).to_string();
        let mut response = Response::new(B::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(wait) = rejected.retry_after {
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn status(reason: &Reason) -> StatusCode {
    match reason {
        Reason::AttemptTimeout { .. } | Reason::Deadline | Reason::BodyIdle { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Reason::CircuitOpen
        | Reason::CircuitProbing
        | Reason::CircuitRampingUp
        | Reason::CircuitForcedOpen
        | Reason::CircuitIsolated
        | Reason::Policy(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// RFC 9457, without a `type`: the status says it all.
fn problem(status: StatusCode, rejected: &Rejected) -> Value {
    let title = status.canonical_reason().unwrap_or_default();
    let mut problem = Map::new();
    problem.insert("title".into(), title.into());
    problem.insert("status".into(), status.as_u16().into());
    problem.insert("detail".into(), rejected.to_string().into());
    problem.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn body(response: &Response<String>) -> Value {
        serde_json::from_str(response.body()).unwrap()
    }

    #[test]
    fn the_status_and_the_wait_follow_from_the_rejection() {
        let open = Rejected::new(Reason::CircuitOpen, "orders")
            .retry_after(Some(Duration::from_millis(1200)));
        let response: Response<String> = Problem.respond(&open);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(
            body(&response),
            json!({
                "title": "Service Unavailable",
                "status": 503,
                "detail": "circuit breaker `orders` is open, next probe in 1.2s",
            })
        );
        let limit = Duration::from_secs(1);
        let late = Rejected::new(Reason::AttemptTimeout { limit }, "orders");
        let response: Response<String> = Problem.respond(&late);
        assert_eq!(response.status(), 504);
        assert!(!response.headers().contains_key("retry-after"));
        let never = open.retry_after(Some(Duration::MAX));
        let response: Response<String> = Problem.respond(&never);
        assert_eq!(response.headers()["retry-after"], u64::MAX.to_string());
    }

    #[test]
    fn a_detail_of_any_text_is_still_json() {
        let why = "a \"quoted\" \\ back\nslash \u{1} ü";
        let rejected = Rejected::new(Reason::Policy(why.into()), "x");
        let response: Response<String> = Problem.respond(&rejected);
        assert_eq!(
            body(&response)["detail"],
            format!("`x` refused the call: {why}")
        );
    }
}

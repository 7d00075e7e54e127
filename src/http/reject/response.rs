//! The response to a rejected call, as problem details (RFC 9457).

use std::time::Duration;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::error::{Quota, Reason, Rejected};
use crate::http::reject::Respond;

/// Responds with `application/problem+json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem;

impl<B: From<String>> Respond<B> for Problem {
    type Body = B;

    fn respond(&self, rejected: &Rejected) -> Response<B> {
        let status = status(&rejected.reason);
        let mut response = Response::new(B::from(body(status, rejected)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let wait = rejected.retry_after.map(whole_seconds);
        if let Some(seconds) = wait {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Reason::QuotaExceeded(quota) = &rejected.reason {
            quota_headers(headers, &rejected.name, quota, wait);
        }
        response
    }

    /// hyper would send the body of a response to HEAD over HTTP/2, which clients treat as a protocol error.
    fn respond_to_head(&self, rejected: &Rejected) -> Response<B> {
        let response: Response<String> = self.respond(rejected);
        let (mut head, body) = response.into_parts();
        head.headers.insert(CONTENT_LENGTH, body.len().into());
        Response::from_parts(head, B::from(String::new()))
    }

    fn pass(&self, response: Response<B>) -> Response<B> {
        response
    }
}

/// The response to a rejected call, with the status, `Retry-After` and `application/problem+json` body of
/// [`handle_rejections`](crate::http::handle_rejections()). For a handler that forwards the rejection of a call that it made.
///
/// The body's `detail` names the layer, and for a keyed layer the server behind it. Remove it from responses to untrusted callers.
///
/// ```
/// use buttress::http::rejection_response;
/// use buttress::{Reason, Rejected};
///
/// let open = Rejected::new(Reason::CircuitOpen, "stock");
/// let response: http::Response<String> = rejection_response(&open);
/// assert_eq!(response.status(), 503);
/// ```
pub fn rejection_response<B: From<String>>(rejected: &Rejected) -> Response<B> {
    Problem.respond(rejected)
}

fn status(reason: &Reason) -> StatusCode {
    match reason {
        Reason::AttemptTimeout { .. }
        | Reason::ConnectTimeout { .. }
        | Reason::HeaderTimeout { .. }
        | Reason::Deadline
        | Reason::BodyIdle { .. } => StatusCode::GATEWAY_TIMEOUT,
        Reason::QuotaExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        Reason::Key(problem) => {
            StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Reason::CircuitOpen
        | Reason::CircuitProbing
        | Reason::CircuitRampingUp
        | Reason::CircuitForcedOpen
        | Reason::CircuitIsolated
        | Reason::Policy(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Rounded up, so that no retry comes too early; at most 31 bits (68 years), because many clients ignore a larger number.
fn whole_seconds(wait: Duration) -> u64 {
    const LONGEST: u64 = (1 << 31) - 1;
    let begun = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(begun).min(LONGEST)
}

/// RFC 9457, with the types of draft-ietf-httpapi-ratelimit-headers §5. A problem without a type is described by its status.
fn body(status: StatusCode, rejected: &Rejected) -> String {
    let (kind, title) = match &rejected.reason {
        Reason::QuotaExceeded(_) => (
            Some("https://iana.org/assignments/http-problem-types#quota-exceeded".to_owned()),
            "Quota exceeded",
        ),
        Reason::CircuitOpen | Reason::CircuitProbing | Reason::CircuitRampingUp => (
            Some(
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
                    .to_owned(),
            ),
            "Temporarily reduced capacity",
        ),
        Reason::Key(problem) => (Some(problem.uri()), problem.title()),
        _ => (None, status.canonical_reason().unwrap_or_default()),
    };
    let mut problem = Map::new();
    if let Some(kind) = kind {
        problem.insert("type".into(), kind.into());
    }
    problem.insert("title".into(), title.into());
    problem.insert("status".into(), status.as_u16().into());
    problem.insert("detail".into(), rejected.to_string().into());
    if matches!(rejected.reason, Reason::QuotaExceeded(_)) {
        problem.insert("violated-policies".into(), vec![&*rejected.name].into());
    }
    Value::from(problem).to_string()
}

/// `RateLimit-Policy: "name";q=100;w=60` and `RateLimit: "name";r=0;t=12` (draft-ietf-httpapi-ratelimit-headers §3, §4).
fn quota_headers(headers: &mut HeaderMap, name: &str, quota: &Quota, wait: Option<u64>) {
    let name = string(name);
    let mut policy = format!("{name};q={}", quota.limit);
    if let Some(seconds) = quota.window {
        policy.extend([";w=", &seconds.to_string()]);
    }
    let mut limit = format!("{name};r={}", quota.remaining);
    if let Some(seconds) = wait {
        limit.extend([";t=", &seconds.to_string()]);
    }
    for (header, value) in [("ratelimit-policy", policy), ("ratelimit", limit)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(header, value);
        }
    }
}

/// A string of a structured field (RFC 9651 §3.3.3): other characters than printable ASCII are replaced.
fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            ' '..='~' => quoted.push(letter),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn problem(rejected: &Rejected) -> (Response<String>, Value) {
        let response: Response<String> = Problem.respond(rejected);
        let body = serde_json::from_str(response.body()).unwrap();
        (response, body)
    }

    #[test]
    fn status_and_wait_follow_from_the_rejection() {
        let open = Rejected::new(Reason::CircuitOpen, "orders")
            .retry_after(Some(Duration::from_millis(1200)));
        let (response, body) = problem(&open);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(
            body,
            json!({
                "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
                "title": "Temporarily reduced capacity",
                "status": 503,
                "detail": "circuit breaker `orders` is open, next probe in 1.2s",
            })
        );
        let limit = Duration::from_secs(1);
        let late = Rejected::new(Reason::AttemptTimeout { limit }, "orders");
        let (response, body) = problem(&late);
        assert_eq!(response.status(), 504);
        assert!(!response.headers().contains_key("retry-after"));
        assert_eq!(
            (&body["type"], &body["title"]),
            (&Value::Null, &"Gateway Timeout".into())
        );
        let never = open.retry_after(Some(Duration::MAX));
        let (response, _) = problem(&never);
        assert_eq!(response.headers()["retry-after"], "2147483647");
    }

    #[test]
    fn an_exhausted_quota_is_sent_in_full() {
        let quota = Quota::new(100).remaining(2).window(60);
        let rejected = Rejected::new(Reason::QuotaExceeded(quota), "exports")
            .retry_after(Some(Duration::from_millis(29_001)));
        let (response, body) = problem(&rejected);
        assert_eq!(response.status(), 429);
        for (header, value) in [
            ("retry-after", "30"),
            ("ratelimit-policy", r#""exports";q=100;w=60"#),
            ("ratelimit", r#""exports";r=2;t=30"#),
        ] {
            assert_eq!(response.headers()[header], value);
        }
        assert_eq!(
            body,
            json!({
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Quota exceeded",
                "status": 429,
                "detail": "quota `exports` of 100 per 60s exceeded, retry after 29.001s",
                "violated-policies": ["exports"],
            })
        );
        let asked = crate::http::retry_after(&response);
        assert_eq!(asked, Some(Duration::from_secs(30)), "the client reads it");
    }

    #[test]
    fn a_quota_of_any_name_and_wait_has_valid_fields() {
        let rejected = Rejected::new(Reason::QuotaExceeded(Quota::new(0)), "a\"b\\ü\n")
            .retry_after(Some(Duration::MAX));
        let (response, _) = problem(&rejected);
        assert_eq!(response.headers()["ratelimit-policy"], r#""a\"b\\??";q=0"#);
        assert_eq!(
            response.headers()["ratelimit"],
            r#""a\"b\\??";r=0;t=2147483647"#
        );
    }

    #[test]
    fn a_detail_of_any_text_is_still_json() {
        let why = "a \"quoted\" \\ back\nslash \u{1} ü";
        let rejected = Rejected::new(Reason::Policy(why.into()), "x");
        let (_, body) = problem(&rejected);
        assert_eq!(body["detail"], format!("`x` rejected the call: {why}"));
    }
}

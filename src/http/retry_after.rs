//! How long a server asks to wait: `retry-after-ms`, `Retry-After`, the reset of a spent `RateLimit`.

use std::time::Duration;

use ::http::StatusCode;
use ::http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use super::quota;
use super::request::HttpResponse;
use crate::clock::wall;

const RETRY_AFTER_MS: &str = "retry-after-ms";

/// No wait is longer than this, about 136 years: a number of any length is a wait.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How long the server asks to wait before the next attempt.
///
/// In this order, the first that can be read: `retry-after-ms`; `Retry-After` (RFC 9110 §10.2.3) in whole seconds or as a
/// date of any of the three forms, which is measured against the response's own `Date`, if it has one, so that a wrong
/// clock on either side does no harm, and is zero if it has passed; the `t` of a `RateLimit` policy that is spent (`r=0`),
/// without one the window `w` of the `RateLimit-Policy` of that name, or, in a 429, the `t` of any policy. What cannot be
/// read is ignored, and so is a `RateLimit` that a cache has kept (`Age`).
pub fn retry_after<R: HttpResponse>(response: &R) -> Option<Duration> {
    let headers = response.headers();
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    asked(headers).or_else(|| quota::reset(headers, limited).map(|wait| wait.min(LONGEST)))
}

/// The wait that the server asks for in so many words, not that of a quota.
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    millis(headers)
        .or_else(|| seconds_or_date(headers))
        .map(|wait| wait.min(LONGEST))
}

fn millis(headers: &HeaderMap) -> Option<Duration> {
    digits(only(headers, RETRY_AFTER_MS)?).map(Duration::from_millis)
}

fn seconds_or_date(headers: &HeaderMap) -> Option<Duration> {
    let value = only(headers, RETRY_AFTER.as_str())?;
    if let Some(seconds) = digits(value) {
        return Some(Duration::from_secs(seconds));
    }
    let now = only(headers, DATE.as_str())
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(wall);
    // A two-digit year is read as one from 1970 to 2069, and the day of the week must fit it.
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// `1*DIGIT` and nothing else; a number that does not fit is the largest that does.
fn digits(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().unwrap_or(u64::MAX))
}

/// The value of a header that may stand there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    trimmed(value)
}

fn trimmed(value: &HeaderValue) -> Option<&str> {
    value
        .to_str()
        .ok()
        .map(|text| text.trim_matches([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use ::http::Response;
    use proptest::prelude::*;

    use super::*;

    fn waits(headers: &[(&str, &[u8])]) -> Option<Duration> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        for (name, value) in headers {
            response.headers_mut().append(
                name.parse::<::http::HeaderName>().unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        retry_after(&response)
    }

    fn seconds(value: &str) -> Option<u64> {
        let date: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
        waits(&[("retry-after", value.as_bytes()), ("date", date)]).map(|wait| wait.as_secs())
    }

    #[test]
    fn whole_seconds_and_nothing_like_them() {
        for (value, wait) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("00012", Some(12)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("18446744073709551615", Some(u64::from(u32::MAX))),
            ("", None),
            ("-1", None),
            ("+5", None),
            ("1.5", None),
            ("5, 6", None),
            ("5s", None),
            ("1e3", None),
            ("0x10", None),
            ("soon", None),
        ] {
            assert_eq!(seconds(value), wait, "{value:?}");
        }
        assert_eq!(
            waits(&[("retry-after", b"5"), ("retry-after", b"6")]),
            None,
            "a header that may stand there once stands there twice"
        );
        assert_eq!(waits(&[("retry-after", b"\xff5")]), None);
    }

    #[test]
    fn the_three_date_forms_against_the_responses_own_date() {
        for (value, wait) in [
            ("Sun, 06 Nov 1994 08:49:39 GMT", Some(2)),
            ("Sunday, 06-Nov-94 08:49:39 GMT", Some(2)),
            ("Sun Nov  6 08:49:39 1994", Some(2)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
            ("Saturday, 01-Jan-77 00:00:00 GMT", Some(0)),
        ] {
            assert_eq!(seconds(value), wait, "{value:?}");
        }
    }

    #[test]
    fn without_a_date_the_wall_clock_is_asked() {
        assert_eq!(
            waits(&[("retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT")]),
            Some(Duration::ZERO)
        );
        let far = waits(&[("retry-after", b"Fri, 31 Dec 9999 23:59:59 GMT")]).unwrap();
        assert_eq!(far, LONGEST);
        let later = httpdate::fmt_http_date(wall() + Duration::from_secs(3600));
        let wait = waits(&[("date", b"garbage"), ("retry-after", later.as_bytes())]).unwrap();
        assert!((3500..=3600).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn the_more_exact_header_comes_first_and_a_malformed_one_makes_way() {
        assert_eq!(
            waits(&[("retry-after-ms", b"1500"), ("retry-after", b"2")]),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            waits(&[("retry-after-ms", b"1.5e3"), ("retry-after", b"2")]),
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            waits(&[("ratelimit", b"\"a\";r=0;t=30"), ("retry-after", b"2")]),
            Some(Duration::from_secs(2)),
            "Retry-After takes precedence over the reset"
        );
        assert_eq!(
            waits(&[("ratelimit", b"\"a\";r=0;t=30"), ("retry-after", b"soon")]),
            Some(Duration::from_secs(30))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            value in proptest::collection::vec(any::<u8>(), 0..60),
            date in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            for (name, bytes) in [
                ("retry-after", &value), ("retry-after-ms", &value), ("ratelimit", &value), ("date", &date),
            ] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    response.headers_mut().insert(name, value);
                }
            }
            if let Some(wait) = retry_after(&response) {
                prop_assert!(wait <= LONGEST);
            }
        }

        #[test]
        fn what_looks_like_a_date_does_not_make_it_panic(
            value in "[MTWFS][a-z]{2,8},? ?[0-9]{1,2}[ -](Jan|Feb|Xyz)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2}( GMT| [0-9]{4})?",
        ) {
            let _ = seconds(&value);
        }
    }
}

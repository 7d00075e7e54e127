//! The wait that a server requests: `retry-after-ms`, `Retry-After`, the reset of a spent `RateLimit`.

use std::time::{Duration, SystemTime};

use ::http::StatusCode;
use ::http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::clock::wall;
use crate::http::classify::rate_limit;
use crate::http::request::HttpResponse;

const RETRY_AFTER_MS: &str = "retry-after-ms";

/// No wait is longer than this, about 136 years: a number of any length is a wait.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// The wait that the server requests before the next attempt.
///
/// In this order, the first that can be read: `retry-after-ms`; `Retry-After` (RFC 9110 §10.2.3) in whole seconds or as a
/// date of any of the three forms, which is measured against the response's own `Date`, if it has one, so that a wrong
/// clock on either side does no harm, and is zero if it is in the past; the `t` of a `RateLimit` policy that is spent (`r=0`),
/// without one the window `w` of the `RateLimit-Policy` of that name, or, in a 429, the `t` of any policy. Values
/// that cannot be parsed are ignored, and so is the `RateLimit` of a response from a cache (`Age`).
pub fn retry_after<R: HttpResponse>(response: &R) -> Option<Duration> {
    let headers = response.headers();
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    asked(headers).or_else(|| rate_limit::reset(headers, limited).map(|wait| wait.min(LONGEST)))
}

/// The wait that the server requests explicitly, without that of a quota.
pub(in crate::http) fn asked(headers: &HeaderMap) -> Option<Duration> {
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
        .and_then(|date| date_near(date, wall()))
        .unwrap_or_else(wall);
    let until = date_near(value, now)?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// A date of any of the three forms (RFC 9110 §5.6.7). A year of two digits is the one that is at most 50 years from now.
fn date_near(text: &str, now: SystemTime) -> Option<SystemTime> {
    // Only that form has hyphens, and `httpdate` reads its years as those from 1970 to 2069, whatever the time.
    if !text.contains('-') {
        return httpdate::parse_http_date(text).ok();
    }
    let (day, rest) = text
        .split_once(", ")
        .filter(|(day, _)| DAYS.contains(day))?;
    let (date, time) = rest.split_once(' ')?;
    let (day_and_month, year) = date.rsplit_once('-')?;
    [19, 20, 21]
        .into_iter()
        .filter_map(|century| {
            let month = day_and_month.replacen('-', " ", 1);
            let full = format!("{}, {month} {century}{year} {time}", &day[..3]);
            httpdate::parse_http_date(&full).ok()
        })
        // The day of the week fits one century only.
        .find(|date| {
            let apart = date
                .duration_since(now)
                .unwrap_or_else(|past| past.duration());
            apart <= FIFTY_YEARS
        })
}

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// With thirteen leap days, the most there can be.
const FIFTY_YEARS: Duration = Duration::from_secs((50 * 365 + 13) * 86_400);

/// `1*DIGIT` and nothing else; a number that does not fit is the largest that does.
fn digits(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().unwrap_or(u64::MAX))
}

/// The value of a header that must not be repeated.
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
            "a header that must not be repeated"
        );
        assert_eq!(waits(&[("retry-after", b"\xff5")]), None);
    }

    #[test]
    fn whole_milliseconds_and_nothing_like_them() {
        for (value, wait) in [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("99999999999999999999999", Some(u64::from(u32::MAX) * 1000)),
            ("", None),
            ("-1", None),
            ("+5", None),
            ("1.5", None),
            ("1e3", None),
            ("5, 6", None),
            ("5ms", None),
            ("Sun, 06 Nov 1994 08:49:39 GMT", None),
        ] {
            let read = waits(&[("retry-after-ms", value.as_bytes())]);
            assert_eq!(read, wait.map(Duration::from_millis), "{value:?}");
        }
        let twice: [(&str, &[u8]); 2] = [("retry-after-ms", b"5"), ("retry-after-ms", b"5")];
        assert_eq!(waits(&twice), None);
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
            ("Sun,  06 Nov 1994 08:49:39 GMT", None),
            ("Sun, 6 Nov 1994 08:49:39 GMT", None),
            ("Sun, 06 nov 1994 08:49:39 GMT", None),
            ("sun, 06 Nov 1994 08:49:39 GMT", None),
            ("Sun, 06 Nov 1994 08:49:39", None),
            ("Sun, 06 Nov 1994 08:49:39 +0000", None),
            ("Sun, 06 Nov 1994 8:49:39 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:39 GMT", None),
            ("Sun, 06 Nov 94 08:49:39 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("Wed, 29 Feb 1995 00:00:00 GMT", None),
            ("Mon, 01 Jan 10000 00:00:00 GMT", None),
            ("Sun, 06-Nov-1994 08:49:39 GMT", None),
            ("Sunday, 06-Nov-1994 08:49:39 GMT", None),
            ("Sunday, 06-Nov-94 08:49:39", None),
            ("Sunday, 06-Nov-9 08:49:39 GMT", None),
            ("Sunday, 06-Nov-", None),
            ("Sunday, -", None),
            ("Monday, 06-Nov-94 08:49:39 GMT", None),
            ("Sun Nov 06 08:49:39 94", None),
            ("Sun Nov  6 08:49:39 1994 GMT", None),
            ("1994-11-06T08:49:39Z", None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(u64::from(u32::MAX))),
        ] {
            assert_eq!(seconds(value), wait, "{value:?}");
        }
    }

    #[test]
    fn a_year_of_two_digits_is_within_fifty_years() {
        const IN_1994: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const IN_2026: &str = "Sat, 21 Nov 2026 00:00:00 GMT";
        const IN_2072: &str = "Mon, 21 Nov 2072 00:00:00 GMT";
        let year = 31_556_952;
        for (date, value, years) in [
            // Not 2049, a Saturday, but 1949, a Sunday.
            (IN_1994, "Saturday, 06-Nov-49 08:49:37 GMT", None),
            (IN_1994, "Sunday, 06-Nov-44 08:49:37 GMT", Some(50)),
            (IN_1994, "Saturday, 06-Nov-93 08:49:37 GMT", Some(0)),
            (IN_2026, "Friday, 21-Nov-70 00:00:00 GMT", Some(44)),
            (IN_2026, "Saturday, 21-Nov-76 00:00:00 GMT", Some(50)),
            (IN_2026, "Monday, 21-Nov-77 00:00:00 GMT", Some(0)),
            (IN_2026, "Sunday, 21-Nov-77 00:00:00 GMT", None),
            (IN_2026, "Tuesday, 21-Nov-00 00:00:00 GMT", Some(0)),
            (IN_2072, "Saturday, 21-Nov-05 00:00:00 GMT", Some(33)),
        ] {
            let wait = waits(&[("date", date.as_bytes()), ("retry-after", value.as_bytes())]);
            let wait = wait.map(|wait| (wait.as_secs() + year / 2) / year);
            assert_eq!(wait, years, "{value} at {date}");
        }
    }

    #[test]
    fn without_a_date_the_wall_clock_is_used() {
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
    fn the_more_exact_header_takes_precedence_unless_malformed() {
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
        fn no_date_makes_it_panic(
            value in "[MTWFS][a-z]{2,8},? ?[0-9]{1,2}[ -](Jan|Feb|Xyz)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2}( GMT| [0-9]{4})?",
        ) {
            let _ = seconds(&value);
        }
    }
}

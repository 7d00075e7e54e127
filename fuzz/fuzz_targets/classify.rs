//! Classification of a response: a status, then header lines, each led by a byte that selects the name.
#![no_main]

use buttress::http::ByStatus;
use buttress::{RetryAdvice, Kind};
use buttress_fuzz::{lines, response};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 10] = [
    "retry-after",
    "retry-after-ms",
    "date",
    "age",
    "ratelimit",
    "ratelimit-policy",
    "x-should-retry",
    "stripe-should-retry",
    "x-envoy-ratelimited",
    "content-type",
];

fuzz_target!(|data: &[u8]| {
    let [high, low, rest @ ..] = data else { return };
    let Ok(status) = StatusCode::from_u16(u16::from_be_bytes([*high, *low]) % 1000) else {
        return;
    };
    let headers = lines(rest).filter_map(|line| {
        let (pick, value) = line.split_first()?;
        Some((NAMES[usize::from(*pick) % NAMES.len()], value))
    });
    let response = response(status, headers);
    let outcome = ByStatus::new().response(&response);
    let vetoed = response.headers().contains_key("x-envoy-ratelimited");
    if status.as_u16() < 400 {
        assert_eq!(outcome.kind, Kind::Success);
    } else if vetoed {
        assert_eq!(outcome.retry, RetryAdvice::Vetoed);
    }
});

//! `Retry-After`, the response's `Date` and `retry-after-ms`, a line each.
#![no_main]

use std::time::Duration;

use buttress::http::retry_after;
use buttress_fuzz::{lines, response};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let names = ["retry-after", "date", "retry-after-ms", "retry-after"];
    let response = response(
        StatusCode::SERVICE_UNAVAILABLE,
        names.into_iter().zip(lines(data)),
    );
    let wait = retry_after(&response);
    assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(u64::from(u32::MAX))));
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
    let only = headers.len() == 1;
    // Only whole seconds are a number: no sign, fraction or list.
    if let Some(seconds) = text("retry-after").filter(|text| only && digits(text)) {
        let seconds = seconds.parse().unwrap_or(u32::MAX);
        assert_eq!(wait, Some(Duration::from_secs(u64::from(seconds))));
    }
    if let Some(value) = text("retry-after").filter(|_| only) {
        let plain = value.trim_matches([' ', '\t']);
        assert!(
            wait.is_none() || digits(plain) || plain.len() >= 24,
            "{value:?}"
        );
    }
});

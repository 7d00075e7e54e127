//! `RateLimit` and `RateLimit-Policy`, of several lines each.
#![no_main]

use buttress::http::retry_after;
use buttress_fuzz::{lines, response};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use sfv::Parser;
use sfv::visitor::Ignored;

fuzz_target!(|data: &[u8]| {
    let names = [
        "ratelimit",
        "ratelimit-policy",
        "ratelimit",
        "ratelimit-policy",
    ];
    let response = response(
        StatusCode::TOO_MANY_REQUESTS,
        names.into_iter().zip(lines(data)),
    );
    let is_list = |line: &http::HeaderValue| {
        let parsed = Parser::new(line.as_bytes()).parse_list_with_visitor(Ignored);
        parsed.is_ok()
    };
    let mut limits = response.headers().get_all("ratelimit").iter();
    if retry_after(&response).is_some() {
        assert!(limits.all(is_list), "a malformed line was trusted");
    }
});

//! `grpc-timeout`, and milliseconds.
#![no_main]

use buttress::http::deadline::DeadlineHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for header in [
        DeadlineHeader::GrpcTimeout,
        DeadlineHeader::EnvoyExpectedTimeout,
    ] {
        let Some(time) = header.parse(data) else {
            continue;
        };
        assert!(data[0].is_ascii_digit());
        let written = header.format(time);
        let again = header.parse(written.as_bytes()).expect("our own text");
        assert!(again <= time, "rounded up");
        assert_eq!(header.format(again), written);
    }
});

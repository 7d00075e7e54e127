//! The status of a gRPC call and the push-back of the server, in the head and, from the second half of the
//! header lines on, in the trailers.
#![no_main]

use buttress::http::{BodyEnd, ByGrpcStatus, ClassifyEnd};
use buttress::{RetryAdvice, Kind, Outcome};
use buttress_fuzz::{lines, response};
use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = [
    "grpc-status",
    "grpc-retry-pushback-ms",
    "x-should-retry",
    "content-type",
    "retry-after",
];

fn check(headers: &HeaderMap, outcome: Outcome) {
    let mut pushbacks = headers.get_all("grpc-retry-pushback-ms").iter();
    let Some(first) = pushbacks.next() else {
        return;
    };
    let number: Option<i64> = first.to_str().ok().and_then(|text| text.parse().ok());
    let is_a_wait = number.is_some_and(|millis| (0..=i64::from(i32::MAX)).contains(&millis));
    if outcome.kind != Kind::Success && (!is_a_wait || pushbacks.next().is_some()) {
        assert!(matches!(outcome.retry, RetryAdvice::Vetoed | RetryAdvice::Never));
    }
}

fuzz_target!(|data: &[u8]| {
    let [status, half, rest @ ..] = data else {
        return;
    };
    let status = [200, 429, 500, 503][usize::from(*status) % 4];
    let fields: Vec<_> = lines(rest)
        .filter_map(|line| {
            let (pick, value) = line.split_first()?;
            Some((NAMES[usize::from(*pick) % NAMES.len()], value))
        })
        .collect();
    let (head, trailers) = fields.split_at(usize::from(*half).min(fields.len()));
    let status = StatusCode::from_u16(status).expect("a status");
    let head = response(status, head.iter().copied());
    let trailers = response(StatusCode::OK, trailers.iter().copied());
    let of_head = ByGrpcStatus::new().response(&head);
    check(head.headers(), of_head);
    if of_head.kind == Kind::Success {
        let end = BodyEnd::Complete(Some(trailers.headers()));
        let end = ByGrpcStatus::new().end(of_head, end);
        check(trailers.headers(), end);
    }
});

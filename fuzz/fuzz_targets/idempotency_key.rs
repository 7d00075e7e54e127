//! The idempotency key that a caller put into a request: what is none must not make a POST repeatable.
#![no_main]

use buttress::http::Replay;
use buttress::{Outcome, Repeat};
use buttress_fuzz::lines;
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use sfv::{BareItemFromInput, Parser};

fuzz_target!(|data: &[u8]| {
    let mut request = Request::post("https://h/").body(()).unwrap();
    for line in lines(data).take(3) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        request.headers_mut().append("idempotency-key", value);
    }
    let count = request.headers().len();
    let replay = Replay::new();
    let saved = replay
        .first(request)
        .1
        .expect("a request that can be copied");
    if !replay.may_repeat(&saved, &Outcome::TRANSIENT) {
        return;
    }
    assert_eq!(count, 1);
    let text = data.trim_ascii();
    assert!(text.is_ascii() && !text.is_empty());
    if text.starts_with(b"\"") {
        let item = Parser::new(text).parse_item::<BareItemFromInput>();
        assert!(matches!(item, Ok(BareItemFromInput::String(key)) if !key.as_str().is_empty()));
    }
});

//! The routes on which keys are honored.
#![no_main]

use buttress::http::IdempotencyKeys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(IdempotencyKeys::HonoredBy(routes)) = IdempotencyKeys::honored_by([text]) {
        let again = routes[0].to_string().parse().expect("its own text");
        assert_eq!(routes[0], again);
    }
});

//! The routes on which keys are honored.
#![no_main]

use buttress::http::Route;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(route) = text.parse::<Route>() {
        let again: Route = route.to_string().parse().expect("its own text");
        assert_eq!(again, route);
    }
});

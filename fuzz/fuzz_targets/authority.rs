//! The server of a setting, and that of a request.
#![no_main]

use buttress::gate::KeyBy;
use buttress::http::{Authority, ByAuthority};
use http::{Request, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let setting = text.parse::<Authority>();
    let Ok(uri) = text.parse::<Uri>() else {
        let error = setting.expect_err("a URL that cannot be read");
        assert!(error.to_string().contains("unreadable"), "{error}");
        return;
    };
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    let lookup = KeyBy::<Request<()>>::lookup(&ByAuthority, &request);
    let of_request = KeyBy::<Request<()>>::to_key(&ByAuthority, &lookup);
    if let Ok(setting) = setting {
        assert_eq!(setting, of_request);
        assert_eq!(setting.host(), uri.host().unwrap().to_ascii_lowercase());
        let again: Authority = setting.to_string().parse().expect("its own text");
        assert_eq!(again, setting);
    }
});

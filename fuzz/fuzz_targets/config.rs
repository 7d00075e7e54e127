//! The settings of the standard stacks, as JSON: refused, or good for a stack.
#![no_main]

use buttress::http::{ClientConfig, ServerConfig, client, server};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<ClientConfig>(data) {
        let text = serde_json::to_string(&config).expect("settings are text");
        let again: ClientConfig = serde_json::from_str(&text).expect("our own text");
        assert_eq!(
            (again.attempt, again.total, again.body_idle),
            (config.attempt, config.total, config.body_idle),
        );
        let valid = config.validate().is_ok();
        let built = client("fuzz", config);
        assert_eq!(built.is_ok(), valid);
        if let Ok(layer) = built {
            assert!(!format!("{layer:?}").is_empty());
        }
    }
    if let Ok(config) = serde_json::from_slice::<ServerConfig>(data) {
        let text = serde_json::to_string(&config).expect("settings are text");
        serde_json::from_str::<ServerConfig>(&text).expect("our own text");
        let valid = config.validate().is_ok();
        assert_eq!(server("fuzz", config).is_ok(), valid);
    }
});

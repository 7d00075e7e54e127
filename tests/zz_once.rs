#![allow(clippy::disallowed_methods, dead_code)]
#[path = "suite/common.rs"]
mod common;
#[path = "suite/log.rs"]
mod log;
#[path = "suite/once/mod.rs"]
mod once;
#[path = "../examples/tonic_client/text.rs"]
mod text;

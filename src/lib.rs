// The first of two definitions of a link applies: these point the README's relative links to the repository.
#![doc = "[outage]: https://raw.githubusercontent.com/buttress-rs/buttress/main/docs/outage.svg"]
#![doc = "[telemetry]: https://github.com/buttress-rs/buttress/blob/main/docs/telemetry.md"]
#![doc = "[recipes]: https://github.com/buttress-rs/buttress/blob/main/docs/recipes/README.md"]
#![doc = "[operations]: https://github.com/buttress-rs/buttress/blob/main/docs/recipes/operations.md"]
#![doc = "[idempotency]: https://github.com/buttress-rs/buttress/blob/main/docs/idempotency.md"]
#![doc = "[migrating]: https://github.com/buttress-rs/buttress/blob/main/docs/migrating/README.md"]
#![doc = "[decisions]: https://github.com/buttress-rs/buttress/blob/main/docs/decisions/README.md"]
#![doc = "[changelog]: https://github.com/buttress-rs/buttress/blob/main/CHANGELOG.md"]
#![doc = "[contributing]: https://github.com/buttress-rs/buttress/blob/main/CONTRIBUTING.md"]
#![doc = "[mit]: https://github.com/buttress-rs/buttress/blob/main/LICENSE-MIT"]
#![doc = "[apache]: https://github.com/buttress-rs/buttress/blob/main/LICENSE-APACHE"]
#![doc = "[reqwest_client]: https://github.com/buttress-rs/buttress/blob/main/examples/reqwest_client.rs"]
#![doc = "[hyper_client]: https://github.com/buttress-rs/buttress/blob/main/examples/hyper_client.rs"]
#![doc = "[tonic_client]: https://github.com/buttress-rs/buttress/blob/main/examples/tonic_client/main.rs"]
#![doc = "[payments]: https://github.com/buttress-rs/buttress/blob/main/examples/payments/src/main.rs"]
#![doc = "[axum_service]: https://github.com/buttress-rs/buttress/blob/main/examples/axum_service.rs"]
#![doc = "[own_gate]: https://github.com/buttress-rs/buttress/blob/main/examples/own_gate.rs"]
#![doc = "[keyed]: https://github.com/buttress-rs/buttress/blob/main/examples/keyed.rs"]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod setters;

// ── base: no tower, no async ──
mod allowance;
mod attempt;
pub mod backoff;
mod call;
mod chance;
pub mod clock;
mod deadline;
#[cfg(feature = "idempotency")]
mod detach;
mod error;
mod error_chain;
pub mod event;
mod executed;
mod growth;
mod key_problem;
mod live_names;
mod observe;
mod operation_id;
mod outcome;
mod refused;
mod rejected;
mod scoped;
mod sync;
#[cfg(feature = "serde")]
mod text;
mod transition;
mod window;

// ── patterns ──
pub mod breaker;
pub mod budget;
#[cfg(feature = "http")]
pub mod idempotency;
pub mod retry;
pub mod timeout;

// ── gate: the adapter of admission policies ──
pub mod gate;

// ── edges: protocols, telemetry, testing ──
#[cfg(doctest)]
mod doc_pages;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "reqwest")]
pub mod reqwest;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
mod verify;

pub use crate::call::{AttemptReason, Call, CallOptions};
pub use crate::deadline::Deadline;
pub use crate::error::{BoxError, CallError, ConfigError, Error, Quota, Reason, Rejected};
pub use crate::key_problem::KeyProblem;
pub use crate::outcome::{
    Classify, ErrorIsTransient, Executed, Kind, Outcome, RetryAdvice, Unprocessed, classify_fn,
};
pub use crate::verify::verify;

/// The futures of the types in this module.
pub mod future {
    pub use crate::scoped::Scoped;
}

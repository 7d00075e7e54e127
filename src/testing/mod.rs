//! Test utilities: a scripted service that checks tower's contract, a seeded random generator, and the contract tests of
//! stores.
//!
//! ```
//! # use tower::{Service, ServiceExt};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use buttress::testing::{Step, Strict};
//!
//! let service: Strict<u64, &str, buttress::Error<&str>> = Strict::new(|call| match call {
//!     0 => Step::Answer(Err(buttress::Error::Inner("down"))),
//!     _ => Step::Answer(Ok("up")),
//! });
//! let mut copy = service.clone();
//! assert!(copy.ready().await.unwrap().call(7).await.is_err());
//! assert_eq!(service.calls(), 1);
//! # }
//! ```

#[cfg(feature = "idempotency")]
mod store;
mod strict;

#[cfg(feature = "idempotency")]
pub use self::store::{check_lookup, check_store};
pub use self::strict::{Step, Strict};
pub use crate::chance::seed;

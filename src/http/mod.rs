//! HTTP: what a response or an error means, which requests may be sent again, whom they are addressed to.
//!
//! Everything works for the `http` crate's requests (hyper, axum, tonic) and, with the feature `reqwest`, for reqwest's.
//!
//! - [`ByStatus`] says what a response or an error means for breaker, retry and all others;
//! - [`retry_after`] reads the wait that a server asks for;
//! - [`Replay`] says which requests may run twice;
//! - [`ByAuthority`] keeps a policy per server, so that one dead shard leaves the others alone;
//! - [`client`] is the standard stack for calling others, in the right order and checked as a whole;
//! - [`answer`] lets axum use every layer without `HandleErrorLayer`.

mod answer;
mod authority;
mod body;
mod classify;
mod client;
mod error;
mod lift;
mod quota;
mod replay;
mod request;
mod retry_after;

pub use self::answer::{Answer, AnswerFuture, AnswerLayer, answer};
pub use self::authority::{Authority, AuthorityRef, ByAuthority};
pub use self::body::{AtBodyEnd, ClassifyEnd, GatedBody};
pub use self::classify::ByStatus;
pub use self::client::{Client, ClientConfig, ClientLayer, client};
pub use self::error::{ErrorOutcome, error_outcome};
pub use self::lift::{Lift, LiftFuture};
pub use self::replay::{Kept, Keys, Replay};
pub use self::request::{HttpRequest, HttpResponse};
pub use self::retry_after::retry_after;

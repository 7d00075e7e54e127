//! Idempotency keys: an operation that is sent twice happens once, if the server honors the key.
//!
//! A POST that timed out may have been executed. To send it again is safe only if the server can tell that it is the same
//! operation: by a key that is the same on every attempt. [`IdempotencyKeyLayer`] mints one for every logical call.
//!
//! Use it for a server that documents that it honors keys (Stripe and Adyen do; `PayPal` in a header of its own). Do not
//! count on it elsewhere: a server that does not know the header ignores it, and each attempt is executed.
//!
//! A server that acts once is made by [`IdempotencyLayer`](https://docs.rs/buttress/latest/buttress/idempotency/struct.IdempotencyLayer.html)
//! (feature `idempotency`), whose page tells that side of it. This one is about clients.
//!
//! ```text
//!               one key a call                 the same key on every attempt
//! request ──► IdempotencyKey ──► retry ──┬──► attempt 1: Idempotency-Key: "0195…"  ✗ timed out
//!                                        └──► attempt 2: Idempotency-Key: "0195…"  ✓ answered from the first
//! ```
//!
//! ```
//! # use tower::{ServiceBuilder, ServiceExt, service_fn};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use buttress::Error;
//! use buttress::idempotency::IdempotencyKeyLayer;
//!
//! # let client = service_fn(async |request: http::Request<String>| {
//! #     let key = request.headers()["idempotency-key"].to_str().unwrap();
//! #     assert!(key.starts_with('"') && key.len() == 38);
//! #     Ok::<_, std::io::Error>(())
//! # });
//! let service = ServiceBuilder::new()
//!     .layer(IdempotencyKeyLayer::new())
//!     // … the retry layer, inside …
//!     .map_err(Error::Inner)
//!     .service(client);
//! service.oneshot(http::Request::post("https://api.example.com/orders").body(String::new())?).await?;
//! # Ok(()) }
//! ```
//!
//! The key is 128 bits, 122 of them random, as a UUID of version 4. A key that stands in the request already is left
//! alone. An operation that outlives the call, an order that the user may submit again tomorrow, has a key of its own:
//! [`CallOptions::idempotency_key`](crate::CallOptions::idempotency_key) gives it to one call.
//!
//! **A minted key alone makes nothing repeatable.** Nobody has said that the server honors it. Say so to the retry
//! layer: [`Replay::idempotency_keys`](crate::http::Replay::idempotency_keys).
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | header | `idempotency-key` | the draft of the IETF's HTTP API working group, and most services |
//! | form | quoted: `"8e03…"` | the draft wants a structured-field string; [`raw`](IdempotencyKeyLayer::raw) for services that want it bare |
//! | methods | POST, PATCH | all others are idempotent by themselves |
//!
//! # Order
//!
//! Outside retry and hedge. Inside, every attempt would get a key of its own, which is worse than none: each is executed.
//!
//! reqwest sends the key on to wherever a redirect leads: let its redirect policy stop at another server, as
//! [`same_origin_redirects`](crate::reqwest::same_origin_redirects) does.
//!
//! # Errors
//!
//! A key given by the caller that cannot be sent is refused, with [`Reason::Policy`](crate::Reason::Policy) and without
//! calling the service: a call without that key might be executed twice.
//!
//! The key of a [`CallOptions`](crate::CallOptions) scope is used by one call. A second call in the scope that needs a key and
//! has none in its header is refused too, with [`Reason::Key`](crate::Reason::Key), instead of being sent with the same key,
//! with another one, or without. Give each call a scope of its own. To repeat an operation, set the header yourself.
//!
//! # Events
//!
//! None. IdempotencyKeys are never shown: not in an event, not in a message, not by `Debug`; the header is marked as sensitive.
//!
//! # Cancel safety
//!
//! The layer holds nothing. Dropping its future drops the call.

mod client;
mod key;
#[cfg(feature = "idempotency")]
pub(crate) mod record;
mod request;
#[cfg(feature = "idempotency")]
mod server;
#[cfg(feature = "idempotency")]
pub mod store;

pub use self::client::{IdempotencyKey, IdempotencyKeyLayer};
pub(crate) use self::key::{DEFAULT_HEADER, found, header_name};
pub(crate) use self::request::{GenerateKey, KeyedRequest};
#[cfg(feature = "idempotency")]
pub use self::server::lookup;
#[cfg(feature = "idempotency")]
pub(crate) use self::server::remove_ticket;
#[cfg(feature = "idempotency")]
pub use self::server::{
    AfterCrash, HeaderPolicy, Idempotency, IdempotencyConfig, IdempotencyLayer, Normalize,
    Operation, OperationRejection, Scope, StoragePolicy, StoredBody,
};

/// Futures of the services in this module.
pub mod future {
    pub use super::client::IdempotencyKeyFuture;
    #[cfg(feature = "idempotency")]
    pub use super::server::IdempotencyFuture;
}

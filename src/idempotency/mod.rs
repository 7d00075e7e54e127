//! Idempotency keys: an operation that is sent twice happens once, if the server honors the key.
//!
//! A POST that timed out may have been executed. Sending it again is safe only if the server can recognize it as the same
//! operation, by a key that is the same on every attempt. [`IdempotencyKeyLayer`] generates one for each logical call.
//!
//! Use it for a server that documents that it honors keys (Stripe and Adyen do; `PayPal` in a header of its own). Do not
//! count on it elsewhere: a server that does not know the header ignores it, and each attempt is executed.
//!
//! [`IdempotencyLayer`](https://docs.rs/buttress/latest/buttress/idempotency/struct.IdempotencyLayer.html) (feature `idempotency`)
//! makes a server idempotent; its page describes the server side. This page describes clients.
//!
//! ```text
//!               one key a call                 the same key on every attempt
//! request ──► idempotency key ──► retry ──┬──► attempt 1: Idempotency-Key: "0195…"  ✗ timed out
//!                                         └──► attempt 2: Idempotency-Key: "0195…"  ✓ the response to the first
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
//! The key is a UUID of version 4, with 122 random bits. A key that the request already has is not replaced. For an
//! operation that outlives the call, such as an order that the user may submit again tomorrow, set a key of your own with
//! [`CallOptions::idempotency_key`](crate::CallOptions::idempotency_key).
//!
//! **A generated key does not make a request safe to retry,** because the server may not honor it. If it does, set
//! [`Replay::idempotency_keys`](crate::http::Replay::idempotency_keys) on the retry layer.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | header | `idempotency-key` | the draft of the IETF's HTTP API working group, and most services |
//! | form | quoted: `"8e03…"` | the draft requires a structured-field string; use [`unquoted`](IdempotencyKeyLayer::unquoted) for services that expect the key without quotes |
//! | methods | POST, PATCH | all other methods are idempotent |
//!
//! # Order
//!
//! Outside retry and hedge. Inside, each attempt would get its own key, and the server would execute each of them.
//!
//! reqwest sends the key to the target of a redirect. Use a redirect policy that stops at another origin, such as
//! [`same_origin_redirects`](crate::reqwest::same_origin_redirects).
//!
//! # Errors
//!
//! A key from the caller that cannot be sent is rejected with [`Reason::Policy`](crate::Reason::Policy), and the service is
//! not called: without that key, the call might be executed twice.
//!
//! The key of a [`CallOptions`](crate::CallOptions) scope is used by one call. A second call in the scope that needs a key and
//! has no header is rejected with [`Reason::Key`](crate::Reason::Key). Give each call its own scope. To send an operation
//! again, set the header yourself.
//!
//! # Events
//!
//! None. Keys never appear in events, messages or `Debug` output. The header is marked as sensitive.
//!
//! # Cancel safety
//!
//! The layer holds nothing. Dropping its future drops the call.

pub(crate) mod client;
mod key;
#[cfg(feature = "idempotency")]
pub(crate) mod record;
mod request;
#[cfg(feature = "idempotency")]
mod server;
#[cfg(feature = "idempotency")]
pub mod store;

pub use self::client::IdempotencyKeyLayer;
pub(crate) use self::key::{DEFAULT_HEADER, found, header_name};
pub(crate) use self::request::{GenerateKey, KeyedRequest};
#[cfg(feature = "idempotency")]
pub use self::server::lookup;
#[cfg(feature = "idempotency")]
pub(crate) use self::server::remove_ticket;
#[cfg(feature = "idempotency")]
pub use self::server::{
    AfterCrash, HeaderPolicy, IdempotencyConfig, IdempotencyLayer, Normalize, Operation,
    OperationRejection, Scope, StoragePolicy, StoredBody,
};

/// Futures of the services in this module.
pub mod future {
    pub use super::client::IdempotencyKeyFuture;
    #[cfg(feature = "idempotency")]
    pub use super::server::IdempotencyFuture;
}

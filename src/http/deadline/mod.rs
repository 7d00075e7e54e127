//! Propagates the remaining time of a call from one process to the next.
//!
//! A [`Deadline`](crate::Deadline) belongs to a task. Two layers propagate it over HTTP: [`PropagateDeadlineLayer`] writes the
//! remaining time into a header of every attempt, and [`ExtractDeadlineLayer`] reads it and sets the deadline of the served
//! call. No service works for a caller who has given up, and handlers need no code for it.
//!
//! The header carries a duration, not an instant, so clocks need not be synchronized. Network latency is not counted, so the
//! caller gives up slightly before the service does.
//!
//! For a service with unknown callers, restrict the callers that you trust ([`Trust`]). Spawn work that must finish even if the
//! caller leaves.
//!
//! ```text
//!  caller, 3 s          service a                                  service b
//!  out: 3000 ms ──────► in: 3 s ─► handler, 0.4 s ─► out: 2600 ms ──────► in: 2.6 s ─► handler
//!                                  its calls inherit
//! ```
//!
//! ```
//! # use std::time::Duration;
//! # use axum::{Router, routing::get};
//! # use buttress::http::{handle_rejections, client, ClientConfig};
//! # use tower::{Layer, ServiceBuilder, ServiceExt};
//! use buttress::http::deadline::{DeadlineHeader, ExtractDeadlineConfig, ExtractDeadlineLayer, PropagateDeadlineLayer, Trust};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let header: DeadlineHeader = "x-time-left-ms".parse()?;
//!
//! // The service trusts everyone who can connect.
//! let config = ExtractDeadlineConfig::new().headers([header.clone()]).trust(Trust::Everyone);
//! let orders: Router = Router::new()
//!     .route("/", get(|| async { format!("{:?}", buttress::Deadline::current().is_some()) }))
//!     .layer(handle_rejections(ExtractDeadlineLayer::new("orders", config)?));
//!
//! // The client sends the rest of its 3 s.
//! let client = ServiceBuilder::new()
//!     .layer(buttress::timeout::DeadlineLayer::new("orders", Duration::from_secs(3)))
//!     .layer(PropagateDeadlineLayer::new(header))
//!     .map_err(buttress::Error::Inner)
//!     .service(orders);
//! let response = client.oneshot(http::Request::get("/").body(axum::body::Body::empty())?).await?;
//! assert_eq!(axum::body::to_bytes(response.into_body(), 99).await?, "true");
//! # Ok(()) }
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `ExtractDeadlineConfig::headers` | `grpc-timeout`, `x-envoy-expected-rq-timeout-ms` | what gRPC clients and Envoy send |
//! | `trust` | no caller | an untrusted caller must not decide when work is dropped |
//! | `max` | no limit | [`server`](fn@super::server) bounds the wait by its own timeout |
//!
//! # Order
//!
//! `PropagateDeadlineLayer` goes innermost, inside the retry and the attempt's timeout: further out, all attempts would send
//! the same time. `ExtractDeadlineLayer` goes outside everything that takes time: limits, queues, timeouts.
//!
//! # The headers
//!
//! A malformed value or a repeated header is ignored; of several headers, the earliest deadline counts. A value can only bring
//! a deadline forward. Values are rounded down, so a last fraction of a millisecond becomes `0`, which means that the time is
//! over. (An Envoy that is configured to respect its header treats 0 as no limit.)
//!
//! # Errors
//!
//! [`Reason::Deadline`](crate::Reason::Deadline): not executed if the time was over when the call arrived.
//! [`handle_rejections`](crate::http::handle_rejections) turns it into a 504. `PropagateDeadlineLayer` has no errors.
//!
//! # Events
//!
//! [`Event::Rejected`](crate::event::Event::Rejected) of the layer `deadline` for each call that is rejected or cut short.
//!
//! # Cancel safety
//!
//! Dropping a call drops the inner call, with the deadline in scope.

mod config;
mod extract;
mod header;
mod propagate;
mod trust;
mod wire;

pub use self::config::ExtractDeadlineConfig;
pub use self::extract::ExtractDeadlineLayer;
pub use self::header::DeadlineHeader;
pub(crate) use self::propagate::PropagateDeadline;
pub use self::propagate::PropagateDeadlineLayer;
pub use self::trust::Trust;

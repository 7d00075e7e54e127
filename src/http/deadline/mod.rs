//! The time that a call has left, on its way from one process to the next.
//!
//! A [`Deadline`](crate::Deadline) is carried with the task. These two layers carry it on over HTTP: [`PropagateDeadlineLayer`] writes
//! what is left into a header of every attempt, [`ExtractDeadlineLayer`] reads it and sets the deadline of the call served. So the
//! time shrinks from hop to hop, nobody works for a caller who has given up, and no handler has a line of code for it.
//!
//! A time that is left, not an instant, travels: clocks need not agree. What the way itself takes is not counted, so the caller
//! gives up a moment before the service does.
//!
//! Not for services whose callers you do not know, unless you name those that are believed ([`Trust`]). Not for work that must
//! be done whoever waits for it: spawn that.
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
//! // The service believes whoever can connect.
//! let config = ExtractDeadlineConfig::new().headers([header.clone()]).trust(Trust::Everyone);
//! let orders: Router = Router::new()
//!     .route("/", get(|| async { format!("{:?}", buttress::Deadline::current().is_some()) }))
//!     .layer(handle_rejections(ExtractDeadlineLayer::new("orders", config)?));
//!
//! // The client says what is left of its 3 s.
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
//! | `trust` | nobody | a stranger must not say when work is dropped half-way |
//! | `most` | no limit | [`server`](fn@super::server) bounds the wait by its own timeout |
//!
//! # Order
//!
//! Out goes innermost, inside the retry and the attempt's timeout: further out, all attempts would be told the same time. In goes
//! outside everything that spends time: limits, queues, timeouts.
//!
//! # The headers
//!
//! A value is what its format allows or it is ignored, and so is a header that stands there twice; the earliest of several
//! counts. A value can only bring a deadline forward. What is written is rounded down, so a last fraction of a millisecond is
//! `0`, which says that the time is over. (An Envoy that is told to respect its header takes 0 for no limit.)
//!
//! # Errors
//!
//! [`Reason::Deadline`](crate::Reason::Deadline): not executed if the time was over when the call came, which
//! [`handle_rejections`](super::handle_rejections) makes a 504. Out has none.
//!
//! # Events
//!
//! [`Event::Rejected`](crate::event::Event::Rejected) of the layer `deadline` for each call refused or cut short.
//!
//! # Cancel safety
//!
//! Dropping a call drops what is inside, which sees the deadline even then.

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

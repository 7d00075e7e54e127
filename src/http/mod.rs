//! HTTP: standard stacks for clients and servers, and their parts.
//!
//! Everything works for the `http` crate's requests (hyper, axum, tonic) and, with the feature `reqwest`, for reqwest's. Start
//! with [`client()`] or [`server()`]: the standard stacks, in the right order and validated as a whole. The parts, for a stack
//! of your own:
//!
//! - [`handle_rejections`] lets axum use every layer without `HandleErrorLayer`;
//! - [`deadline`] propagates the remaining time from one service to the next;
//! - [`ByStatus`] classifies responses and errors for breakers, retries and all other layers;
//! - [`retry_after`] reads the wait that a server requests;
//! - [`Replay`] decides which requests are safe to retry, and with [`map_request_body`](Replay::map_request_body) replays bodies
//!   that cannot be cloned;
//! - [`Drain`] reads the rest of a failed response, so that its connection can be reused;
//! - [`ByAuthority`] keys a policy by server, so that one failing server does not affect the others;
//! - [`grpc`] is the standard stack for gRPC clients; [`ByGrpcStatus`], [`Replay::grpc`] and [`handle_grpc_rejections`] are its
//!   parts;
//! - [`AtBodyEnd`] settles a call at the end of its body, and limits the body;
//! - [`ConnectTimeoutLayer`] and [`HeaderTimeoutLayer`] limit the time to connect, and the time from the end of the
//!   request to the response's head;
//! - `AttemptSpanLayer` (feature `tracing`) opens a span for each attempt;
//! - [`Redirects`] declares which redirects the client inside follows, so that errors are attributed to the right request;
//! - [`TrustNotExecutedLayer`] trusts servers that report that they did not execute a request.
//!
//! ```text
//!  a call made                                         a call served
//!  client: observe ─► deadline ─► key ─► retry ─►      server: observe ─► deadline in ─► timeout ─►
//!          breaker ─► observe ─► attempt timeout ─►            handler
//!          time left ─► hyper, tonic or reqwest
//! ```
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
//! use buttress::gate::KeyedConfig;
//! use buttress::http::{AtBodyEnd, ByAuthority, ByStatus, Replay};
//! use buttress::retry::{RetryConfig, RetryLayer};
//! use buttress::Error;
//! use buttress::timeout::TimeoutLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # type Body = http_body_util::Full<bytes::Bytes>;
//! # let hyper = service_fn(async |_: http::Request<Body>| Ok::<_, std::io::Error>(http::Response::new(Body::default())));
//! let name = "search";
//! let breakers = Breaker::keyed(name, BreakerConfig::default(), KeyedConfig::default(), ByAuthority)?;
//! let search = ServiceBuilder::new()
//!     .layer(RetryLayer::new(name, RetryConfig::new(), Replay::new())?.classify(ByStatus::new()))
//!     .layer(
//!         BreakerLayer::new(breakers, ByStatus::new())
//!             .finish(AtBodyEnd::new(name, Duration::from_secs(10))),
//!     )
//!     .layer(TimeoutLayer::new(name, Duration::from_secs(3)))
//!     .map_err(Error::Inner)
//!     .service(hyper);
//!
//! let request = http::Request::get("http://search.internal/?q=arch").body(Body::default())?;
//! assert!(search.oneshot(request).await?.status().is_success());
//! # Ok(()) }
//! ```
//!
//! # Errors
//!
//! A rejection of the stack is `Error::Rejected`, from the call or, after the head, from the response's body. The client's
//! errors are in `Error::Inner`, unchanged; [`error_outcome`] classifies them.
//!
//! # Events
//!
//! The events of the layers. A body that is cut short is an [`Event::Rejected`](crate::event::Event::Rejected) of the layer `body`. No event shows a
//! path or a query.
//!
//! # Cancel safety
//!
//! Dropping a call or its body releases everything that it held. A body dropped while its caller waits for a frame is
//! an abandoned call; dropped otherwise, it settles its call with the outcome of the head.

#[cfg(feature = "tracing")]
mod attempt_span;
mod authority;
mod body;
mod classify;
pub mod client;
mod connect;
pub mod deadline;
mod grpc;
mod reject;
mod replay;
mod request;
pub mod server;

/// The futures of this module's services.
pub mod future {
    #[cfg(feature = "tracing")]
    pub use super::attempt_span::AttemptSpanFuture;
    pub use super::body::header_timeout::HeaderTimeoutFuture;
    pub use super::connect::ConnectTimeoutFuture;
    pub use super::reject::layer::HandleRejectionsFuture;
    pub use super::reject::trust_not_executed::TrustNotExecutedFuture;
    pub use super::replay::drain::Draining;
    pub use super::server::service::ServerFuture;
}

#[cfg(feature = "tracing")]
pub use self::attempt_span::AttemptSpanLayer;
pub use self::authority::Authority;
pub use self::body::end::{BodyEnd, ClassifyEnd};
pub(crate) use self::body::final_outcome::AtFinalOutcome;
pub use self::body::gated::AtBodyEnd;
pub use self::body::header_timeout::HeaderTimeoutLayer;
pub use self::classify::errors::{ErrorOutcome, error_outcome};
pub use self::classify::retry_after::retry_after;
pub use self::classify::status::ByStatus;
pub use self::client::config::ClientConfig;
pub use self::client::layer::ClientLayer;
pub use self::client::stack::client;
pub use self::connect::{ConnectTimeout, ConnectTimeoutLayer};
pub use self::grpc::{ByGrpcStatus, grpc, handle_grpc_rejections};
pub use self::reject::layer::{HandleRejectionsLayer, handle_rejections};
pub use self::reject::response::rejection_response;
pub use self::reject::trust_not_executed::TrustNotExecutedLayer;
pub use self::replay::body::ReplayBody;
pub use self::replay::drain::Drain;
pub use self::replay::idempotency_keys::IdempotencyKeys;
pub use self::replay::policy::Replay;
pub use self::replay::redirects::Redirects;
pub use self::request::ByAuthority;
pub(crate) use self::request::HttpRequest;
#[cfg(feature = "reqwest")]
pub(crate) use self::request::HttpResponse;
pub use self::server::config::ServerConfig;
pub use self::server::stack::{ServerLayer, server};

#[cfg(feature = "reqwest")]
pub(crate) use self::{
    authority::AuthorityRef,
    body::final_outcome::deposit_later,
    body::header_timeout::{HeaderTimeout, HeaderTimeoutFuture, watch},
    replay::body::BodyBuffer,
    replay::drain::Draining,
    replay::safety::Saved,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::BreakerPermit;
    use crate::idempotency::StoredBody;

    type Gated<B> = body::gated::GatedBody<B, Option<BreakerPermit>, ByStatus>;

    #[test]
    fn bodies_are_unpin_where_their_inner_body_is() {
        fn is_unpin<B: Unpin>() {}
        is_unpin::<Gated<()>>();
        is_unpin::<server::service::ServerBody<()>>();
        is_unpin::<body::header_timeout::HeaderTimeoutBody<()>>();
        is_unpin::<ReplayBody<()>>();
        is_unpin::<grpc::GrpcBody<()>>();
        is_unpin::<StoredBody<()>>();
    }

    #[test]
    fn a_body_is_small() {
        let extra = size_of::<Gated<()>>();
        assert!(extra <= 168, "{extra} bytes");
    }
}

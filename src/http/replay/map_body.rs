//! Requests whose body cannot be cloned.

use std::fmt;

use ::http::Request;
use http_body::Body;

use crate::http::replay::body::{BodyBuffer, ReplayBody};
use crate::http::replay::policy::Replay;
use crate::http::replay::safety::Saved;
use crate::outcome::Outcome;
use crate::retry::ReplayPolicy;

/// Replays HTTP requests whose body cannot be cloned, by the same rules as [`Replay`]. Made by [`Replay::map_request_body`].
///
/// Every attempt's body is a [`ReplayBody`], mapped to the body type of the inner service. A request is retried only if its
/// body is fully buffered or unread. It is not retried if the response came before the body was read to its end, if the body
/// is larger than [`buffer_limit`](Replay::buffer_limit), or if the body failed
/// ([`RetryStop::BodyNotReplayable`](crate::event::RetryStop::BodyNotReplayable)). Its first attempt is sent in any case.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::body::Body;
/// use buttress::Error;
/// use buttress::http::{ByStatus, Replay};
/// use buttress::retry::{RetryConfig, RetryLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let router: axum::Router = axum::Router::new();
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::new("in-house", RetryConfig::new(), Replay::new().map_request_body(Body::new))?.classify(ByStatus::new()))
///     .map_err(Error::Inner)
///     .service(router);
/// let request = http::Request::put("/").body(Body::from("one of each"))?;
/// assert_eq!(service.oneshot(request).await?.status(), 404);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReplayAs<W> {
    replay: Replay,
    wrap: W,
}

impl Replay {
    /// For requests whose body cannot be cloned: every attempt's body is a [`ReplayBody`], which `wrap` maps to the
    /// body type of the inner service.
    ///
    /// | inner service | `wrap` |
    /// |---|---|
    /// | tonic's `Channel` | `tonic::body::Body::new` |
    /// | an axum `Router` | `axum::body::Body::new` |
    /// | hyper's client, or any that takes every body | `std::convert::identity`: it takes `Request<ReplayBody<B>>` |
    #[must_use]
    pub fn map_request_body<W>(self, wrap: W) -> ReplayAs<W> {
        ReplayAs { replay: self, wrap }
    }
}

impl<W> fmt::Debug for ReplayAs<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayAs")
            .field("replay", &self.replay)
            .finish_non_exhaustive()
    }
}

/// A request saved by [`ReplayAs`].
#[derive(Debug)]
pub struct SavedAs<B> {
    head: Saved<Request<()>>,
    body: BodyBuffer<B>,
}

impl<B, B2, W> ReplayPolicy<Request<B>> for ReplayAs<W>
where
    B: Body,
    W: Fn(ReplayBody<B>) -> B2,
{
    type Attempt = Request<B2>;
    type Saved = SavedAs<B>;

    fn first(&self, mut request: Request<B>) -> (Request<B2>, Option<SavedAs<B>>) {
        let head = self.replay.save(&request, |request| Some(head_of(request)));
        Replay::begin(&mut request, head.is_some());
        let (parts, body) = request.into_parts();
        let (body, saved) = match head {
            Some(head) => {
                let (first, body) = ReplayBody::new(body, self.replay.buffers());
                (first, Some(SavedAs { head, body }))
            }
            None => (ReplayBody::without_buffer(body), None),
        };
        (Request::from_parts(parts, (self.wrap)(body)), saved)
    }

    fn only(&self, mut request: Request<B>) -> Request<B2> {
        Replay::begin(&mut request, false);
        request.map(|body| (self.wrap)(ReplayBody::without_buffer(body)))
    }

    fn again(&self, saved: &mut SavedAs<B>) -> Option<Request<B2>> {
        let body = saved.body.again()?;
        let mut head = head_of(saved.head.request());
        self.replay.replay_head(&mut head);
        Some(head.map(|()| (self.wrap)(body)))
    }

    fn is_safe(&self, saved: &SavedAs<B>, outcome: &Outcome) -> bool {
        self.replay.is_safe_to_replay(&saved.head, outcome)
    }

    fn trusts_not_executed(&self, saved: &SavedAs<B>) -> bool {
        saved.head.trusts_not_executed()
    }

    fn is_replayable(&self, saved: &SavedAs<B>) -> bool {
        saved.body.is_replayable()
    }
}

/// A copy of all but the body.
fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    head.method_mut().clone_from(request.method());
    head.uri_mut().clone_from(request.uri());
    *head.version_mut() = request.version();
    head.headers_mut().clone_from(request.headers());
    head.extensions_mut().clone_from(request.extensions());
    head
}

//! The rest of a failed response is read, so that its connection can be used again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Response, Version};
use bytes::Buf;
use http_body::Body;
use pin_project::pin_project;

use crate::retry::Discard;
use crate::timeout::Alarm;

/// Reads what is left of a failed response while the next attempt runs.
///
/// An HTTP/1 connection can be used again only when its response has been read to the end; a response that is dropped
/// before closes it, and that at a time when many fail. What is larger than the limit, or takes longer, is dropped all the
/// same, as is what is left when the call ends. Other versions need none of it.
///
/// ```
/// use buttress::http::{ByStatus, Drain, Replay};
/// use buttress::retry::{RetryConfig, RetryLayer};
///
/// let layer = RetryLayer::new("search", RetryConfig::new(), Replay::new())?
///     .classify(ByStatus::new())
///     .discard(Drain::new());
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    bytes: u64,
    within: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Up to 64 KiB, for up to 50 ms.
    pub const fn new() -> Self {
        Self {
            bytes: 64 * 1024,
            within: Duration::from_millis(50),
        }
    }

    /// How many bytes of a response are read at most. Default 64 KiB; any.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// For how long at most. Default 50 ms; any.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    pub(crate) fn rest<B: Body>(self, version: Version, body: B) -> Option<Draining<B>> {
        let worth_it = version < Version::HTTP_2
            && !body.is_end_stream()
            && body.size_hint().lower() <= self.bytes;
        worth_it.then(|| {
            Draining(Box::pin(Rest {
                body,
                alarm: Alarm::new(),
                drain: self,
            }))
        })
    }
}

impl<B: Body> Discard<Response<B>> for Drain {
    type Discarding = Draining<B>;

    fn discard(&self, response: Response<B>) -> Option<Draining<B>> {
        self.rest(response.version(), response.into_body())
    }
}

/// The rest of a response, being read. Made by [`Drain`].
// Boxed, as room for it would be part of every call, and only one that has failed needs it.
pub struct Draining<B>(Pin<Box<Rest<B>>>);

#[pin_project]
struct Rest<B> {
    #[pin]
    body: B,
    #[pin]
    alarm: Alarm,
    /// What is left of the limits.
    drain: Drain,
}

impl<B: Body> Future for Draining<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut rest = self.0.as_mut().project();
        loop {
            match rest.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let size = frame.data_ref().map_or(0, Buf::remaining);
                    // A frame of nothing costs something too.
                    let cost = u64::try_from(size).unwrap_or(u64::MAX).max(1);
                    match rest.drain.bytes.checked_sub(cost) {
                        Some(left) => rest.drain.bytes = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if !rest.alarm.is_armed() {
            rest.alarm.as_mut().arm(rest.drain.within);
        }
        rest.alarm.poll(cx)
    }
}

impl<B> fmt::Debug for Draining<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("left", &self.0.drain)
            .finish_non_exhaustive()
    }
}

//! Reads the rest of a failed response, so that its connection can be reused.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Response, Version};
use bytes::Buf;
use http_body::Body;
use pin_project::pin_project;

use crate::budget::RetryBudget;
use crate::clock::Now;
use crate::http::body::final_outcome::deposit_later;
use crate::outcome::Outcome;
use crate::retry::Discard;
use crate::timeout::Alarm;

/// Reads the rest of a failed response while the next attempt runs.
///
/// An HTTP/1 connection can be reused only after its response has been read to the end. Dropping the response earlier closes
/// the connection, and reconnecting adds load while the server is failing. A rest that is larger than the limit, takes longer
/// or is left when the call ends is dropped. Other HTTP versions do not need this.
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

    /// The longest time to read. Default 50 ms; any.
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

    #[inline]
    fn deposit_later(&self, response: &Response<B>, head: &Outcome, budget: &RetryBudget) -> bool {
        deposit_later(response, head, budget)
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
                    // An empty frame costs one byte, so that endless empty frames end too.
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
            rest.alarm.as_mut().arm(rest.drain.within, &Now::unread());
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

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests may read the paused clock")]

    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::Full;
    use tokio::time::Instant;

    use super::*;

    /// So many frames of so many bytes, each after this time.
    struct Slow {
        frames: usize,
        size: usize,
        every: Duration,
        sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    fn slow(frames: usize, size: usize, every: Duration) -> Slow {
        Slow {
            frames,
            size,
            every,
            sleep: None,
        }
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let this = &mut *self;
            if this.frames == 0 {
                return Poll::Ready(None);
            }
            if !this.every.is_zero() {
                let every = this.every;
                let sleep = this
                    .sleep
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
                std::task::ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            this.frames -= 1;
            Poll::Ready(Some(Ok(Frame::data(vec![0; this.size].into()))))
        }

        fn is_end_stream(&self) -> bool {
            self.frames == 0
        }
    }

    const MS: Duration = Duration::from_millis(1);

    /// How long it was read, and how many frames were left.
    async fn drained(drain: Drain, body: Slow) -> (Duration, usize) {
        let began = Instant::now();
        let mut rest = drain.rest(Version::HTTP_11, body).unwrap();
        (&mut rest).await;
        (began.elapsed(), rest.0.body.frames)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_drained_within_the_limits() {
        let drain = Drain::new();
        let kib = 1024;
        assert_eq!(drained(drain, slow(4, kib, 10 * MS)).await, (40 * MS, 0));
        assert_eq!(drained(drain, slow(64, kib, Duration::ZERO)).await.1, 0);
        assert_eq!(
            drained(drain, slow(99, kib, Duration::ZERO)).await.1,
            99 - 65
        );
        assert_eq!(drained(drain, slow(9, 1, 20 * MS)).await, (50 * MS, 7));
        let endless = slow(usize::MAX, 0, Duration::ZERO);
        assert!(
            drained(drain, endless).await.1 > 0,
            "nothing costs something"
        );
        let none = drain.within(Duration::ZERO);
        assert_eq!(drained(none, slow(9, 1, MS)).await, (Duration::ZERO, 9));
    }

    #[test]
    fn an_http2_body_or_one_above_the_limit_is_dropped_at_once() {
        let reads = |version, size| {
            let announced = Full::<Bytes>::from(vec![0; size]);
            Drain::new().rest(version, announced).is_some()
        };
        assert!(reads(Version::HTTP_11, 64 * 1024));
        assert!(!reads(Version::HTTP_11, 64 * 1024 + 1));
        assert!(!reads(Version::HTTP_2, 1), "a stream is no connection");
        let empty = slow(0, 0, MS);
        assert!(Drain::new().rest(Version::HTTP_11, empty).is_none());
    }
}

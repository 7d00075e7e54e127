//! The body of requests to the handler and of responses to the client.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

/// A body that is in memory, or passes through frame by frame. The body of a guarded request is in memory, and so is the
/// body of a response that is stored. All others pass through.
#[pin_project]
pub struct StoredBody<B> {
    /// The whole body, or the part that was read of a body that was too large to be stored.
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    #[pin]
    rest: Rest<B>,
}

#[pin_project(project = RestNow)]
enum Rest<B> {
    None,
    Whole(#[pin] B),
    /// A body of which the first part was read.
    Begun(Pin<Box<B>>),
}

impl<B> StoredBody<B> {
    pub(in crate::idempotency::server) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        let data = if data.is_empty() {
            VecDeque::new()
        } else {
            VecDeque::from([data])
        };
        Self {
            data,
            trailers,
            rest: Rest::None,
        }
    }

    pub(in crate::idempotency::server) fn passing(body: B) -> Self {
        Self {
            data: VecDeque::new(),
            trailers: None,
            rest: Rest::Whole(body),
        }
    }

    /// The part that was read, followed by the rest.
    pub(in crate::idempotency::server) fn resumed(
        data: VecDeque<Bytes>,
        rest: Pin<Box<B>>,
    ) -> Self {
        Self {
            data,
            trailers: None,
            rest: Rest::Begun(rest),
        }
    }
}

impl<B> fmt::Debug for StoredBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.data.iter().map(Bytes::len).sum();
        f.debug_struct("StoredBody")
            .field("bytes", &bytes)
            .field("passes", &!matches!(self.rest, Rest::None))
            .finish_non_exhaustive()
    }
}

impl<B> From<String> for StoredBody<B> {
    fn from(text: String) -> Self {
        Self::whole(text.into(), None)
    }
}

impl<B> From<Bytes> for StoredBody<B> {
    fn from(data: Bytes) -> Self {
        Self::whole(data, None)
    }
}

impl<B> Default for StoredBody<B> {
    fn default() -> Self {
        Self::whole(Bytes::new(), None)
    }
}

impl<B: Body<Data = Bytes>> Body for StoredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(data) = this.data.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match this.rest.project() {
            RestNow::Whole(rest) => rest.poll_frame(cx),
            RestNow::Begun(rest) => rest.as_mut().poll_frame(cx),
            RestNow::None => Poll::Ready(this.trailers.take().map(|map| Ok(Frame::trailers(map)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
            && self.trailers.is_none()
            && self.rest.as_body().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data.iter().map(|data| data.len() as u64).sum();
        let Some(rest) = self.rest.as_body() else {
            let mut hint = SizeHint::with_exact(read);
            if self.trailers.is_some() {
                // HTTP/1.1 cannot send trailers after a body with a `Content-Length`.
                hint = SizeHint::new();
                hint.set_lower(read);
            }
            return hint;
        };
        let left = rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(
            left.lower()
                .saturating_add(read)
                .min(hint.upper().unwrap_or(u64::MAX)),
        );
        hint
    }
}

impl<B> Rest<B> {
    fn as_body(&self) -> Option<&B> {
        match self {
            Self::None => None,
            Self::Whole(body) => Some(body),
            Self::Begun(body) => Some(body),
        }
    }
}

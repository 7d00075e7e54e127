//! A body that can be sent more than once.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};

use super::buffer::{Buffer, Piece, Source};
use crate::error::BoxError;
use crate::sync::Mutex;

/// A request's body, as one attempt sends it: any body, whether it can be cloned or not.
///
/// The first attempt that reads it streams the original, and what passes is kept for further attempts: by reference,
/// without a copy, if its data are `Bytes`. Past the limit nothing is kept any more, what was kept is let go, and the
/// body streams on, to be sent once. Trailers are kept too, and [`size_hint`](Body::size_hint) is the original's on
/// every attempt, so that what has a `content-length` has it again and what is chunked is chunked again.
///
/// A body that is wholly kept may be read by several attempts at the same time. One of which nothing was read goes to the
/// newest attempt as it is. Anything in between belongs to the attempt that began to read it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::http::ReplayBody;
/// use http_body_util::BodyExt;
///
/// let (first, buffer) = ReplayBody::new("one of each".to_owned(), 64 * 1024);
/// assert!(buffer.is_replayable(), "nothing was read of it");
/// let sent = first.collect().await.unwrap().to_bytes();
/// let again = buffer.again().expect("it was read to its end").collect().await.unwrap().to_bytes();
/// assert_eq!(again, sent);
/// # }
/// ```
///
/// # Errors
///
/// The original's own, boxed; [`Superseded`] if another attempt has taken its place.
#[pin_project(PinnedDrop, project = Projected)]
pub struct ReplayBody<B> {
    /// `None` before it is this attempt that reads it, and after its end.
    #[pin]
    original: Option<B>,
    /// What came after all the bytes that were announced.
    ahead: Option<Box<Read>>,
    reads: Reads,
    /// `None` once neither this attempt needs it nor it this attempt.
    shared: Option<Arc<Mutex<Shared<B>>>>,
    /// Of what is not the original.
    hint: SizeHint,
}

type Read = Result<Frame<Bytes>, BoxError>;

#[derive(Clone, Copy, Debug)]
enum Reads {
    /// Not begun, as the attempt of this number.
    NotYet(u32),
    Original,
    /// The buffer, from here.
    Buffer(usize),
    /// Nothing, and never will.
    Nothing,
}

struct Shared<B> {
    buffer: Buffer,
    /// Until it is read.
    original: Option<B>,
}

/// Makes further attempts of a body. Made by [`ReplayBody::new`]; when it is dropped, nothing more is kept.
pub struct BodyBuffer<B> {
    /// `None` if the body is empty.
    shared: Option<Arc<Mutex<Shared<B>>>>,
    hint: SizeHint,
}

/// The body that an attempt was sending is now another attempt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another attempt has taken the place of the one that this body belongs to")]
#[non_exhaustive]
pub struct Superseded;

impl<B: Body> ReplayBody<B> {
    /// The body for the first attempt, and what makes those for others. At most `limit` bytes are kept, in at most 1024
    /// pieces.
    pub fn new(body: B, limit: usize) -> (Self, BodyBuffer<B>) {
        let hint = body.size_hint();
        let shared = (!body.is_end_stream()).then(|| {
            Arc::new(Mutex::new(Shared {
                buffer: Buffer::new(limit, hint.lower()),
                original: Some(body),
            }))
        });
        let buffer = BodyBuffer { shared, hint };
        (buffer.body(1), buffer)
    }

    /// A body that is sent once, and nothing is kept of.
    pub fn once(body: B) -> Self {
        Self {
            original: Some(body),
            ahead: None,
            reads: Reads::Original,
            shared: None,
            hint: SizeHint::default(),
        }
    }
}

impl<B> BodyBuffer<B> {
    /// The body for another attempt; `None` if there can be none now.
    ///
    /// From then on only this attempt may begin to read the original.
    pub fn again(&self) -> Option<ReplayBody<B>> {
        let attempt = match &self.shared {
            Some(shared) => shared.lock().buffer.attempt()?,
            None => 1,
        };
        Some(self.body(attempt))
    }

    /// Whether there can be another attempt now: nothing was read of the body, or all of it, and it was not too large.
    pub fn is_replayable(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|shared| shared.lock().buffer.is_replayable())
    }

    fn body(&self, attempt: u32) -> ReplayBody<B> {
        ReplayBody {
            original: None,
            ahead: None,
            reads: match self.shared {
                Some(_) => Reads::NotYet(attempt),
                None => Reads::Original,
            },
            shared: self.shared.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl<B> Drop for BodyBuffer<B> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let freed = shared.lock().buffer.unneeded();
            drop(freed);
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.reads {
                Reads::NotYet(attempt) => self.as_mut().begin(attempt),
                Reads::Original => return self.poll_original(cx),
                Reads::Buffer(at) => return Poll::Ready(self.project().next(at).map(Ok)),
                Reads::Nothing => return Poll::Ready(Some(Err(Superseded.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.reads {
            Reads::Original => {
                self.ahead.is_none() && self.original.as_ref().is_none_or(Body::is_end_stream)
            }
            // What is not empty from the start may turn out to be, and is announced as the original was.
            Reads::NotYet(_) | Reads::Buffer(_) | Reads::Nothing => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (self.reads, &self.original) {
            (Reads::Original, Some(original)) => original.size_hint(),
            (Reads::Original, None) => SizeHint::with_exact(0),
            _ => self.hint.clone(),
        }
    }
}

impl<B> ReplayBody<B> {
    fn begin(self: Pin<&mut Self>, attempt: u32) {
        let mut this = self.project();
        let (source, original) = match this.shared {
            Some(shared) => {
                let mut shared = shared.lock();
                let source = shared.buffer.begin(attempt);
                let original = match source {
                    Source::Original { .. } => shared.original.take(),
                    Source::Buffer | Source::Nowhere => None,
                };
                (source, original)
            }
            None => (Source::Nowhere, None),
        };
        *this.reads = match source {
            Source::Original { .. } => Reads::Original,
            Source::Buffer => Reads::Buffer(0),
            Source::Nowhere => Reads::Nothing,
        };
        if matches!(source, Source::Nowhere | Source::Original { kept: false }) {
            *this.shared = None;
        }
        this.original.set(original);
    }
}

impl<B> ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_original(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let mut this = self.project();
        if let Some(ahead) = this.ahead.take() {
            return Poll::Ready(Some(*ahead));
        }
        let read = ready!(this.pull(cx));
        // A client that has sent all the bytes that were announced may never ask for the end.
        if this.shared.is_some() && this.all_sent() {
            if let Poll::Ready(Some(next)) = this.pull(cx) {
                *this.ahead = Some(Box::new(next));
            }
        }
        Poll::Ready(read)
    }
}

impl<B: Body> Projected<'_, B>
where
    B::Error: Into<BoxError>,
{
    /// The original's next frame, kept if anything is.
    fn pull(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let Some(original) = self.original.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(read) = ready!(original.poll_frame(cx)) else {
            self.ended();
            return Poll::Ready(None);
        };
        let to_bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        let read = read.map(|frame| frame.map_data(to_bytes));
        self.keep(read.as_ref().ok());
        let last = match &read {
            Ok(frame) => frame.is_trailers() || self.original_is_over(),
            Err(_) => false,
        };
        if last {
            self.ended();
        }
        Poll::Ready(Some(read.map_err(Into::into)))
    }

    fn original_is_over(&self) -> bool {
        self.of_original(B::is_end_stream)
    }

    fn all_sent(&self) -> bool {
        self.of_original(|original| original.size_hint().exact() == Some(0))
    }

    fn of_original(&self, is: impl FnOnce(&B) -> bool) -> bool {
        self.original.as_ref().get_ref().as_ref().is_some_and(is)
    }

    /// Keeps a frame. What is none, an error, loses all.
    fn keep(&mut self, frame: Option<&Frame<Bytes>>) {
        let Some(shared) = &self.shared else { return };
        let frame = frame.map(|frame| (frame.data_ref(), frame.trailers_ref()));
        let kept = {
            let buffer = &mut shared.lock().buffer;
            match frame {
                Some((Some(data), _)) => buffer.data(data),
                Some((_, Some(trailers))) => buffer.trailers(trailers),
                _ => Err(buffer.lose()),
            }
        };
        if kept.is_err() {
            *self.shared = None;
        }
    }

    fn ended(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.lock().buffer.end();
        }
        self.original.set(None);
    }
}

impl<B> Projected<'_, B> {
    /// The piece at this place of the buffer.
    fn next(self, at: usize) -> Option<Frame<Bytes>> {
        let (piece, last) = match self.shared {
            Some(shared) => shared.lock().buffer.piece(at),
            None => (Piece::End, true),
        };
        *self.reads = Reads::Buffer(at + 1);
        if last {
            // As an original that has ended.
            *self.reads = Reads::Original;
            *self.shared = None;
        }
        match piece {
            Piece::Data(data) => {
                *self.hint = less(self.hint, data.len());
                Some(Frame::data(data))
            }
            Piece::Trailers(trailers) => Some(Frame::trailers(trailers)),
            Piece::End => None,
        }
    }
}

/// What is left of an announced size.
fn less(hint: &SizeHint, sent: usize) -> SizeHint {
    let sent = u64::try_from(sent).unwrap_or(u64::MAX);
    let mut left = SizeHint::new();
    left.set_lower(hint.lower().saturating_sub(sent));
    if let Some(upper) = hint.upper() {
        left.set_upper(upper.saturating_sub(sent).max(left.lower()));
    }
    left
}

/// Left before its end, the original is nobody's any more.
#[pinned_drop]
impl<B> PinnedDrop for ReplayBody<B> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let (Reads::Original, Some(shared)) = (*this.reads, &*this.shared) {
            let freed = shared.lock().buffer.lose();
            drop(freed);
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for BodyBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyBuffer")
            .field("replayable", &self.is_replayable())
            .finish_non_exhaustive()
    }
}

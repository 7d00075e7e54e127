//! A body that can be sent more than once.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};

use crate::error::BoxError;
use crate::http::replay::buffer::{Buffer, Piece, Source};
use crate::sync::Mutex;

/// The body of one attempt of a request, whether the original can be cloned or not.
///
/// The first attempt that reads it streams the original and buffers its frames for further attempts: by reference, without a
/// copy, if the data are `Bytes`. Past the limit, the buffer is dropped, and the body is streamed and sent once. Trailers are
/// buffered too, and [`size_hint`](Body::size_hint) is the original's on every attempt, so every attempt has the same
/// `content-length` or is chunked.
///
/// Several attempts may read a fully buffered body at the same time. An unread body goes to the newest attempt. A partly read
/// body belongs to the attempt that reads it.
///
/// # Errors
///
/// The original's error, boxed; or an error that a newer attempt has superseded this one.
#[pin_project(PinnedDrop, project = Projected)]
pub struct ReplayBody<B> {
    /// `Some` while this attempt reads it.
    #[pin]
    original: Option<B>,
    /// The frame after the last announced byte, read ahead.
    ahead: Option<Box<Read>>,
    reads: Reads,
    /// `None` once this attempt neither reads nor fills the buffer.
    shared: Option<Arc<Mutex<Inner<B>>>>,
    /// The size hint of a replayed body.
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
    /// Nothing: a newer attempt has the body.
    Nothing,
}

/// The body now belongs to a newer attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body of this attempt is used by a newer attempt of the call")]
#[non_exhaustive]
pub(super) struct Superseded;

impl<B: Body> ReplayBody<B> {
    /// The body for the first attempt, and the buffer that makes those for others. It holds at most `limit` bytes in at
    /// most 1024 pieces.
    pub(crate) fn new(body: B, limit: usize) -> (Self, BodyBuffer<B>) {
        let buffer = BodyBuffer::new(body, limit);
        (buffer.body(1), buffer)
    }

    /// A body that is sent once and not buffered.
    pub(super) fn without_buffer(body: B) -> Self {
        Self {
            original: Some(body),
            ahead: None,
            reads: Reads::Original,
            shared: None,
            hint: SizeHint::default(),
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
            // A body that may turn out to be empty is announced like the original.
            Reads::NotYet(_) | Reads::Buffer(_) | Reads::Nothing => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (self.reads, &self.original) {
            (Reads::Original, Some(original)) => original.size_hint(),
            (Reads::Original, None) => SizeHint::with_exact(0),
            _ => SizeHint::clone(&self.hint),
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
        if matches!(
            source,
            Source::Nowhere | Source::Original { buffered: false }
        ) {
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
        // A client that has sent all announced bytes may never poll for the end.
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
    /// The original's next frame, which is buffered.
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
        self.save(read.as_ref().ok());
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

    /// Buffers a frame; `None`, for an error, drops the buffer.
    fn save(&mut self, frame: Option<&Frame<Bytes>>) {
        let Some(shared) = &self.shared else { return };
        let frame = frame.map(|frame| (frame.data_ref(), frame.trailers_ref()));
        let buffered = {
            let buffer = &mut shared.lock().buffer;
            match frame {
                Some((Some(data), _)) => buffer.data(data),
                Some((_, Some(trailers))) => buffer.trailers(trailers),
                _ => Err(buffer.lose()),
            }
        };
        if buffered.is_err() {
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

/// The rest of an announced size.
fn less(hint: &SizeHint, sent: usize) -> SizeHint {
    let sent = u64::try_from(sent).unwrap_or(u64::MAX);
    let mut left = SizeHint::new();
    left.set_lower(hint.lower().saturating_sub(sent));
    if let Some(upper) = hint.upper() {
        left.set_upper(upper.saturating_sub(sent).max(left.lower()));
    }
    left
}

/// An original that is dropped before its end cannot be replayed.
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

/// Makes the bodies of further attempts. Made by [`ReplayBody::new`]; when it is dropped, buffering ends.
pub(crate) struct BodyBuffer<B> {
    /// `None` if the body is empty.
    shared: Option<Arc<Mutex<Inner<B>>>>,
    hint: SizeHint,
}

/// The state shared by all attempts of a body.
struct Inner<B> {
    buffer: Buffer,
    /// Until it is read.
    original: Option<B>,
}

impl<B: Body> BodyBuffer<B> {
    fn new(body: B, limit: usize) -> Self {
        let hint = body.size_hint();
        let shared = (!body.is_end_stream()).then(|| {
            Arc::new(Mutex::new(Inner {
                buffer: Buffer::new(limit, hint.lower()),
                original: Some(body),
            }))
        });
        Self { shared, hint }
    }
}

impl<B> BodyBuffer<B> {
    /// The body for another attempt; `None` if there can be none.
    ///
    /// From then on only this attempt may begin to read the original.
    pub(crate) fn again(&self) -> Option<ReplayBody<B>> {
        let attempt = match &self.shared {
            Some(shared) => shared.lock().buffer.attempt()?,
            None => 1,
        };
        Some(self.body(attempt))
    }

    /// Whether there can be another attempt: the body is unread, or fully buffered.
    pub(crate) fn is_replayable(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|shared| shared.lock().buffer.is_replayable())
    }

    /// The body for the attempt of this number.
    fn body(&self, attempt: u32) -> ReplayBody<B> {
        ReplayBody {
            original: None,
            ahead: None,
            reads: match self.shared {
                Some(_) => Reads::NotYet(attempt),
                None => Reads::Original,
            },
            shared: self.shared.clone(),
            hint: SizeHint::clone(&self.hint),
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

impl<B> fmt::Debug for BodyBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyBuffer")
            .field("replayable", &self.is_replayable())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::marker::PhantomPinned;
    use std::pin::pin;
    use std::task::Waker;

    use ::http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 16;

    #[derive(Debug, thiserror::Error)]
    #[error("torn")]
    struct Torn;

    #[derive(Clone, Debug)]
    enum Step {
        Data(Bytes),
        Trailers,
        Wait,
        Tear,
    }

    /// A body that is a script, and not `Unpin`.
    #[pin_project]
    #[derive(Debug)]
    struct Script {
        steps: VecDeque<Step>,
        /// Whether it announces its length.
        announced: bool,
        /// Whether it reports its end after the last frame.
        knows_its_end: bool,
        #[pin]
        pinned: PhantomPinned,
    }

    fn script(steps: impl IntoIterator<Item = Step>) -> Script {
        Script {
            steps: steps.into_iter().collect(),
            announced: false,
            knows_its_end: false,
            pinned: PhantomPinned,
        }
    }

    fn data(text: &'static str) -> Step {
        Step::Data(Bytes::from_static(text.as_bytes()))
    }

    fn trailers() -> HeaderMap {
        let name = HeaderName::from_static("sum");
        HeaderMap::from_iter([(name, HeaderValue::from_static("1"))])
    }

    impl Script {
        fn announced(mut self) -> Self {
            self.announced = true;
            self
        }

        fn knows_its_end(mut self) -> Self {
            self.knows_its_end = true;
            self
        }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = Torn;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
            match self.project().steps.pop_front() {
                None => Poll::Ready(None),
                Some(Step::Wait) => Poll::Pending,
                Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers())))),
                Some(Step::Tear) => Poll::Ready(Some(Err(Torn))),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.knows_its_end && self.steps.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let size = |step: &Step| match step {
                Step::Data(data) => data.len() as u64,
                _ => 0,
            };
            if self.announced {
                SizeHint::with_exact(self.steps.iter().map(size).sum())
            } else {
                SizeHint::new()
            }
        }
    }

    /// A frame as a reader sees it.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Data(Bytes),
        Trailers,
        End,
        Waits,
        Torn,
        Superseded,
    }

    type Reader = Pin<Box<ReplayBody<Script>>>;

    fn next(body: &mut Reader) -> Seen {
        let polled = body
            .as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Pending => Seen::Waits,
            Poll::Ready(None) => Seen::End,
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Seen::Data(data),
                Err(frame) => {
                    assert_eq!(frame.trailers_ref(), Some(&trailers()));
                    Seen::Trailers
                }
            },
            Poll::Ready(Some(Err(error))) if error.is::<Superseded>() => Seen::Superseded,
            Poll::Ready(Some(Err(error))) => {
                assert!(error.is::<Torn>(), "{error}");
                Seen::Torn
            }
        }
    }

    /// All up to its end, with the sizes announced on the way.
    fn read(body: &mut Reader) -> (Vec<Seen>, Vec<SizeHint>) {
        let (mut seen, mut hints) = (Vec::new(), vec![body.size_hint()]);
        while !body.is_end_stream() {
            match next(body) {
                Seen::End => break,
                frame => seen.push(frame),
            }
            hints.push(body.size_hint());
        }
        (seen, hints)
    }

    fn of(text: &'static str) -> Seen {
        Seen::Data(Bytes::from_static(text.as_bytes()))
    }

    fn replayed(script: Script) -> (Reader, BodyBuffer<Script>) {
        let (first, buffer) = ReplayBody::new(script, LIMIT);
        (Box::pin(first), buffer)
    }

    fn again(buffer: &BodyBuffer<Script>) -> Reader {
        Box::pin(buffer.again().expect("another attempt"))
    }

    fn exact(hints: &[SizeHint]) -> Vec<Option<u64>> {
        hints.iter().map(SizeHint::exact).collect()
    }

    #[test]
    fn every_attempt_sends_the_same_body() {
        let steps = || [data("one "), data("of each"), Step::Trailers];
        for body in [
            script(steps()).announced(),
            script(steps()).announced().knows_its_end(),
            script(steps()),
            script(steps()).knows_its_end(),
        ] {
            let sizes = if body.announced {
                [11, 7, 0, 0].map(Some).to_vec()
            } else {
                // Known only when it is over.
                vec![None, None, None, Some(0)]
            };
            let (mut first, buffer) = replayed(body);
            let (seen, hints) = read(&mut first);
            assert_eq!(seen, [of("one "), of("of each"), Seen::Trailers]);
            assert_eq!(exact(&hints), sizes);
            for _ in 0..2 {
                let (seen, hints) = read(&mut again(&buffer));
                assert_eq!(seen, [of("one "), of("of each"), Seen::Trailers]);
                assert_eq!(exact(&hints), sizes);
            }
        }
    }

    #[test]
    fn replayed_data_are_not_copied() {
        let long = Bytes::from(vec![7; LIMIT]);
        let (mut first, buffer) = replayed(script([Step::Data(long.clone())]));
        for seen in [next(&mut first), {
            assert_eq!(next(&mut first), Seen::End);
            next(&mut again(&buffer))
        }] {
            let Seen::Data(seen) = seen else {
                panic!("no data: {seen:?}")
            };
            assert_eq!(seen.as_ptr(), long.as_ptr());
        }
    }

    #[test]
    fn a_body_is_empty_from_the_start_only_if_the_original_was() {
        let (mut first, buffer) = replayed(script([]).knows_its_end());
        let mut second = again(&buffer);
        for body in [&mut first, &mut second] {
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
            assert_eq!(next(body), Seen::End);
        }
        let (mut first, buffer) = replayed(script([]));
        let mut second = again(&buffer);
        assert!(!second.is_end_stream() && second.size_hint().exact().is_none());
        assert_eq!(next(&mut second), Seen::End);
        assert_eq!(next(&mut first), Seen::End, "it is known to be empty");
        let mut third = again(&buffer);
        assert!(!third.is_end_stream() && third.size_hint().exact().is_none());
        assert_eq!(next(&mut third), Seen::End);
        assert!(third.is_end_stream());
    }

    #[test]
    fn past_the_limit_the_buffer_is_dropped_and_the_body_is_streamed() {
        let pieces: Vec<Bytes> = (0..5).map(|piece| vec![piece; 8].into()).collect();
        let (mut first, buffer) = replayed(script(pieces.iter().cloned().map(Step::Data)));
        for freed in [0, 0, 3, 4, 5] {
            assert!(matches!(next(&mut first), Seen::Data(_)));
            let unique = pieces.iter().filter(|piece| piece.is_unique());
            assert_eq!(unique.count(), freed);
            assert!(!buffer.is_replayable() && buffer.again().is_none());
        }
        assert_eq!(next(&mut first), Seen::End);
        assert!(!buffer.is_replayable());
    }

    #[test]
    fn an_announced_body_above_the_limit_is_not_buffered_but_goes_unread_to_the_next_attempt() {
        let large = script([Step::Data(vec![7; LIMIT + 1].into())]).announced();
        let (first, buffer) = replayed(large);
        drop(first);
        let mut second = again(&buffer);
        assert!(buffer.is_replayable());
        let (seen, hints) = read(&mut second);
        assert_eq!(seen.len(), 1);
        assert_eq!(exact(&hints), [Some(LIMIT as u64 + 1), Some(0)]);
        assert!(!buffer.is_replayable());
    }

    #[test]
    fn a_pending_body_has_begun() {
        let (mut first, buffer) = replayed(script([Step::Wait, data("late")]));
        assert_eq!(next(&mut first), Seen::Waits);
        assert!(!buffer.is_replayable());
    }

    #[test]
    fn an_older_attempt_ends_with_an_error() {
        let (mut first, buffer) = replayed(script([data("one "), data("of each")]));
        let mut second = again(&buffer);
        for _ in 0..2 {
            assert_eq!(next(&mut first), Seen::Superseded);
            assert!(!first.is_end_stream());
        }
        assert_eq!(next(&mut second), of("one "));
        assert_eq!(next(&mut first), Seen::Superseded);
        drop(first);
        assert_eq!(read(&mut second).0, [of("of each")]);
        assert!(buffer.is_replayable());
    }

    #[test]
    fn a_body_that_failed_is_not_replayed() {
        let (mut first, buffer) = replayed(script([data("one "), Step::Tear]));
        assert_eq!(next(&mut first), of("one "));
        assert_eq!(next(&mut first), Seen::Torn);
        assert!(!buffer.is_replayable());
        assert_eq!(
            next(&mut first),
            Seen::End,
            "the original continues after its error"
        );
        assert!(!buffer.is_replayable());
    }

    #[test]
    fn a_body_is_replayable_once_all_announced_bytes_were_sent() {
        let (mut first, buffer) = replayed(script([data("one of each")]).announced());
        assert_eq!(next(&mut first), of("one of each"));
        drop(first);
        assert_eq!(read(&mut again(&buffer)).0, [of("one of each")]);

        let steps = [data("one of each"), Step::Trailers];
        let (mut first, buffer) = replayed(script(steps).announced());
        assert_eq!(next(&mut first), of("one of each"));
        assert!(!first.is_end_stream(), "there are trailers to come");
        assert_eq!(next(&mut first), Seen::Trailers);
        assert!(first.is_end_stream());
        assert_eq!(
            read(&mut again(&buffer)).0,
            [of("one of each"), Seen::Trailers]
        );

        let steps = [data("one of each"), Step::Tear];
        let (mut first, buffer) = replayed(script(steps).announced());
        assert_eq!(next(&mut first), of("one of each"));
        assert_eq!(next(&mut first), Seen::Torn, "in its turn");
        assert!(!buffer.is_replayable());

        let steps = [data("one of each"), Step::Wait, Step::Trailers];
        let (mut first, buffer) = replayed(script(steps).announced());
        assert_eq!(next(&mut first), of("one of each"));
        assert!(!buffer.is_replayable(), "something may come yet");
        assert_eq!(next(&mut first), Seen::Trailers);
        assert!(buffer.is_replayable());
    }

    #[test]
    fn the_buffer_is_dropped_when_no_attempt_can_need_it() {
        let held = Bytes::from(vec![7; 8]);
        let steps = || [Step::Data(held.clone()), Step::Wait];
        let (mut first, buffer) = replayed(script(steps()));
        drop(next(&mut first));
        assert!(!held.is_unique());
        drop(buffer);
        assert_eq!(next(&mut first), Seen::Waits);
        assert!(held.is_unique(), "there will be no further attempt");
        assert_eq!(next(&mut first), Seen::End, "the first attempt continues");

        let (mut first, buffer) = replayed(script([Step::Data(held.clone())]));
        read(&mut first);
        let mut second = again(&buffer);
        drop((first, buffer));
        assert!(!held.is_unique(), "the second is yet to read it");
        read(&mut second);
        assert!(held.is_unique());

        let (mut first, buffer) = replayed(script(steps()));
        drop(buffer);
        drop(next(&mut first));
        assert!(held.is_unique(), "never buffered");
    }

    #[test]
    fn a_body_without_a_buffer_is_unchanged() {
        let steps = [data("one "), Step::Trailers];
        let mut once: Reader = Box::pin(ReplayBody::without_buffer(script(steps).announced()));
        assert_eq!(read(&mut once).0, [of("one "), Seen::Trailers]);
        let body = pin!(ReplayBody::without_buffer(script([]).knows_its_end()));
        assert!(body.is_end_stream());
    }

    /// An action on the attempts of a body.
    #[derive(Clone, Debug)]
    enum Act {
        Poll(usize),
        Drop(usize),
        Again,
        /// No further attempts.
        Done,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            8 => (0..4_usize).prop_map(Act::Poll),
            1 => (0..4_usize).prop_map(Act::Drop),
            2 => Just(Act::Again),
            1 => Just(Act::Done),
        ];
        proptest::collection::vec(act, 0..60)
    }

    fn scripts() -> impl Strategy<Value = Script> {
        let step = prop_oneof![
            6 => (0..6_u8).prop_map(|size| Step::Data(vec![size; size.into()].into())),
            2 => Just(Step::Wait),
            1 => Just(Step::Tear),
        ];
        let steps = proptest::collection::vec(step, 0..8);
        (steps, any::<[bool; 3]>()).prop_map(|(mut steps, [announced, knows_its_end, trails])| {
            if trails {
                steps.push(Step::Trailers);
            }
            Script {
                announced,
                knows_its_end,
                ..script(steps)
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn an_attempt_that_ends_has_sent_the_whole_body(
            body in scripts(),
            acts in acts(),
        ) {
            let mut whole = Vec::new();
            for step in &body.steps {
                match step {
                    Step::Data(data) => whole.extend_from_slice(data),
                    Step::Trailers => whole.push(b'T'),
                    Step::Wait | Step::Tear => {}
                }
            }
            let torn = body.steps.iter().any(|step| matches!(step, Step::Tear));
            let (first, buffer) = replayed(body);
            let mut buffer = Some(buffer);
            let mut attempts = vec![Some((first, Vec::new(), false))];
            for act in acts {
                match act {
                    Act::Again => {
                        if let Some(next) = buffer.as_ref().and_then(BodyBuffer::again) {
                            attempts.push(Some((Box::pin(next), Vec::new(), false)));
                        }
                    }
                    Act::Done => buffer = None,
                    Act::Drop(at) => {
                        if let Some(attempt) = attempts.iter_mut().rev().nth(at) {
                            *attempt = None;
                        }
                    }
                    Act::Poll(at) => {
                        let Some(Some((body, sent, over))) = attempts.iter_mut().rev().nth(at) else {
                            continue;
                        };
                        if *over {
                            continue;
                        }
                        match next(body) {
                            Seen::Data(data) => sent.extend_from_slice(&data),
                            Seen::Trailers => sent.push(b'T'),
                            Seen::Waits => {}
                            Seen::Torn => *over = true,
                            Seen::Superseded => {
                                prop_assert!(sent.is_empty(), "interleaved");
                                *over = true;
                            }
                            Seen::End => {
                                prop_assert!(!torn && *sent == whole, "cut short: {sent:?}");
                                *over = true;
                            }
                        }
                        prop_assert!(whole.starts_with(sent));
                        if !*over && body.is_end_stream() {
                            prop_assert!(!torn && *sent == whole, "cut short: {sent:?}");
                        }
                    }
                }
            }
        }
    }
}

//! The state of a body that may be read more than once: its buffer, and which attempt reads the original.

use ::http::HeaderMap;
use bytes::Bytes;

/// The largest number of pieces in a buffer: many small pieces must not exceed the memory that the byte limit suggests.
const MAX_PIECES: usize = 1024;

/// The buffer of a body.
#[derive(Debug)]
pub(super) struct Buffer {
    limit: usize,
    state: State,
    /// The number of the newest attempt.
    newest: u32,
    buffered: Buffered,
    /// The bytes in it.
    size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was read: the newest attempt may read the original, which is then buffered.
    Unread,
    /// The same, but nothing will be buffered.
    UnreadAndUnbuffered,
    /// An attempt reads the original.
    Filling,
    /// The whole body is buffered.
    Whole,
    /// Read by one attempt and not buffered: no other attempt can read it.
    Gone,
}

/// The pieces of a body. Removed pieces must be dropped outside the lock.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

/// Where an attempt reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The original; `buffered`: its frames must be passed to the buffer.
    Original { buffered: bool },
    /// The buffer, from its start.
    Buffer,
    /// Nowhere: the body is another attempt's.
    Nowhere,
}

/// The next piece of a buffer.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

impl Buffer {
    /// Buffers at most `limit` bytes of a body that announces at least `least`.
    pub(super) fn new(limit: usize, least: u64) -> Self {
        let fits = usize::try_from(least).is_ok_and(|least| least <= limit);
        Self {
            limit,
            state: if fits {
                State::Unread
            } else {
                State::UnreadAndUnbuffered
            },
            newest: 1,
            buffered: Buffered::default(),
            size: 0,
        }
    }

    /// Whether a new attempt could read the body from its start.
    pub(super) const fn is_replayable(&self) -> bool {
        match self.state {
            State::Unread | State::UnreadAndUnbuffered | State::Whole => true,
            State::Filling | State::Gone => false,
        }
    }

    /// Another attempt: its number.
    pub(super) fn attempt(&mut self) -> Option<u32> {
        if !self.is_replayable() {
            return None;
        }
        self.newest = self.newest.checked_add(1)?;
        Some(self.newest)
    }

    /// This attempt begins to read.
    pub(super) fn begin(&mut self, attempt: u32) -> Source {
        let (state, source) = match self.state {
            State::Unread if attempt == self.newest => {
                (State::Filling, Source::Original { buffered: true })
            }
            State::UnreadAndUnbuffered if attempt == self.newest => {
                (State::Gone, Source::Original { buffered: false })
            }
            State::Whole => (State::Whole, Source::Buffer),
            state => (state, Source::Nowhere),
        };
        self.state = state;
        source
    }

    /// Buffers data of the original. An error drops the buffer.
    pub(super) fn data(&mut self, data: &Bytes) -> Result<(), Buffered> {
        if data.is_empty() && self.state == State::Filling {
            return Ok(());
        }
        self.grow(data.len())?;
        if self.buffered.pieces.len() == MAX_PIECES {
            return Err(self.lose());
        }
        self.buffered.pieces.push(data.clone());
        Ok(())
    }

    /// Buffers the trailers, which end the body.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) -> Result<(), Buffered> {
        let size = |(name, value): (&::http::HeaderName, &::http::HeaderValue)| {
            name.as_str().len() + value.len()
        };
        self.grow(trailers.iter().map(size).sum())?;
        self.buffered.trailers = Some(trailers.clone());
        self.end();
        Ok(())
    }

    /// The original has ended.
    pub(super) fn end(&mut self) {
        if self.state == State::Filling {
            self.state = State::Whole;
        }
    }

    /// The original failed, or was dropped before its end.
    pub(super) fn lose(&mut self) -> Buffered {
        self.state = State::Gone;
        self.size = 0;
        std::mem::take(&mut self.buffered)
    }

    /// There will be no further attempt.
    pub(super) fn unneeded(&mut self) -> Buffered {
        match self.state {
            State::Unread => {
                self.state = State::UnreadAndUnbuffered;
                Buffered::default()
            }
            State::Filling => self.lose(),
            State::UnreadAndUnbuffered | State::Whole | State::Gone => Buffered::default(),
        }
    }

    /// The piece at this place, and whether it is the last.
    pub(super) fn piece(&self, at: usize) -> (Piece, bool) {
        let Buffered { pieces, trailers } = &self.buffered;
        match (pieces.get(at), trailers) {
            (Some(data), None) => (Piece::Data(data.clone()), at + 1 == pieces.len()),
            (Some(data), Some(_)) => (Piece::Data(data.clone()), false),
            (None, Some(trailers)) if at == pieces.len() => {
                (Piece::Trailers(trailers.clone()), true)
            }
            (None, _) => (Piece::End, true),
        }
    }

    fn grow(&mut self, by: usize) -> Result<(), Buffered> {
        match self.size.checked_add(by) {
            Some(size) if size <= self.limit && self.state == State::Filling => {
                self.size = size;
                Ok(())
            }
            _ => Err(self.lose()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Act {
        /// Another attempt is wanted.
        Attempt,
        /// The attempt of this number, from the newest, begins to read.
        Begin(u32),
        Data(usize),
        Trailers,
        End,
        /// An error, or the reader leaves.
        Leave,
        Unneeded,
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => Just(Act::Attempt),
            4 => (0_u32..3).prop_map(Act::Begin),
            6 => (0_usize..6).prop_map(Act::Data),
            2 => Just(Act::Trailers),
            3 => Just(Act::End),
            1 => Just(Act::Leave),
            1 => Just(Act::Unneeded),
        ]
    }

    fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(
            ::http::HeaderName::from_static("sum"),
            ::http::HeaderValue::from_static("1"),
        )])
    }

    /// A model that derives the state from all past actions each time.
    #[derive(Default)]
    struct Naive {
        happened: Vec<Act>,
        attempts: u32,
    }

    impl Naive {
        fn place(&self, of: impl Fn(&Act) -> bool) -> Option<usize> {
            self.happened.iter().position(of)
        }

        /// When the original was begun to be read.
        fn begun(&self) -> Option<usize> {
            self.place(|act| matches!(act, Act::Begin(_)))
        }

        fn over(&self) -> Option<usize> {
            self.place(|act| matches!(act, Act::End | Act::Trailers | Act::Leave))
        }

        fn is_read(&self) -> bool {
            self.begun().is_some() && self.over().is_none()
        }

        fn unneeded_before(&self, place: usize) -> bool {
            self.happened[..place].contains(&Act::Unneeded)
        }

        fn pieces(&self) -> Vec<usize> {
            let size = |act: &Act| match act {
                Act::Data(size) if *size > 0 => Some(*size),
                _ => None,
            };
            self.happened.iter().filter_map(size).collect()
        }

        fn has_trailers(&self) -> bool {
            self.happened.contains(&Act::Trailers)
        }

        fn is_whole(&self, limit: usize, least: usize) -> bool {
            let size = self.pieces().iter().sum::<usize>() + usize::from(self.has_trailers()) * 4;
            match (self.begun(), self.over()) {
                (Some(_), Some(over)) => {
                    self.happened[over] != Act::Leave
                        && !self.unneeded_before(over)
                        && size <= limit
                        && least <= limit
                }
                _ => false,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn the_buffer_agrees_with_the_model(
            limit in 0_usize..16,
            least in 0_usize..20,
            acts in proptest::collection::vec(any_act(), 1..16),
        ) {
            let mut buffer = Buffer::new(limit, least as u64);
            let mut naive = Naive { attempts: 1, ..Naive::default() };
            for act in acts {
                let whole = naive.is_whole(limit, least);
                let replayable = naive.begun().is_none() || whole;
                let sent = naive.is_read() && buffer.state == State::Filling;
                match act {
                    Act::Attempt => {
                        let attempt = buffer.attempt();
                        prop_assert_eq!(attempt, replayable.then_some(naive.attempts + 1));
                        naive.attempts += u32::from(replayable);
                    }
                    Act::Begin(age) => {
                        let attempt = naive.attempts.saturating_sub(age).max(1);
                        let expected = if whole {
                            Source::Buffer
                        } else if naive.begun().is_none() && attempt == naive.attempts {
                            let wanted = !naive.unneeded_before(naive.happened.len());
                            Source::Original { buffered: wanted && least <= limit }
                        } else {
                            Source::Nowhere
                        };
                        prop_assert_eq!(buffer.begin(attempt), expected);
                        if !matches!(expected, Source::Original { .. }) {
                            continue;
                        }
                    }
                    // The reader passes frames for as long as anything is buffered.
                    Act::Data(size) if sent => drop(buffer.data(&Bytes::from(vec![7; size]))),
                    Act::Trailers if sent => drop(buffer.trailers(&trailers())),
                    Act::End if sent => buffer.end(),
                    Act::Leave if sent => drop(buffer.lose()),
                    Act::Unneeded => drop(buffer.unneeded()),
                    _ if naive.is_read() => {}
                    _ => continue,
                }
                naive.happened.push(act);

                let whole = naive.is_whole(limit, least);
                prop_assert_eq!(buffer.is_replayable(), naive.begun().is_none() || whole);
                if whole {
                    let mut rest = naive.pieces();
                    let mut at = 0;
                    loop {
                        let (piece, last) = buffer.piece(at);
                        match piece {
                            Piece::Data(data) => prop_assert_eq!(data.len(), rest.remove(0)),
                            Piece::Trailers(map) => prop_assert_eq!((map, last), (trailers(), true)),
                            Piece::End => prop_assert!(naive.pieces().is_empty()),
                        }
                        at += 1;
                        if last {
                            break;
                        }
                    }
                    prop_assert!(rest.is_empty());
                } else if buffer.state != State::Filling {
                    prop_assert!(buffer.buffered.pieces.is_empty(), "a buffer that is not needed is dropped");
                    prop_assert!(buffer.buffered.trailers.is_none());
                } else {
                    prop_assert!(buffer.size <= limit);
                }
            }
        }
    }

    #[test]
    fn the_number_of_pieces_is_limited() {
        let mut buffer = Buffer::new(1 << 20, 0);
        buffer.begin(1);
        let byte = Bytes::from_static(b"x");
        for _ in 0..MAX_PIECES {
            assert!(buffer.data(&byte).is_ok());
        }
        let freed = buffer.data(&byte).unwrap_err();
        assert_eq!(freed.pieces.len(), MAX_PIECES);
        assert!(!buffer.is_replayable());
        let mut buffer = Buffer::new(0, 0);
        buffer.begin(1);
        for _ in 0..=MAX_PIECES {
            assert!(buffer.data(&Bytes::new()).is_ok(), "nothing costs nothing");
        }
        buffer.end();
        assert!(buffer.is_replayable());
    }
}

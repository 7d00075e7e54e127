//! The rules of a body that may be read more than once: what is kept of it, and who may read it.

use ::http::HeaderMap;
use bytes::Bytes;

/// The most pieces a body is kept in: many small ones must not cost more than the limit of their bytes suggests.
const MOST_PIECES: usize = 1024;

/// What is kept of a body.
#[derive(Debug)]
pub(super) struct Buffer {
    limit: usize,
    state: State,
    /// The number of the newest attempt.
    newest: u32,
    kept: Kept,
    /// The bytes in it.
    size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was read: the newest attempt may read the original, and what it reads is kept.
    Unread,
    /// The same, but nothing will be kept.
    UnreadAndUnkept,
    /// An attempt reads the original.
    Filling,
    /// All of it is here.
    Whole,
    /// Read by one attempt, and not here: nobody else can.
    Gone,
}

/// The pieces of a body. What is taken out of a buffer is to be dropped outside its lock.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

/// Where an attempt reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The original; `kept`: what it reads is to be told.
    Original { kept: bool },
    /// The buffer, from its start.
    Buffer,
    /// Nowhere: the body is another attempt's.
    Nowhere,
}

/// The next piece of what is kept.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

impl Buffer {
    /// For a body of which at most `limit` bytes are kept, and `least` of which are known to come.
    pub(super) fn new(limit: usize, least: u64) -> Self {
        let fits = usize::try_from(least).is_ok_and(|least| least <= limit);
        Self {
            limit,
            state: if fits {
                State::Unread
            } else {
                State::UnreadAndUnkept
            },
            newest: 1,
            kept: Kept::default(),
            size: 0,
        }
    }

    /// Whether a new attempt could read the body from its start.
    pub(super) const fn is_replayable(&self) -> bool {
        match self.state {
            State::Unread | State::UnreadAndUnkept | State::Whole => true,
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
                (State::Filling, Source::Original { kept: true })
            }
            State::UnreadAndUnkept if attempt == self.newest => {
                (State::Gone, Source::Original { kept: false })
            }
            State::Whole => (State::Whole, Source::Buffer),
            state => (state, Source::Nowhere),
        };
        self.state = state;
        source
    }

    /// The attempt that reads the original came to these bytes. Whether they were kept; if not, nothing is any more.
    pub(super) fn data(&mut self, data: &Bytes) -> Result<(), Kept> {
        if data.is_empty() && self.state == State::Filling {
            return Ok(());
        }
        self.grow(data.len())?;
        if self.kept.pieces.len() == MOST_PIECES {
            return Err(self.lose());
        }
        self.kept.pieces.push(data.clone());
        Ok(())
    }

    /// It came to these trailers, after which there is nothing.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) -> Result<(), Kept> {
        let size = |(name, value): (&::http::HeaderName, &::http::HeaderValue)| {
            name.as_str().len() + value.len()
        };
        self.grow(trailers.iter().map(size).sum())?;
        self.kept.trailers = Some(trailers.clone());
        self.end();
        Ok(())
    }

    /// It came to the end.
    pub(super) fn end(&mut self) {
        if self.state == State::Filling {
            self.state = State::Whole;
        }
    }

    /// It failed, or left before the end.
    pub(super) fn lose(&mut self) -> Kept {
        self.state = State::Gone;
        self.size = 0;
        std::mem::take(&mut self.kept)
    }

    /// There will be no further attempt: only those that were begun may still read.
    pub(super) fn unneeded(&mut self) -> Kept {
        match self.state {
            State::Unread => {
                self.state = State::UnreadAndUnkept;
                Kept::default()
            }
            State::Filling => self.lose(),
            State::UnreadAndUnkept | State::Whole | State::Gone => Kept::default(),
        }
    }

    /// The piece at this place, and whether it is the last.
    pub(super) fn piece(&self, at: usize) -> (Piece, bool) {
        let Kept { pieces, trailers } = &self.kept;
        match (pieces.get(at), trailers) {
            (Some(data), None) => (Piece::Data(data.clone()), at + 1 == pieces.len()),
            (Some(data), Some(_)) => (Piece::Data(data.clone()), false),
            (None, Some(trailers)) if at == pieces.len() => {
                (Piece::Trailers(trailers.clone()), true)
            }
            (None, _) => (Piece::End, true),
        }
    }

    fn grow(&mut self, by: usize) -> Result<(), Kept> {
        match self.size.checked_add(by) {
            Some(size) if size <= self.limit && self.state == State::Filling => {
                self.size = size;
                Ok(())
            }
            _ => Err(self.lose()),
        }
    }
}

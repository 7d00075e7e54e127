//! The life of one record: the rules that every store keeps.
//!
//! ```text
//!                  begin                      complete
//!   no record ───────────────► running ───────────────────────► done ──► forgotten at its time
//!       ▲                      │     ▲
//!       └──────────────────────┘     └─ begin, once the lease is over: by another holder, in another run
//!               abandon
//! ```

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::chance::draw;
use crate::clock::Moment;

/// What a record is kept under: a digest of the layer's name, tenant, method, route and the caller's key. No store sees the
/// key itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

/// A digest of a request: the same key with another one is a mistake of the caller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// Who holds a record: 128 random bits, new for each request that asks for one. What a holder does to a record that
/// another has taken over since has no effect (a fencing token; it is compared, not ordered).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// A token that nobody else has.
    pub fn new() -> Self {
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&draw().bits().to_le_bytes());
        bits[8..].copy_from_slice(&draw().bits().to_le_bytes());
        Self(bits)
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows the first bytes only.
fn shortened(f: &mut fmt::Formatter<'_>, name: &str, bytes: &[u8]) -> fmt::Result {
    write!(f, "{name}(")?;
    for byte in bytes.iter().take(4) {
        write!(f, "{byte:02x}")?;
    }
    f.write_str("…)")
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shortened(f, "RecordKey", &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shortened(f, "Fingerprint", &self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shortened(f, "Token", &self.0)
    }
}

/// What a request asks a store for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The digest of the request.
    pub fingerprint: Fingerprint,
    /// The holder to be.
    pub token: Token,
    /// How long the record is held unless it is renewed. Zero is over at once.
    pub lease: Duration,
    /// How long the record is kept after its lease, if nobody completes it. Zero is over at once.
    pub ttl: Duration,
}

impl Claim {
    /// A claim by a new holder.
    pub fn new(fingerprint: Fingerprint, lease: Duration, ttl: Duration) -> Self {
        Self {
            fingerprint,
            token: Token::new(),
            lease,
            ttl,
        }
    }
}

/// What became of a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The claimant holds the record now.
    Started {
        /// 1 for the first holder. Above, the holder before let its lease run out: whether it has acted is not known.
        run: u32,
    },
    /// Another holds it.
    Running,
    /// It is done, and this was the answer.
    Done(Bytes),
    /// It belongs to a request with another fingerprint.
    Mismatch,
}

/// What became of a holder's last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was taken.
    Taken,
    /// The same holder had completed it before, with this answer, which stands.
    Already(Bytes),
    /// The record is another's by now, or gone. Nothing was changed.
    Lost,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) token: Token,
    pub(crate) run: u32,
    pub(crate) state: State,
    /// When it is forgotten.
    pub(crate) gone_at: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running { lease_until: Moment },
    Done { answer: Bytes },
}

impl Record {
    fn claimed(claim: &Claim, run: u32, now: Moment) -> Self {
        let lease_until = now.after(claim.lease);
        Self {
            fingerprint: claim.fingerprint,
            token: claim.token,
            run,
            state: State::Running { lease_until },
            gone_at: lease_until.after(claim.ttl),
        }
    }

    /// A record at its time is as if it were not there.
    pub(crate) fn is_gone(&self, now: Moment) -> bool {
        now >= self.gone_at
    }

    fn is_held_by(&self, token: Token, now: Moment) -> bool {
        self.token == token && !self.is_gone(now)
    }
}

/// Claims the record in this place.
pub(crate) fn begin(place: &mut Option<Record>, claim: &Claim, now: Moment) -> Begun {
    let run = match place.as_ref().filter(|record| !record.is_gone(now)) {
        None => 1,
        Some(record) if record.fingerprint != claim.fingerprint => return Begun::Mismatch,
        Some(record) => match &record.state {
            State::Done { answer } => return Begun::Done(answer.clone()),
            // Its own claim: the store's answer to it was lost on the way.
            State::Running { .. } if record.token == claim.token => record.run,
            State::Running { lease_until } if now >= *lease_until => record.run.saturating_add(1),
            State::Running { .. } => return Begun::Running,
        },
    };
    *place = Some(Record::claimed(claim, run, now));
    Begun::Started { run }
}

/// Holds the record for another lease, from now; whether it was still the holder's. A lease that is over can be renewed as
/// long as nobody has taken the record over.
pub(crate) fn renew(
    place: &mut Option<Record>,
    token: Token,
    lease: Duration,
    ttl: Duration,
    now: Moment,
) -> bool {
    let Some(record) = place.as_mut().filter(|held| held.is_held_by(token, now)) else {
        return false;
    };
    let State::Running { lease_until } = &mut record.state else {
        return false;
    };
    *lease_until = now.after(lease);
    record.gone_at = lease_until.after(ttl);
    true
}

/// Gives the record its answer.
pub(crate) fn complete(
    place: &mut Option<Record>,
    token: Token,
    answer: Bytes,
    ttl: Duration,
    now: Moment,
) -> Ended {
    let Some(record) = place.as_mut().filter(|held| held.is_held_by(token, now)) else {
        return Ended::Lost;
    };
    if let State::Done { answer } = &record.state {
        return Ended::Already(answer.clone());
    }
    record.state = State::Done { answer };
    record.gone_at = now.after(ttl);
    Ended::Taken
}

/// Forgets the record: what it stood for has not happened.
pub(crate) fn abandon(place: &mut Option<Record>, token: Token, now: Moment) -> Ended {
    match place.as_ref().filter(|held| held.is_held_by(token, now)) {
        None => Ended::Lost,
        Some(Record {
            state: State::Done { answer },
            ..
        }) => Ended::Already(answer.clone()),
        Some(_) => {
            *place = None;
            Ended::Taken
        }
    }
}

//! One call to a store, its outcome, and the outcome by the rules.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Moment;
use crate::idempotency::record::{self, Begun, Claim, Ended, Fingerprint, Record, Token};
use crate::idempotency::store::{
    Entry, EntryState, RecordKey, Resolve, Resolved, Store, StoreError,
};

pub(super) const OVER: Duration = Duration::ZERO;
/// Longer than any test.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The index of a holder's token.
pub(super) type Holder = usize;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Begin(Holder, Request, Duration, Duration),
    Renew(Holder, Duration, Duration),
    Complete(Holder, Answer, Duration),
    Abandon(Holder),
    Find,
    /// Resolves the record in the state that was seen, if its lease ended at least this long ago.
    Resolve(Seen, Duration, Option<(Answer, Duration)>),
}

/// A stored response. `Debug` shows the two ends of a long one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Answer(pub(super) Bytes);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, shown) = (self.0.len(), 12);
        if length <= 2 * shown {
            return self.0.fmt(f);
        }
        let (first, last) = (self.0.slice(..shown), self.0.slice(length - shown..));
        write!(f, "{length} bytes, {first:?} to {last:?}")
    }
}

/// The state that a `Resolve` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The state that a look-up returns right before.
    Current,
    /// Running or stopped, held by this holder in this run.
    Open(Holder, u32),
    /// Completed by this holder in this run.
    Done(Holder, u32),
}

/// Requests differ in their fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    This,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Started(u32),
    Running,
    Done(Answer),
    Mismatch,
    Renewed(bool),
    Taken,
    Already(Answer),
    Lost,
    Nothing,
    Found(Found),
    Resolved(Resolved),
}

/// The part of an entry that does not depend on the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) run: u32,
    /// `None` if the token is none of the test's holders.
    pub(super) holder: Option<Holder>,
    pub(super) state: FoundState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FoundState {
    Running,
    Stopped,
    Done(Answer),
}

pub(super) fn found(run: u32, holder: Option<Holder>, state: FoundState) -> Outcome {
    Outcome::Found(Found { run, holder, state })
}

/// The tokens of a test.
#[derive(Debug)]
pub(super) struct Holders(Vec<Token>);

impl Holders {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Token::new()).collect())
    }

    fn claim(&self, who: Holder, request: Request, lease: Duration, ttl: Duration) -> Claim {
        let fingerprint = match request {
            Request::This => Fingerprint([1; 32]),
            // The fingerprints differ in the last byte only, because all bytes count.
            Request::Other => {
                let mut other = [1; 32];
                other[31] = 2;
                Fingerprint(other)
            }
        };
        Claim {
            fingerprint,
            token: self.0[who],
            lease,
            ttl,
        }
    }

    /// Executes a step on the store.
    pub(super) async fn execute(
        &self,
        store: &dyn Store,
        key: &RecordKey,
        step: Step,
    ) -> Result<Outcome, StoreError> {
        Ok(match step {
            Step::Begin(who, request, lease, ttl) => store
                .begin(key, &self.claim(who, request, lease, ttl))
                .await?
                .into(),
            Step::Renew(who, lease, ttl) => {
                Outcome::Renewed(store.renew(key, self.0[who], lease, ttl).await?)
            }
            Step::Complete(who, answer, ttl) => store
                .complete(key, self.0[who], answer.0, ttl)
                .await?
                .into(),
            Step::Abandon(who) => store.abandon(key, self.0[who]).await?.into(),
            Step::Find => self.found(key, store.find(key).await?),
            Step::Resolve(seen, stopped_for, end) => {
                let current = match seen {
                    Seen::Current => store.find(key).await?,
                    _ => None,
                };
                let resolve = self.resolve(current, seen, stopped_for, end);
                Outcome::Resolved(store.resolve(key, &resolve).await?)
            }
        })
    }

    pub(super) fn found(&self, key: &RecordKey, entry: Option<Entry>) -> Outcome {
        let Some(entry) = entry else {
            return Outcome::Nothing;
        };
        assert_eq!(
            entry.key, *key,
            "the store violates its contract: an entry names the key that it was found under"
        );
        let state = match entry.state {
            EntryState::Running { .. } => FoundState::Running,
            EntryState::Stopped { .. } => FoundState::Stopped,
            EntryState::Done { answer } => FoundState::Done(Answer(answer)),
        };
        let holder = self.0.iter().position(|token| *token == entry.token);
        found(entry.run, holder, state)
    }

    fn resolve(
        &self,
        current: Option<Entry>,
        seen: Seen,
        stopped_for: Duration,
        response: Option<(Answer, Duration)>,
    ) -> Resolve {
        let response = response.map(|(answer, ttl)| (answer.0, ttl));
        let (token, run, done) = match (seen, current) {
            (Seen::Current, Some(entry)) => return entry.resolve(stopped_for, response),
            (Seen::Current, None) => (self.0[0], 1, false),
            (Seen::Open(who, run), _) => (self.0[who], run, false),
            (Seen::Done(who, run), _) => (self.0[who], run, true),
        };
        Resolve {
            token,
            run,
            done,
            stopped_for,
            response,
        }
    }

    /// The outcome by the rules, at time zero.
    pub(super) fn rule(&self, place: &mut Option<Record>, step: Step) -> Outcome {
        let (now, key) = (Moment::START, RecordKey([0; 32]));
        let find = |place: &Option<Record>| record::find(place.as_ref(), &key, now);
        match step {
            Step::Begin(who, request, lease, ttl) => {
                record::begin(place, &self.claim(who, request, lease, ttl), now).into()
            }
            Step::Renew(who, lease, ttl) => {
                Outcome::Renewed(record::renew(place, self.0[who], lease, ttl, now))
            }
            Step::Complete(who, answer, ttl) => {
                record::complete(place, self.0[who], answer.0, ttl, now).into()
            }
            Step::Abandon(who) => record::abandon(place, self.0[who], now).into(),
            Step::Find => self.found(&key, find(place)),
            Step::Resolve(seen, stopped_for, end) => {
                let resolve = self.resolve(find(place), seen, stopped_for, end);
                Outcome::Resolved(record::resolve(place, &resolve, now))
            }
        }
    }
}

impl From<Begun> for Outcome {
    fn from(begun: Begun) -> Self {
        match begun {
            Begun::Started { run } => Self::Started(run),
            Begun::Running => Self::Running,
            Begun::Done(answer) => Self::Done(Answer(answer)),
            Begun::Mismatch => Self::Mismatch,
        }
    }
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Taken => Self::Taken,
            Ended::Already(answer) => Self::Already(Answer(answer)),
            Ended::Lost => Self::Lost,
        }
    }
}

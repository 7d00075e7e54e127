//! One question to a store, what it said, and what the rules say.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Moment;
use crate::idempotency::record::{self, Begun, Claim, Ended, Fingerprint, Record, Token};
use crate::idempotency::store::{RecordKey, Store, StoreError};

pub(super) const OVER: Duration = Duration::ZERO;
/// Longer than any test.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Who asks: an index into the tokens.
pub(super) type Who = usize;

#[derive(Clone)]
pub(super) enum Step {
    Begin(Who, Request, Duration, Duration),
    Renew(Who, Duration, Duration),
    Complete(Who, Bytes, Duration),
    Abandon(Who),
}

/// Requests differ in their fingerprints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    This,
    Other,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Said {
    Started(u32),
    Running,
    Done(Bytes),
    Mismatch,
    Renewed(bool),
    Taken,
    Already(Bytes),
    Lost,
}

/// Those who ask.
#[derive(Debug)]
pub(super) struct Holders(Vec<Token>);

impl Holders {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Token::new()).collect())
    }

    fn claim(&self, who: Who, request: Request, lease: Duration, ttl: Duration) -> Claim {
        let fingerprint = match request {
            Request::This => Fingerprint([1; 32]),
            // The last byte alone: all of it counts.
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

    /// Asks the store.
    pub(super) async fn ask(
        &self,
        store: &dyn Store,
        key: &RecordKey,
        step: Step,
    ) -> Result<Said, StoreError> {
        Ok(match step {
            Step::Begin(who, request, lease, ttl) => store
                .begin(key, &self.claim(who, request, lease, ttl))
                .await?
                .into(),
            Step::Renew(who, lease, ttl) => {
                Said::Renewed(store.renew(key, self.0[who], lease, ttl).await?)
            }
            Step::Complete(who, answer, ttl) => {
                store.complete(key, self.0[who], answer, ttl).await?.into()
            }
            Step::Abandon(who) => store.abandon(key, self.0[who]).await?.into(),
        })
    }

    /// What the rules say, in no time.
    pub(super) fn rule(&self, place: &mut Option<Record>, step: Step) -> Said {
        let now = Moment::START;
        match step {
            Step::Begin(who, request, lease, ttl) => {
                record::begin(place, &self.claim(who, request, lease, ttl), now).into()
            }
            Step::Renew(who, lease, ttl) => {
                Said::Renewed(record::renew(place, self.0[who], lease, ttl, now))
            }
            Step::Complete(who, answer, ttl) => {
                record::complete(place, self.0[who], answer, ttl, now).into()
            }
            Step::Abandon(who) => record::abandon(place, self.0[who], now).into(),
        }
    }
}

impl From<Begun> for Said {
    fn from(begun: Begun) -> Self {
        match begun {
            Begun::Started { run } => Self::Started(run),
            Begun::Running => Self::Running,
            Begun::Done(answer) => Self::Done(answer),
            Begun::Mismatch => Self::Mismatch,
        }
    }
}

impl From<Ended> for Said {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Taken => Self::Taken,
            Ended::Already(answer) => Self::Already(answer),
            Ended::Lost => Self::Lost,
        }
    }
}

/// What is long is shown by its ends.
fn answer(answer: &Bytes) -> String {
    let (length, shown) = (answer.len(), 12);
    if length <= 2 * shown {
        return format!("{answer:?}");
    }
    let (first, last) = (answer.slice(..shown), answer.slice(length - shown..));
    format!("{length} bytes, {first:?} to {last:?}")
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(run) => write!(f, "`Started` in run {run}"),
            Self::Running => f.write_str("`Running`"),
            Self::Done(bytes) => write!(f, "`Done` with {}", answer(bytes)),
            Self::Mismatch => f.write_str("`Mismatch`"),
            Self::Renewed(held) => write!(f, "`{held}`"),
            Self::Taken => f.write_str("`Taken`"),
            Self::Already(bytes) => write!(f, "`Already` with {}", answer(bytes)),
            Self::Lost => f.write_str("`Lost`"),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::This => "this request",
            Self::Other => "another request",
        })
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(who, request, lease, ttl) => write!(
                f,
                "begin by holder {who} of {request:?}, lease {lease:?}, ttl {ttl:?}"
            ),
            Self::Renew(who, lease, ttl) => {
                write!(f, "renew by holder {who}, lease {lease:?}, ttl {ttl:?}")
            }
            Self::Complete(who, bytes, ttl) => {
                let answer = answer(bytes);
                write!(f, "complete by holder {who} with {answer}, ttl {ttl:?}")
            }
            Self::Abandon(who) => write!(f, "abandon by holder {who}"),
        }
    }
}

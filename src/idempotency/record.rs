//! The state machine of one record: the rules that every store follows.
//!
//! ```text
//!                  begin                      complete
//!   no record ───────────────► running ───────────────────────► done ──► deleted after its ttl
//!       ▲                      │     ▲
//!       └──────────────────────┘     └─ begin after the lease is over: another holder, the next run
//!         abandon, in run 1
//! ```

mod by_length;
mod ids;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use self::by_length::ByLength;
pub use self::ids::{Fingerprint, RecordKey, Token};
use super::store::{Entry, EntryState, Resolve, Resolved};
use crate::clock::Moment;

/// A request to hold a record.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The digest of the request.
    pub fingerprint: Fingerprint,
    /// The token of the new holder.
    pub token: Token,
    /// How long the record is held without a renewal. Zero ends the lease at once.
    pub lease: Duration,
    /// How long the record exists after its lease, if it is not completed. Zero deletes it with its lease.
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

/// The result of a [`Claim`].
#[derive(Clone, PartialEq, Eq)]
pub enum Begun {
    /// The claim succeeded.
    Started {
        /// 1 for the first holder. Above 1, the lease of an earlier holder ended, and whether that one has acted is unknown.
        run: u32,
    },
    /// Another holder has the record.
    Running,
    /// The record is completed, with this response.
    Done(Bytes),
    /// The record belongs to a request with another fingerprint.
    Mismatch,
}

/// The result of completing or abandoning a record.
#[derive(Clone, PartialEq, Eq)]
pub enum Ended {
    /// The change was applied.
    Taken,
    /// The same holder completed the record before, with this response. Nothing was changed.
    Already(Bytes),
    /// The record is gone, or has another holder. Nothing was changed.
    Lost,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) token: Token,
    pub(crate) run: u32,
    pub(crate) state: State,
    /// When it was first claimed: the start of run 1.
    pub(crate) begun_at: Moment,
    /// When it is deleted.
    pub(crate) gone_at: Moment,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum State {
    Running { lease_until: Moment },
    Done { answer: Bytes },
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { run } => f.debug_struct("Started").field("run", run).finish(),
            Self::Running => f.write_str("Running"),
            Self::Done(answer) => f.debug_tuple("Done").field(&ByLength(answer)).finish(),
            Self::Mismatch => f.write_str("Mismatch"),
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("Taken"),
            Self::Already(answer) => f.debug_tuple("Already").field(&ByLength(answer)).finish(),
            Self::Lost => f.write_str("Lost"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { lease_until } => f
                .debug_struct("Running")
                .field("lease_until", lease_until)
                .finish(),
            Self::Done { answer } => f
                .debug_struct("Done")
                .field("answer", &ByLength(answer))
                .finish(),
        }
    }
}

impl Record {
    fn claimed(claim: &Claim, run: u32, begun_at: Moment, now: Moment) -> Self {
        let lease_until = now.after(claim.lease);
        Self {
            fingerprint: claim.fingerprint,
            token: claim.token,
            run,
            state: State::Running { lease_until },
            begun_at,
            gone_at: lease_until.after(claim.ttl),
        }
    }

    /// Whether the record has expired.
    pub(crate) fn is_gone(&self, now: Moment) -> bool {
        now >= self.gone_at
    }

    fn is_held_by(&self, token: Token, now: Moment) -> bool {
        self.token == token && !self.is_gone(now)
    }

    /// Whether a response of this holder would be stored.
    pub(crate) fn takes_answer(&self, token: Token, now: Moment) -> bool {
        self.is_held_by(token, now) && matches!(self.state, State::Running { .. })
    }
}

/// Claims the record in this place.
pub(crate) fn begin(place: &mut Option<Record>, claim: &Claim, now: Moment) -> Begun {
    let live = place.as_ref().filter(|record| !record.is_gone(now));
    let run = match live {
        None => 1,
        Some(record) if record.fingerprint != claim.fingerprint => return Begun::Mismatch,
        Some(record) => match &record.state {
            State::Done { answer } => return Begun::Done(answer.clone()),
            // A repeated claim of this holder, whose first result was lost.
            State::Running { .. } if record.token == claim.token => record.run,
            State::Running { lease_until } if now >= *lease_until => record.run.saturating_add(1),
            State::Running { .. } => return Begun::Running,
        },
    };
    let begun_at = live.map_or(now, |record| record.begun_at);
    *place = Some(Record::claimed(claim, run, begun_at, now));
    Begun::Started { run }
}

/// Starts another lease now. `false`: the record is gone, done, or has another holder. A lease that is over can be renewed
/// as long as no other holder has claimed the record.
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

/// Completes the record with its response.
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

/// Deletes the record of an operation that did not happen. After an earlier run that may have acted, the record remains
/// without a holder, because the next holder has to see that there was an earlier run.
pub(crate) fn abandon(place: &mut Option<Record>, token: Token, now: Moment) -> Ended {
    let Some(record) = place.as_mut().filter(|held| held.is_held_by(token, now)) else {
        return Ended::Lost;
    };
    if let State::Done { answer } = &record.state {
        return Ended::Already(answer.clone());
    }
    if record.run == 1 {
        *place = None;
    } else {
        record.token = Token::NOBODY;
        record.state = State::Running { lease_until: now };
    }
    Ended::Taken
}

/// The record as a look-up shows it, with its whole response.
pub(crate) fn find(place: Option<&Record>, key: &RecordKey, now: Moment) -> Option<Entry> {
    let record = place.filter(|record| !record.is_gone(now))?;
    let state = match &record.state {
        State::Done { answer } => EntryState::Done {
            answer: answer.clone(),
        },
        State::Running { lease_until } if now >= *lease_until => EntryState::Stopped {
            since: now.since(*lease_until),
        },
        State::Running { lease_until } => EntryState::Running {
            lease: lease_until.since(now),
        },
    };
    let (age, expires_in) = (now.since(record.begun_at), record.gone_at.since(now));
    Some(Entry::new(
        *key,
        record.token,
        record.run,
        age,
        state,
        expires_in,
    ))
}

/// Whether the record can be resolved.
pub(crate) fn resolvable(place: Option<&Record>, resolve: &Resolve, now: Moment) -> Resolved {
    let Some(record) = place.filter(|record| !record.is_gone(now)) else {
        return Resolved::Missing;
    };
    let done = matches!(record.state, State::Done { .. });
    if (record.token, record.run, done) != (resolve.token, resolve.run, resolve.done) {
        return Resolved::Changed;
    }
    match record.state {
        State::Running { lease_until } if now < lease_until.after(resolve.stopped_for) => {
            Resolved::Running
        }
        _ => Resolved::Resolved,
    }
}

/// Deletes the record, or completes it with a response, if it has not changed since it was looked up.
pub(crate) fn resolve(place: &mut Option<Record>, resolve: &Resolve, now: Moment) -> Resolved {
    let resolved = resolvable(place.as_ref(), resolve, now);
    if resolved == Resolved::Resolved {
        match (&resolve.response, place.as_mut()) {
            (Some((answer, ttl)), Some(record)) => {
                record.token = Token::new();
                record.state = State::Done {
                    answer: answer.clone(),
                };
                record.gone_at = now.after(*ttl);
            }
            _ => *place = None,
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START.after(Duration::from_secs(seconds))
    }

    fn claim(holder: u8, request: u8, lease: u64, ttl: u64) -> Claim {
        Claim {
            fingerprint: Fingerprint([request; 32]),
            token: Token([holder; 16]),
            lease: Duration::from_secs(lease),
            ttl: Duration::from_secs(ttl),
        }
    }

    #[test]
    fn debug_shows_the_length_of_a_response_and_never_its_bytes() {
        let answer = || Bytes::from_static(b"secret");
        let state = State::Done { answer: answer() };
        let mut place = None;
        begin(&mut place, &claim(1, 1, 10, 20), at(0));
        let ttl = Duration::from_secs(20);
        complete(&mut place, Token([1; 16]), answer(), ttl, at(5));
        let entry = find(place.as_ref(), &RecordKey([0; 32]), at(6)).unwrap();
        let resolve = entry.resolve(ttl, Some((answer(), ttl)));
        let shown = [
            (format!("{:?}", Begun::Done(answer())), "Done(6 bytes)"),
            (
                format!("{:?}", Ended::Already(answer())),
                "Already(6 bytes)",
            ),
            (format!("{state:?}"), "Done { answer: 6 bytes }"),
            (format!("{place:?}"), "answer: 6 bytes"),
            (format!("{:?}", entry.state), "Done { answer: 6 bytes }"),
            (format!("{entry:?}"), "answer: 6 bytes"),
            (format!("{resolve:?}"), "response: Some((6 bytes, 20s))"),
            (
                format!("{:#?}", Begun::Done(answer())),
                "Done(\n    6 bytes,\n)",
            ),
        ];
        for (shown, expected) in shown {
            assert!(shown.contains(expected), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        let rest = [
            format!("{:?}", Begun::Started { run: 2 }),
            format!("{:?}", [Begun::Running, Begun::Mismatch]),
            format!("{:?}", [Ended::Taken, Ended::Lost]),
        ];
        let expected = ["Started { run: 2 }", "[Running, Mismatch]", "[Taken, Lost]"];
        assert_eq!(rest, expected);
    }

    #[test]
    fn the_number_of_a_run_saturates() {
        let mut place = None;
        begin(&mut place, &claim(1, 1, 0, 20), at(0));
        place.as_mut().expect("running").run = u32::MAX;
        let begun = begin(&mut place, &claim(2, 1, 0, 20), at(0));
        assert_eq!(begun, Begun::Started { run: u32::MAX });
    }

    #[derive(Clone, Debug)]
    enum Op {
        Begin(u8, u8, u64, u64),
        Renew(u8, u64, u64),
        Complete(u8, u8, u64),
        Abandon(u8),
        /// An `Abandon` after an earlier run, with the expiry of the record before it.
        Release(u64),
        Find,
        Resolve(Seen, u64, Option<(u8, u64)>),
    }

    /// The state that a `Resolve` names.
    #[derive(Clone, Debug)]
    enum Seen {
        /// The one that the record is in.
        Current,
        Of(u8, u32, bool),
    }

    fn expiry_after(when: u64, op: &Op) -> u64 {
        match op {
            Op::Begin(_, _, lease, ttl) | Op::Renew(_, lease, ttl) => when + lease + ttl,
            Op::Complete(_, _, ttl) | Op::Resolve(_, _, Some((_, ttl))) => when + ttl,
            Op::Abandon(_) | Op::Find | Op::Resolve(_, _, None) => 0,
            Op::Release(until) => *until,
        }
    }

    fn any_op() -> impl Strategy<Value = (u64, Op)> {
        let (holder, request, time) = (1..4_u8, 0..2_u8, prop_oneof![0..6_u64, Just(1000)]);
        let seen = prop_oneof![
            Just(Seen::Current),
            (holder.clone(), 1..4_u32, any::<bool>()).prop_map(|(h, r, d)| Seen::Of(h, r, d)),
        ];
        let op = prop_oneof![
            4 => (holder.clone(), request, time.clone(), time.clone())
                .prop_map(|(h, r, l, t)| Op::Begin(h, r, l, t)),
            1 => (holder.clone(), time.clone(), time.clone()).prop_map(|(h, l, t)| Op::Renew(h, l, t)),
            2 => (holder.clone(), 0..3_u8, time.clone()).prop_map(|(h, a, t)| Op::Complete(h, a, t)),
            1 => holder.clone().prop_map(Op::Abandon),
            2 => Just(Op::Find),
            2 => (seen, prop_oneof![0..6_u64, Just(1000)], proptest::option::of((3..6_u8, time)))
                .prop_map(|(seen, stopped_for, end)| Op::Resolve(seen, stopped_for, end)),
        ];
        (0..4_u64, op)
    }

    /// A log of all operations, from which each result is computed again.
    #[derive(Debug, Default)]
    struct Naive(Vec<(u64, Op)>);

    impl Naive {
        /// The operations on the record that exists at this time.
        fn life(&self, now: u64) -> &[(u64, Op)] {
            let mut start = 0;
            for (i, (when, op)) in self.0.iter().enumerate() {
                let expiry_after = expiry_after(*when, op);
                let next = self.0.get(i + 1).map_or(now, |(when, _)| *when);
                if next >= expiry_after {
                    start = i + 1;
                }
            }
            &self.0[start..]
        }

        fn holder(&self, now: u64) -> Option<u8> {
            let claims = self.life(now).iter().rev();
            let last = claims.into_iter().find_map(|(_, op)| match op {
                Op::Begin(holder, ..) => Some(Some(*holder)),
                Op::Release(_) | Op::Resolve(..) => Some(None),
                _ => None,
            });
            last.flatten()
        }

        fn run(&self, now: u64, next: Option<u8>) -> u32 {
            let claims = self.life(now).iter().filter_map(|(_, op)| match op {
                Op::Begin(holder, ..) => Some(Some(*holder)),
                Op::Release(_) | Op::Resolve(..) => Some(None),
                _ => None,
            });
            let mut holders: Vec<Option<u8>> = claims.chain(next.map(Some)).collect();
            holders.dedup();
            let runs = holders.iter().flatten().count();
            u32::try_from(runs).expect("few")
        }

        fn answer(&self, now: u64) -> Option<Bytes> {
            self.life(now).iter().rev().find_map(|(_, op)| match op {
                Op::Complete(_, answer, _) | Op::Resolve(_, _, Some((answer, _))) => {
                    Some(vec![*answer].into())
                }
                _ => None,
            })
        }

        fn begun(&self, now: u64, holder: u8, request: u8) -> Begun {
            let life = self.life(now);
            let Some((_, Op::Begin(_, first, ..))) = life.first() else {
                return Begun::Started { run: 1 };
            };
            let lease_until = self.lease_until(now);
            if *first != request {
                Begun::Mismatch
            } else if let Some(answer) = self.answer(now) {
                Begun::Done(answer)
            } else if self.holder(now) == Some(holder) || lease_until <= Some(now) {
                let run = self.run(now, Some(holder));
                Begun::Started { run }
            } else {
                Begun::Running
            }
        }

        fn lease_until(&self, now: u64) -> Option<u64> {
            let life = self.life(now).iter().rev();
            life.into_iter().find_map(|(when, op)| match op {
                Op::Begin(_, _, lease, _) | Op::Renew(_, lease, _) => Some(when + lease),
                Op::Release(_) => Some(*when),
                _ => None,
            })
        }

        /// Run, age, state, and the time until the record expires.
        fn found(&self, now: u64) -> Option<(u32, Duration, EntryState, Duration)> {
            let time = Duration::from_secs;
            let life = self.life(now);
            let (begun_at, _) = life.first()?;
            let (when, last) = life.last()?;
            let lease_until = self.lease_until(now)?;
            let state = match self.answer(now) {
                Some(answer) => EntryState::Done { answer },
                None if lease_until > now => EntryState::Running {
                    lease: time(lease_until - now),
                },
                None => EntryState::Stopped {
                    since: time(now - lease_until),
                },
            };
            let expires_in = time(expiry_after(*when, last) - now);
            Some((self.run(now, None), time(now - begun_at), state, expires_in))
        }

        fn resolved(&self, now: u64, seen: &Seen, stopped_for: u64) -> Resolved {
            let Some((run, _, state, _)) = self.found(now) else {
                return Resolved::Missing;
            };
            let is_done = matches!(state, EntryState::Done { .. });
            match seen {
                Seen::Of(holder, ..) if self.holder(now) != Some(*holder) => Resolved::Changed,
                Seen::Of(_, seen_run, done) if (run, is_done) != (*seen_run, *done) => {
                    Resolved::Changed
                }
                _ if is_done => Resolved::Resolved,
                _ if self.lease_until(now) > now.checked_sub(stopped_for) => Resolved::Running,
                _ => Resolved::Resolved,
            }
        }

        fn ended(&self, now: u64, holder: u8) -> Ended {
            if self.holder(now) != Some(holder) {
                return Ended::Lost;
            }
            self.answer(now).map_or(Ended::Taken, Ended::Already)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_agrees_with_a_model_that_recomputes_everything(
            ops in proptest::collection::vec(any_op(), 0..24),
        ) {
            let (mut place, mut naive, mut now) = (None, Naive::default(), 0);
            for (passed, op) in ops {
                now += passed;
                let moment = at(now);
                let mut op = op;
                let has_effect = match op {
                    Op::Begin(holder, request, lease, ttl) => {
                        let expected = naive.begun(now, holder, request);
                        let claim = claim(holder, request, lease, ttl);
                        prop_assert_eq!(&begin(&mut place, &claim, moment), &expected);
                        matches!(expected, Begun::Started { .. })
                    }
                    Op::Renew(holder, lease, ttl) => {
                        let expected = naive.ended(now, holder) == Ended::Taken;
                        let (lease, ttl) = (Duration::from_secs(lease), Duration::from_secs(ttl));
                        let renewed = renew(&mut place, Token([holder; 16]), lease, ttl, moment);
                        prop_assert_eq!(renewed, expected);
                        expected
                    }
                    Op::Complete(holder, answer, ttl) => {
                        let expected = naive.ended(now, holder);
                        let (answer, ttl) = (vec![answer].into(), Duration::from_secs(ttl));
                        let takes = |record: &Record| record.takes_answer(Token([holder; 16]), moment);
                        prop_assert_eq!(place.as_ref().is_some_and(takes), expected == Ended::Taken);
                        let ended = complete(&mut place, Token([holder; 16]), answer, ttl, moment);
                        prop_assert_eq!(&ended, &expected);
                        expected == Ended::Taken
                    }
                    Op::Abandon(holder) => {
                        let expected = naive.ended(now, holder);
                        let ended = abandon(&mut place, Token([holder; 16]), moment);
                        prop_assert_eq!(&ended, &expected);
                        if naive.run(now, None) > 1 {
                            let last = naive.0.last().map_or(0, |(when, op)| expiry_after(*when, op));
                            op = Op::Release(last);
                        }
                        expected == Ended::Taken
                    }
                    Op::Release(_) => false,
                    Op::Find => {
                        let found = find(place.as_ref(), &RecordKey([7; 32]), moment);
                        let found = found.map(|entry| {
                            assert_eq!(entry.key, RecordKey([7; 32]));
                            if let Some(holder) = naive.holder(now) {
                                assert_eq!(entry.token, Token([holder; 16]));
                            }
                            (entry.run, entry.age, entry.state, entry.expires_in)
                        });
                        prop_assert_eq!(found, naive.found(now));
                        false
                    }
                    Op::Resolve(ref seen, stopped_for, end) => {
                        let expected = naive.resolved(now, seen, stopped_for);
                        let time = Duration::from_secs(stopped_for);
                        let end = end.map(|(answer, ttl)| (vec![answer].into(), Duration::from_secs(ttl)));
                        let request = match *seen {
                            Seen::Current => find(place.as_ref(), &RecordKey([7; 32]), moment)
                                .map(|entry| entry.resolve(time, end.clone())),
                            Seen::Of(..) => None,
                        };
                        let request = request.unwrap_or_else(|| {
                            let (holder, run, done) = match *seen {
                                Seen::Of(holder, run, done) => (holder, run, done),
                                Seen::Current => (1, 1, false),
                            };
                            let token = Token([holder; 16]);
                            Resolve { token, run, done, stopped_for: time, response: end }
                        });
                        prop_assert_eq!(resolve(&mut place, &request, moment), expected);
                        expected == Resolved::Resolved
                    }
                };
                if has_effect {
                    naive.0.push((now, op));
                }
            }
        }
    }
}

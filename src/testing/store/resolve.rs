//! Checks repair.

use std::time::Duration;

use super::cases::check_each;
use super::promises::{FIRST, Promise, SECOND, promise};
use super::race::{Pair, check_pairs};
use super::step::FoundState::{Done, Stopped};
use super::step::Outcome::{Already, Lost, Mismatch, Nothing, Renewed, Started, Taken};
use super::step::Request::{Other, This};
use super::step::Step::{Abandon, Begin, Complete, Find, Renew, Resolve};
use super::step::{Answer, HOUR, OVER, Outcome, Seen, found};
use crate::idempotency::store::{Resolved, Store};

const RESOLVED: Outcome = Outcome::Resolved(Resolved::Resolved);
const CHANGED: Outcome = Outcome::Resolved(Resolved::Changed);
const IN_USE: Outcome = Outcome::Resolved(Resolved::Running);
const MISSING: Outcome = Outcome::Resolved(Resolved::Missing);

pub(super) async fn check(store: &dyn Store) {
    let promises = [releases(), records(), refusals()];
    check_each(store, promises.into_iter().flatten()).await;
    check_pairs(store, pairs).await;
}

const AS_SECOND: Option<(Answer, Duration)> = Some((SECOND, HOUR));

fn releases() -> Vec<Promise> {
    vec![
        promise(
            "a released record is gone: the next claim is run 1",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, OVER, HOUR), Started(2)),
                (Resolve(Seen::Open(1, 2), OVER, None), RESOLVED),
                (Find, Nothing),
                (Complete(1, FIRST, HOUR), Lost),
                (Renew(1, HOUR, HOUR), Renewed(false)),
                (Begin(2, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a record that is done can be released",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Resolve(Seen::Done(0, 1), HOUR, None), RESOLVED),
                (Begin(1, This, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a record that was abandoned in a later run can be released",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Abandon(1), Taken),
                (Resolve(Seen::Open(1, 2), OVER, None), CHANGED),
                (Resolve(Seen::Current, OVER, None), RESOLVED),
                (Begin(2, This, HOUR, HOUR), Started(1)),
            ],
        ),
    ]
}

fn records() -> Vec<Promise> {
    vec![
        promise(
            "the next claim returns a recorded response, and a previous holder has lost the record",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, OVER, HOUR), Started(2)),
                (Resolve(Seen::Open(1, 2), OVER, AS_SECOND), RESOLVED),
                (Find, found(2, None, Done(SECOND))),
                (Renew(1, HOUR, HOUR), Renewed(false)),
                (Complete(1, FIRST, HOUR), Lost),
                (Abandon(1), Lost),
                (Begin(2, Other, HOUR, HOUR), Mismatch),
                (Begin(1, This, HOUR, HOUR), Outcome::Done(SECOND)),
            ],
        ),
        promise(
            "a stored response can be replaced",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Complete(0, FIRST, HOUR), Already(FIRST)),
                (Resolve(Seen::Done(0, 1), HOUR, AS_SECOND), RESOLVED),
                (Complete(0, FIRST, HOUR), Lost),
                (Begin(1, This, HOUR, HOUR), Outcome::Done(SECOND)),
                (Resolve(Seen::Done(0, 1), OVER, None), CHANGED),
                (Find, found(1, None, Done(SECOND))),
            ],
        ),
        promise(
            "a recorded response is stored for its own time to live",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Resolve(Seen::Current, OVER, Some((SECOND, OVER))), RESOLVED),
                (Find, Nothing),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
    ]
}

fn refusals() -> Vec<Promise> {
    vec![
        promise(
            "a lease in force is never overridden, nor one that ended less than `stopped_for` ago",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Resolve(Seen::Open(0, 1), OVER, None), IN_USE),
                (Resolve(Seen::Current, OVER, AS_SECOND), IN_USE),
                (Renew(0, OVER, HOUR), Renewed(true)),
                (Resolve(Seen::Open(0, 1), HOUR, None), IN_USE),
                (Resolve(Seen::Open(0, 1), HOUR, AS_SECOND), IN_USE),
                (Resolve(Seen::Open(0, 1), Duration::MAX, None), IN_USE),
                (Find, found(1, Some(0), Stopped)),
                (Complete(0, FIRST, HOUR), Taken),
            ],
        ),
        promise(
            "a record that has changed since it was seen is not resolved",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Resolve(Seen::Open(1, 1), OVER, None), CHANGED),
                (Resolve(Seen::Open(0, 2), OVER, None), CHANGED),
                (Resolve(Seen::Done(0, 1), OVER, None), CHANGED),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Resolve(Seen::Open(0, 1), OVER, AS_SECOND), CHANGED),
                (Complete(1, FIRST, HOUR), Taken),
                (Resolve(Seen::Open(1, 2), OVER, AS_SECOND), CHANGED),
                (Find, found(2, Some(1), Done(FIRST))),
            ],
        ),
        promise(
            "a missing record is not resolved",
            [
                (Resolve(Seen::Open(0, 1), OVER, AS_SECOND), MISSING),
                (Resolve(Seen::Current, OVER, None), MISSING),
                (Find, Nothing),
                (Begin(0, This, OVER, OVER), Started(1)),
                (Resolve(Seen::Open(0, 1), OVER, AS_SECOND), MISSING),
                (Begin(0, This, HOUR, HOUR), Started(1)),
            ],
        ),
    ]
}

fn pairs() -> Vec<Pair> {
    let begin = |who: usize| Begin(who, This, HOUR, HOUR);
    let left = Begin(0, This, OVER, HOUR);
    let release = Resolve(Seen::Open(0, 1), OVER, None);
    let record = Resolve(Seen::Open(0, 1), OVER, AS_SECOND);
    [
        (release.clone(), begin(1)),
        (release.clone(), Renew(0, HOUR, HOUR)),
        (release.clone(), Complete(0, FIRST, HOUR)),
        (record.clone(), begin(1)),
        (record.clone(), Renew(0, HOUR, HOUR)),
        (record.clone(), Complete(0, FIRST, HOUR)),
        (record.clone(), Abandon(0)),
        (record, release),
    ]
    .into_iter()
    .map(|(one, other)| Pair {
        before: left.clone(),
        at_once: [one, other],
        after: begin(2),
    })
    .collect()
}

//! What every store promises, with the steps that show it.

use std::time::Duration;

use bytes::Bytes;

use super::step::Request::{Other, This};
use super::step::Said::{Already, Done, Lost, Mismatch, Renewed, Running, Started, Taken};
use super::step::Step::{Abandon, Begin, Complete, Renew};
use super::step::{Answer, HOUR, OVER, Said, Step};

const EVER: Duration = Duration::MAX;
pub(super) const FIRST: Answer = Answer(Bytes::from_static(b"first"));
pub(super) const SECOND: Answer = Answer(Bytes::from_static(b"second"));

pub(super) struct Promise {
    pub(super) says: &'static str,
    /// Asked of one key, one after the other.
    pub(super) steps: Vec<(Step, Said)>,
}

pub(super) fn promise<const N: usize>(says: &'static str, steps: [(Step, Said); N]) -> Promise {
    Promise {
        says,
        steps: steps.into(),
    }
}

pub(super) fn promises() -> Vec<Promise> {
    [begins(), takeovers(), ends()]
        .into_iter()
        .flatten()
        .collect()
}

fn begins() -> Vec<Promise> {
    vec![
        promise(
            "a running record is its holder's alone",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Running),
                (Renew(1, HOUR, HOUR), Renewed(false)),
                (Complete(1, FIRST, HOUR), Lost),
                (Abandon(1), Lost),
                (Begin(2, This, HOUR, HOUR), Running),
                (Complete(0, SECOND, HOUR), Taken),
            ],
        ),
        promise(
            "a claim that is made again is told the same run, with a new lease",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Running),
            ],
        ),
        promise(
            "a claim that is made again after a takeover is told the run of the takeover",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
            ],
        ),
        promise(
            "another fingerprint is told before all else",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Begin(1, Other, HOUR, HOUR), Mismatch),
                (Begin(0, Other, HOUR, HOUR), Mismatch),
                (Complete(0, FIRST, HOUR), Taken),
                (Begin(1, Other, HOUR, HOUR), Mismatch),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
        promise(
            "a record whose time is over is as if it were not there",
            [
                (Begin(0, This, OVER, OVER), Started(1)),
                (Renew(0, HOUR, HOUR), Renewed(false)),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a lease lasts even if nothing is to be kept after it",
            [
                (Begin(0, This, HOUR, OVER), Started(1)),
                (Begin(1, This, HOUR, HOUR), Running),
                (Complete(0, FIRST, HOUR), Taken),
            ],
        ),
        promise(
            "what was never begun is nobody's",
            [
                (Renew(0, HOUR, HOUR), Renewed(false)),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(0, This, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "the longest lease and time to live are those without an end",
            [
                (Begin(0, This, EVER, EVER), Started(1)),
                (Begin(1, This, EVER, EVER), Running),
                (Renew(0, EVER, EVER), Renewed(true)),
                (Begin(1, This, HOUR, HOUR), Running),
                (Complete(0, FIRST, EVER), Taken),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
    ]
}

fn takeovers() -> Vec<Promise> {
    vec![
        promise(
            "a record whose lease is over passes to the next claim, in the next run",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, OVER, HOUR), Started(2)),
                (Begin(2, This, HOUR, HOUR), Started(3)),
                (Begin(0, This, HOUR, HOUR), Running),
            ],
        ),
        promise(
            "a record whose lease is over does not pass to a claim with another fingerprint",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, Other, HOUR, HOUR), Mismatch),
                (Begin(1, This, HOUR, HOUR), Started(2)),
            ],
        ),
        promise(
            "a holder whose record was taken over changes nothing",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Renew(0, OVER, HOUR), Renewed(false)),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(2, This, HOUR, HOUR), Running),
                (Complete(1, SECOND, HOUR), Taken),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(2, This, HOUR, HOUR), Done(SECOND)),
            ],
        ),
        promise(
            "a lease that is over can be renewed if nobody has taken the record",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Renew(0, HOUR, HOUR), Renewed(true)),
                (Begin(1, This, HOUR, HOUR), Running),
                (Complete(0, FIRST, HOUR), Taken),
            ],
        ),
        promise(
            "a renewal counts from now, and may end the lease",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Renew(0, OVER, HOUR), Renewed(true)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
            ],
        ),
        promise(
            "a renewal with no lease ends it at once, and keeps the run",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Renew(1, OVER, HOUR), Renewed(true)),
                (Begin(2, This, HOUR, HOUR), Started(3)),
                (Complete(1, FIRST, HOUR), Lost),
            ],
        ),
        promise(
            "a renewal gives the record a new time to live",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Renew(0, OVER, OVER), Renewed(true)),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a record is completed even with its lease over",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
    ]
}

fn ends() -> Vec<Promise> {
    vec![
        promise(
            "an answer stands: whoever completes again is told the first",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Complete(0, SECOND, HOUR), Already(FIRST)),
                (Complete(0, FIRST, OVER), Already(FIRST)),
                (Complete(1, SECOND, HOUR), Lost),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
                (Begin(0, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
        promise(
            "what is done is neither renewed nor abandoned",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Renew(0, OVER, OVER), Renewed(false)),
                (Abandon(0), Already(FIRST)),
                (Abandon(1), Lost),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
        promise(
            "what was abandoned in run 1 begins anew",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Abandon(0), Taken),
                (Abandon(0), Lost),
                (Complete(0, FIRST, HOUR), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "what was abandoned in a later run is begun in the run after it, for an earlier one may have acted",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Abandon(1), Taken),
                (Abandon(1), Lost),
                (Renew(1, HOUR, HOUR), Renewed(false)),
                (Complete(1, FIRST, HOUR), Lost),
                (Begin(2, Other, HOUR, HOUR), Mismatch),
                (Begin(1, This, HOUR, HOUR), Started(3)),
            ],
        ),
        promise(
            "a record is abandoned even with its lease over",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Abandon(0), Taken),
                (Begin(1, This, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "an answer is forgotten at its time, not at the record's",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, OVER), Taken),
                (Complete(0, SECOND, HOUR), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "an answer is kept for its own time, whatever the record's was",
            [
                (Begin(0, This, HOUR, OVER), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
    ]
}

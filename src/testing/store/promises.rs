//! The promises of every store, with the steps that check them.

use std::time::Duration;

use bytes::Bytes;

use super::step::Outcome::{Already, Done, Lost, Mismatch, Renewed, Running, Started, Taken};
use super::step::Request::{Other, This};
use super::step::Step::{Abandon, Begin, Complete, Renew};
use super::step::{Answer, HOUR, OVER, Outcome, Step};

const EVER: Duration = Duration::MAX;
pub(super) const FIRST: Answer = Answer(Bytes::from_static(b"first"));
pub(super) const SECOND: Answer = Answer(Bytes::from_static(b"second"));

pub(super) struct Promise {
    pub(super) text: &'static str,
    /// Executed one after the other for one key.
    pub(super) steps: Vec<(Step, Outcome)>,
}

pub(super) fn promise<const N: usize>(text: &'static str, steps: [(Step, Outcome); N]) -> Promise {
    Promise {
        text,
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
            "only the holder changes a running record",
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
            "a repeated claim returns the same run, with a new lease",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Running),
            ],
        ),
        promise(
            "a repeated claim after a takeover returns the run of the takeover",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
            ],
        ),
        promise(
            "a different fingerprint takes precedence over all other reasons",
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
            "an expired record counts as missing",
            [
                (Begin(0, This, OVER, OVER), Started(1)),
                (Renew(0, HOUR, HOUR), Renewed(false)),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a lease lasts even if the time to live is zero",
            [
                (Begin(0, This, HOUR, OVER), Started(1)),
                (Begin(1, This, HOUR, HOUR), Running),
                (Complete(0, FIRST, HOUR), Taken),
            ],
        ),
        promise(
            "a record that was never claimed has no holder",
            [
                (Renew(0, HOUR, HOUR), Renewed(false)),
                (Complete(0, FIRST, HOUR), Lost),
                (Abandon(0), Lost),
                (Begin(0, This, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a lease and time to live may be as long as `Duration::MAX`",
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
            "a record whose lease has ended passes to the next claim, in the next run",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, OVER, HOUR), Started(2)),
                (Begin(2, This, HOUR, HOUR), Started(3)),
                (Begin(0, This, HOUR, HOUR), Running),
            ],
        ),
        promise(
            "a record whose lease has ended does not pass to a claim with another fingerprint",
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
            "a lease that has ended can be renewed if nobody has taken over the record",
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
            "a renewal with a lease of zero ends the lease at once and does not change the run",
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
            "a record is completed even after its lease has ended",
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
            "a stored response is final: a second completion returns the first response",
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
            "a completed record is neither renewed nor abandoned",
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
            "a record that was abandoned in run 1 is deleted",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Abandon(0), Taken),
                (Abandon(0), Lost),
                (Complete(0, FIRST, HOUR), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a record that was abandoned in a later run starts the next run, because an earlier run may have had an effect",
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
            "a record is abandoned even after its lease has ended",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Abandon(0), Taken),
                (Begin(1, This, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a response expires with its own time to live, not with that of the claim",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, FIRST, OVER), Taken),
                (Complete(0, SECOND, HOUR), Lost),
                (Begin(1, Other, HOUR, HOUR), Started(1)),
            ],
        ),
        promise(
            "a response is stored for its own time to live, even if that of the claim was shorter",
            [
                (Begin(0, This, HOUR, OVER), Started(1)),
                (Complete(0, FIRST, HOUR), Taken),
                (Begin(1, This, HOUR, HOUR), Done(FIRST)),
            ],
        ),
    ]
}

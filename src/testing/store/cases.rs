//! Checks each promise with scripted steps.

use bytes::Bytes;

use super::new_key::new_key;
use super::promises::{FIRST, Promise, SECOND, promise, promises};
use super::step::Outcome::{Already, Done, Lost, Running, Started, Taken};
use super::step::Request::{Other, This};
use super::step::Step::{Abandon, Begin, Complete};
use super::step::{Answer, HOUR, Holders};
use crate::idempotency::store::Store;

pub(super) async fn check(store: &dyn Store) {
    check_each(store, promises().into_iter().chain(answers())).await;
    keys_are_independent(store).await;
}

pub(super) async fn check_each(store: &dyn Store, promises: impl IntoIterator<Item = Promise>) {
    for promise in promises {
        let (key, holders) = (new_key(), Holders::new(3));
        let mut place = None;
        let mut before = Vec::new();
        for (step, expected) in promise.steps {
            let rule = holders.rule(&mut place, step.clone());
            assert_eq!(
                rule, expected,
                "the scripted steps contradict the rules: {}",
                promise.text
            );
            let outcome = holders.execute(store, &key, step.clone()).await;
            assert!(
                outcome.as_ref().is_ok_and(|outcome| *outcome == expected),
                "the store violates its contract: {}.\n{}  {step:?}: {outcome:?}, but it must be {expected:?}",
                promise.text,
                before.concat()
            );
            before.push(format!("  {step:?}: {expected:?}\n"));
        }
    }
}

fn answers() -> impl Iterator<Item = Promise> {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let answers = [
        Bytes::new(),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\r\n"),
        Bytes::from(every_byte.repeat(4096)),
    ];
    answers.into_iter().map(Answer).map(|answer| {
        promise(
            "a response is returned byte for byte, whether empty or 1 MiB",
            [
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Complete(0, answer.clone(), HOUR), Taken),
                (Complete(0, FIRST, HOUR), Already(answer.clone())),
                (Abandon(0), Already(answer.clone())),
                (Begin(1, This, HOUR, HOUR), Done(answer)),
            ],
        )
    })
}

async fn keys_are_independent(store: &dyn Store) {
    let first = new_key();
    let mut second = first;
    // The keys differ in the last byte only, because all bytes count.
    second.0[31] ^= 1;
    let holders = Holders::new(2);
    for (key, step, expected) in [
        (first, Begin(0, This, HOUR, HOUR), Started(1)),
        (second, Begin(1, Other, HOUR, HOUR), Started(1)),
        (second, Complete(0, FIRST, HOUR), Lost),
        (first, Complete(0, FIRST, HOUR), Taken),
        (second, Begin(0, Other, HOUR, HOUR), Running),
        (second, Complete(1, SECOND, HOUR), Taken),
        (first, Begin(1, This, HOUR, HOUR), Done(FIRST)),
    ] {
        let outcome = holders.execute(store, &key, step.clone()).await;
        assert!(
            outcome.as_ref().is_ok_and(|outcome| *outcome == expected),
            "the store violates its contract: keys are independent.\n  {step:?}: {outcome:?}, but it must be {expected:?}"
        );
    }
}

//! Many who ask at once.

use super::step::Request::This;
use super::step::Step::{Abandon, Begin, Complete, Renew};
use super::step::{Answer, HOUR, Holders, OVER, Said, Step};
use super::{all, new_key};
use crate::idempotency::store::Store;

const AT_ONCE: usize = 32;
const ROUNDS: usize = 8;

pub(super) async fn check(store: &dyn Store) {
    one_of_many_holds(store, "a new key", None, 1).await;
    let left = Begin(0, This, OVER, HOUR);
    one_of_many_holds(store, "a key whose lease is over", Some(left), 2).await;
    one_of_many_answers_stands(store).await;
    check_pairs(store, pairs).await;
}

pub(super) async fn check_pairs(store: &dyn Store, pairs: impl Fn() -> Vec<Pair>) {
    for _ in 0..ROUNDS {
        for pair in pairs() {
            one_happens_wholly_before_the_other(store, pair).await;
        }
    }
}

async fn one_of_many_holds(store: &dyn Store, what: &str, before: Option<Step>, run: u32) {
    let (key, holders) = (new_key(), Holders::new(AT_ONCE + 1));
    if let Some(step) = before {
        let said = holders.ask(store, &key, step).await;
        assert!(said.is_ok(), "the store fails: {said:?}");
    }
    let claims = (1..=AT_ONCE).map(|who| holders.ask(store, &key, Begin(who, This, HOUR, HOUR)));
    let said: Vec<_> = all(claims).await;
    let holds = |expected: Said| {
        let same = said.iter().flatten().filter(|said| **said == expected);
        same.count()
    };
    assert!(
        holds(Said::Started(run)) == 1 && holds(Said::Running) == AT_ONCE - 1,
        "the store breaks a promise: of {AT_ONCE} claims of {what} at once exactly one is started, in run {run}, and all \
         others are told that it is running: {said:?}"
    );
}

async fn one_of_many_answers_stands(store: &dyn Store) {
    let (key, holders) = (new_key(), Holders::new(2));
    let begun = holders.ask(store, &key, Begin(0, This, HOUR, HOUR)).await;
    assert!(begun.is_ok(), "the store fails: {begun:?}");
    let answers = (0..AT_ONCE).map(|number| Answer(number.to_string().into()));
    let completions = answers.map(|answer| holders.ask(store, &key, Complete(0, answer, HOUR)));
    let said = all(completions).await;
    let stands = holders.ask(store, &key, Begin(1, This, HOUR, HOUR)).await;
    let taken: Vec<usize> = (0..AT_ONCE)
        .filter(|number| matches!(said[*number], Ok(Said::Taken)))
        .collect();
    let agree = taken.len() == 1 && {
        let first = Answer(taken[0].to_string().into());
        let told = said.iter().enumerate().all(|(number, said)| {
            number == taken[0] || matches!(said, Ok(Said::Already(answer)) if *answer == first)
        });
        told && matches!(stands, Ok(Said::Done(answer)) if answer == first)
    };
    assert!(
        agree,
        "the store breaks a promise: of {AT_ONCE} answers at once one is taken, and all others are told that one: {said:?}"
    );
}

/// Two steps that run at once, with one before and one after them.
pub(super) struct Pair {
    pub(super) before: Step,
    pub(super) at_once: [Step; 2],
    pub(super) after: Step,
}

fn pairs() -> Vec<Pair> {
    let complete = |who: usize| {
        let answer = Answer(format!("of {who}").into());
        Complete(who, answer, HOUR)
    };
    let begin = |who: usize| Begin(who, This, HOUR, HOUR);
    let (held, left) = (Begin(0, This, HOUR, HOUR), Begin(0, This, OVER, HOUR));
    [
        (&left, complete(0), begin(1)),
        (&left, Renew(0, HOUR, HOUR), begin(1)),
        (&left, Abandon(0), begin(1)),
        (&left, begin(0), begin(1)),
        (&held, complete(0), Abandon(0)),
        (&held, Abandon(0), begin(1)),
        (&held, complete(0), Renew(0, OVER, HOUR)),
        (&held, Abandon(0), Renew(0, HOUR, HOUR)),
    ]
    .into_iter()
    .map(|(before, one, other)| Pair {
        before: before.clone(),
        at_once: [one, other],
        after: begin(2),
    })
    .collect()
}

/// What two are told who ask at once, and one who asks later, is what they would be told in one order or the other.
async fn one_happens_wholly_before_the_other(store: &dyn Store, pair: Pair) {
    let (key, holders) = (new_key(), Holders::new(3));
    let Pair {
        before,
        at_once: [one, other],
        after,
    } = pair;
    let first = holders.ask(store, &key, before.clone()).await;
    assert!(first.is_ok(), "the store fails: {first:?}");
    let both = [one.clone(), other.clone()].map(|step| holders.ask(store, &key, step));
    let mut said = all(both).await;
    said.push(holders.ask(store, &key, after.clone()).await);
    let ruled = |first: &Step, second: &Step| {
        let mut place = None;
        holders.rule(&mut place, before.clone());
        let first = holders.rule(&mut place, first.clone());
        let second = holders.rule(&mut place, second.clone());
        [first, second, holders.rule(&mut place, after.clone())]
    };
    let forward = ruled(&one, &other);
    let [second, first, last] = ruled(&other, &one);
    let backward = [first, second, last];
    let told: Vec<Option<&Said>> = said.iter().map(|said| said.as_ref().ok()).collect();
    assert!(
        [&forward, &backward]
            .iter()
            .any(|order| order.iter().map(Some).eq(told.iter().copied())),
        "the store breaks a promise: of two that run at once one happens wholly before the other.\n  {before:?}, then at once \
         {one:?} and {other:?}, then {after:?}: {said:?}, but it must be {forward:?} or {backward:?}"
    );
}

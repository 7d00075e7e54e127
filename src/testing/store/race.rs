//! Checks concurrent calls.

use super::step::Request::This;
use super::step::Step::{Abandon, Begin, Complete, Renew};
use super::step::{Answer, HOUR, Holders, OVER, Outcome, Step};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::new_key::new_key;
use crate::idempotency::store::Store;

const AT_ONCE: usize = 32;
const ROUNDS: usize = 8;

pub(super) async fn check(store: &dyn Store) {
    one_of_many_holds(store, "a new key", None, 1).await;
    let left = Begin(0, This, OVER, HOUR);
    one_of_many_holds(store, "a key whose lease has ended", Some(left), 2).await;
    one_of_many_responses_is_stored(store).await;
    check_pairs(store, pairs).await;
}

pub(super) async fn check_pairs(store: &dyn Store, pairs: impl Fn() -> Vec<Pair>) {
    for _ in 0..ROUNDS {
        for pair in pairs() {
            concurrent_calls_are_atomic(store, pair).await;
        }
    }
}

async fn one_of_many_holds(store: &dyn Store, what: &str, before: Option<Step>, run: u32) {
    let (key, holders) = (new_key(), Holders::new(AT_ONCE + 1));
    if let Some(step) = before {
        let outcome = holders.execute(store, &key, step).await;
        assert!(outcome.is_ok(), "the store fails: {outcome:?}");
    }
    let claims =
        (1..=AT_ONCE).map(|who| holders.execute(store, &key, Begin(who, This, HOUR, HOUR)));
    let outcome: Vec<_> = all(claims).await;
    let holds = |expected: Outcome| {
        let same = outcome
            .iter()
            .flatten()
            .filter(|outcome| **outcome == expected);
        same.count()
    };
    assert!(
        holds(Outcome::Started(run)) == 1 && holds(Outcome::Running) == AT_ONCE - 1,
        "the store violates its contract: of {AT_ONCE} concurrent claims of {what} exactly one is started, in run {run}, and all \
         others return that it is running: {outcome:?}"
    );
}

async fn one_of_many_responses_is_stored(store: &dyn Store) {
    let (key, holders) = (new_key(), Holders::new(2));
    let begun = holders
        .execute(store, &key, Begin(0, This, HOUR, HOUR))
        .await;
    assert!(begun.is_ok(), "the store fails: {begun:?}");
    let answers = (0..AT_ONCE).map(|number| Answer(number.to_string().into()));
    let completions = answers.map(|answer| holders.execute(store, &key, Complete(0, answer, HOUR)));
    let outcome = all(completions).await;
    let stored = holders
        .execute(store, &key, Begin(1, This, HOUR, HOUR))
        .await;
    let taken: Vec<usize> = (0..AT_ONCE)
        .filter(|number| matches!(outcome[*number], Ok(Outcome::Taken)))
        .collect();
    let agree = taken.len() == 1 && {
        let first = Answer(taken[0].to_string().into());
        let all_equal = outcome.iter().enumerate().all(|(number, outcome)| {
            number == taken[0]
                || matches!(outcome, Ok(Outcome::Already(answer)) if *answer == first)
        });
        all_equal && matches!(stored, Ok(Outcome::Done(answer)) if answer == first)
    };
    assert!(
        agree,
        "the store violates its contract: of {AT_ONCE} concurrent completions one succeeds, and all others return its response: {outcome:?}"
    );
}

/// Two concurrent steps, with one before and one after them.
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

/// Two concurrent calls, and a later one, return the same as if the two had run in one order or the other.
async fn concurrent_calls_are_atomic(store: &dyn Store, pair: Pair) {
    let (key, holders) = (new_key(), Holders::new(3));
    let Pair {
        before,
        at_once: [one, other],
        after,
    } = pair;
    let first = holders.execute(store, &key, before.clone()).await;
    assert!(first.is_ok(), "the store fails: {first:?}");
    let both = [one.clone(), other.clone()].map(|step| holders.execute(store, &key, step));
    let mut outcome = all(both).await;
    outcome.push(holders.execute(store, &key, after.clone()).await);
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
    let returned: Vec<Option<&Outcome>> = outcome
        .iter()
        .map(|outcome| outcome.as_ref().ok())
        .collect();
    assert!(
        [&forward, &backward]
            .iter()
            .any(|order| order.iter().map(Some).eq(returned.iter().copied())),
        "the store violates its contract: of two concurrent calls one takes effect completely before the other.\n  {before:?}, then concurrently \
         {one:?} and {other:?}, then {after:?}: {outcome:?}, but it must be {forward:?} or {backward:?}"
    );
}

/// Polls all futures concurrently until they end.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut ended: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, end) in waiting.iter_mut().zip(&mut ended) {
            if end.is_none() {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    *end = Some(output);
                }
            }
        }
        if ended.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    ended.into_iter().flatten().collect()
}

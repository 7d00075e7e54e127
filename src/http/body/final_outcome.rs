//! The outcome of a call whose head leaves it open, and the layers that wait for it.

use std::sync::Arc;

use ::http::Extensions;

use crate::budget::RetryBudget;
use crate::call::CallOptions;
use crate::clock::Now;
use crate::error::CallError;
use crate::gate::{AtResult, Finish, Permit};
use crate::http::body::end::ClassifyEnd;
use crate::http::request::HttpResponse;
use crate::outcome::{Classify, Kind, Outcome, RetryAdvice};
use crate::sync::Mutex;
use crate::telemetry::Observation;

/// The outcome of a response, known at the end of its body. Travels in the response's extensions to the layers that wait
/// for it, and in the body that settles it.
#[derive(Clone, Debug)]
pub(super) struct FinalOutcome(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    Open(Vec<Follower>),
    /// `None`: the call was abandoned.
    Known(Option<Outcome>),
}

/// A layer that waits for an outcome.
#[derive(Debug)]
enum Follower {
    Observation(Option<Observation>),
    Budget(RetryBudget),
}

impl FinalOutcome {
    /// That of the response with these extensions.
    pub(super) fn of(extensions: &mut Extensions) -> Self {
        if let Some(known) = extensions.get::<Self>() {
            return known.clone();
        }
        // One attempt and one call observed, and a budget.
        let followers = Vec::with_capacity(3);
        let outcome = Self(Arc::new(Mutex::new(State::Open(followers))));
        extensions.insert(outcome.clone());
        outcome
    }

    /// The follower gets the outcome when it is known.
    fn follow(&self, follower: Follower) {
        let known = match &mut *self.0.lock() {
            State::Open(followers) => {
                followers.push(follower);
                return;
            }
            State::Known(outcome) => *outcome,
        };
        follower.settle(known, &Now::unread());
    }

    /// The outcome is known; `None`: the call was abandoned.
    pub(super) fn settle(&self, outcome: Option<Outcome>, now: &Now) {
        let before = std::mem::replace(&mut *self.0.lock(), State::Known(outcome));
        if let State::Open(followers) = before {
            // After the lock is released: observers run here.
            for follower in followers {
                follower.settle(outcome, now);
            }
        }
    }
}

impl Follower {
    fn settle(self, outcome: Option<Outcome>, now: &Now) {
        match (self, outcome) {
            (Self::Observation(permit), Some(outcome)) => permit.settle(outcome, now),
            (Self::Observation(permit), None) => drop(permit),
            (Self::Budget(budget), Some(outcome)) => {
                if outcome.is_good() && !budget.counts(&outcome) {
                    budget.deposit();
                } else {
                    budget.failed(&outcome);
                }
            }
            (Self::Budget(_), None) => {}
        }
    }
}

/// Defers the budget's deposit to the end of the response if its outcome is still open. Returns whether it did.
pub(crate) fn deposit_later<Res: HttpResponse>(
    response: &Res,
    head: &Outcome,
    budget: &RetryBudget,
) -> bool {
    // A call with an open outcome is never retried. This check is first, because it costs nothing.
    if head.kind != Kind::Success || head.retry == RetryAdvice::ByKind {
        return false;
    }
    let Some(outcome) = response.extensions().get::<FinalOutcome>() else {
        return false;
    };
    outcome.follow(Follower::Budget(budget.clone()));
    true
}

/// Settles an observation with the result, or at the end of the body if the head leaves the outcome open.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtFinalOutcome;

impl<Res, E, C> Finish<Res, E, Option<Observation>, C> for AtFinalOutcome
where
    Res: HttpResponse,
    E: CallError,
    C: Classify<Res, E> + ClassifyEnd,
{
    type Response = Res;

    #[inline]
    fn finish(
        &self,
        result: Result<Res, E>,
        permit: Option<Observation>,
        classify: &C,
    ) -> Result<Res, E> {
        match result {
            Ok(mut response) if permit.is_some() => {
                let head = classify.classify(Ok(&response));
                if classify.is_open(&head) && !CallOptions::current_streams() {
                    let outcome = FinalOutcome::of(response.extensions_mut());
                    outcome.follow(Follower::Observation(permit));
                } else {
                    permit.settle(head, &Now::unread());
                }
                Ok(response)
            }
            result => AtResult.finish(result, permit, classify),
        }
    }
}

//! What one call has gone through, whoever drives it: the machine, the token, and the claim about the whole call.

use std::fmt;
use std::time::Duration;

use super::config::RetryConfig;
use super::machine::{Finished, Machine, Refusal, Step};
use crate::budget::{CallUnderWay, RetryBudget, Withdrawal};
use crate::call::{Call, CallOptions, mark_spent};
use crate::chance;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::{Event, RetryStop, Source, emit};
use crate::outcome::{Classify, Executed, Kind, Outcome, judge};

/// What all calls of a layer share, the types of requests and results aside.
pub(super) struct Terms {
    pub(super) config: RetryConfig,
    pub(super) budget: Option<RetryBudget>,
    pub(super) source: Source,
}

impl Clone for Terms {
    fn clone(&self) -> Self {
        Self {
            config: self.config,
            budget: self.budget.clone(),
            source: Source::new(self.source.layer(), self.source.name().clone()),
        }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("source", &self.source)
            .field("config", &self.config)
            .field("budget", &self.budget)
            .finish()
    }
}

pub(super) struct Progress {
    machine: Machine,
    wishes: Option<Wishes>,
    /// Whether the next attempt counts as one.
    counted: bool,
    /// Pays for the retry that is scheduled or under way.
    paid: Option<Withdrawal>,
    under_way: Option<CallUnderWay>,
    /// The budget that pays for this request, if it is not the layer's.
    own: Option<RetryBudget>,
    /// Whether the service may have acted on an attempt made so far.
    executed: Executed,
    /// Whether the last result was good, in the budget's eyes.
    good: bool,
}

/// What the caller's task says, read at the first poll: `call` may run in another task, as under tower's `Buffer`.
#[derive(Clone, Copy)]
struct Wishes {
    deadline: Option<Deadline>,
    retry: bool,
}

/// What comes after an attempt.
pub(super) enum Next<R> {
    /// This is the call's result.
    Done(R),
    /// Another attempt after this wait. Until it has begun, this may still be the call's result.
    Again(Duration, R),
}

impl Progress {
    #[inline]
    pub(super) fn new(terms: &Terms, own: Option<RetryBudget>) -> Self {
        let budget = own.as_ref().or(terms.budget.as_ref());
        Self {
            machine: Machine::new(),
            wishes: None,
            counted: true,
            paid: None,
            under_way: budget.map(RetryBudget::begin),
            own,
            executed: Executed::No,
            good: false,
        }
    }

    /// To be called whenever the call is polled.
    #[inline]
    pub(super) fn polled(&mut self) {
        self.wishes.get_or_insert_with(|| Wishes {
            deadline: Deadline::current(),
            retry: CallOptions::current_retry(),
        });
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.wishes.and_then(|wishes| wishes.deadline)
    }

    #[inline]
    fn budget<'a>(&'a self, terms: &'a Terms) -> Option<&'a RetryBudget> {
        self.own.as_ref().or(terms.budget.as_ref())
    }

    fn retry_allowed(&self) -> bool {
        self.wishes.is_none_or(|wishes| wishes.retry)
    }

    /// The next attempt begins: what it is to be told.
    #[inline]
    pub(super) fn begin(&mut self, terms: &Terms, repeatable: bool) -> Call {
        self.machine.begin(self.counted);
        if let Some(paid) = &mut self.paid {
            paid.started();
        }
        self.call(terms, repeatable)
    }

    fn call(&self, terms: &Terms, repeatable: bool) -> Call {
        let last = !repeatable || !self.retry_allowed() || self.machine.is_last(&terms.config);
        Call::new(self.machine.attempts(), last)
    }

    /// An attempt has come to this result. `repeatable` says whether the request may be sent again after such an outcome.
    #[inline]
    pub(super) fn settle<T, E, C>(
        &mut self,
        terms: &Terms,
        classify: &C,
        (result, spent_below): (Result<T, E>, bool),
        repeatable: impl FnOnce(&Outcome) -> bool,
    ) -> Next<Result<T, E>>
    where
        E: CallError,
        C: Classify<T, E>,
    {
        // The retry that came to this is over.
        self.paid = None;
        // A classifier may ask which attempt it judges: a 425 is repeated once.
        let judged = {
            let _attempt = self.call(terms, true).enter();
            judge(&result, classify)
        };
        let outcome = match judged {
            Some(outcome) => outcome,
            // Cut short by the deadline: no result of the service, and no time for another one.
            None => return Next::Done(result),
        };
        self.good = outcome.is_good();
        if outcome.kind == Kind::Success {
            self.end(terms);
            return Next::Done(result);
        }
        let finished = Finished {
            outcome,
            repeatable: repeatable(&outcome),
            refusal: result
                .as_ref()
                .err()
                .and_then(CallError::rejected)
                .and_then(Refusal::of),
            spent_below,
            retry_allowed: self.retry_allowed(),
            remaining: None,
        };
        match self.failed(terms, finished) {
            Some(wait) => Next::Again(wait, result),
            None => Next::Done(self.claim(result)),
        }
    }

    /// The wait before the next attempt, if there is to be one.
    #[cold]
    fn failed(&mut self, terms: &Terms, mut finished: Finished) -> Option<Duration> {
        let now = Now::unread();
        finished.remaining = self.deadline().map(|deadline| deadline.remaining(&now));
        let outcome = finished.outcome;
        if outcome.executed == Executed::Maybe {
            self.executed = Executed::Maybe;
        }
        if let Some(budget) = self.budget(terms) {
            budget.failed(&outcome);
        }
        let step = self.machine.next(&terms.config, &finished, chance::draw);
        let (wait, cost, counted) = match step {
            Step::RetryAfter {
                wait,
                cost,
                counted,
            } => (wait, cost, counted),
            Step::Stop(why) => {
                self.stop(terms, why);
                return None;
            }
        };
        if let (Some(kind), Some(budget)) = (cost, self.budget(terms)) {
            self.paid = budget.withdraw(kind, &now);
            if self.paid.is_none() {
                self.stop(terms, Some(RetryStop::BudgetExhausted));
                return None;
            }
        }
        self.counted = counted;
        emit(&Event::Retry {
            source: &terms.source,
            attempt: self.machine.attempts().saturating_add(counted.into()),
            wait,
            outcome,
        });
        Some(wait)
    }

    /// The attempt that was scheduled is not made after all: the last result is the call's.
    #[cold]
    pub(super) fn give_up<T, E: CallError>(
        &mut self,
        terms: &Terms,
        why: RetryStop,
        last: Result<T, E>,
    ) -> Result<T, E> {
        self.stop(terms, Some(why));
        self.claim(last)
    }

    fn stop(&mut self, terms: &Terms, why: Option<RetryStop>) {
        // What never started goes back to the budget.
        self.paid = None;
        if let Some(why) = why {
            let spent = match why {
                RetryStop::BudgetExhausted | RetryStop::SpentBelow => true,
                // A layer that repeats nothing has spent nothing.
                RetryStop::AttemptsUsed => self.machine.attempts() > 1,
                _ => false,
            };
            if spent {
                mark_spent();
            }
            emit(&Event::RetryStopped {
                source: &terms.source,
                attempts: self.machine.attempts(),
                why,
            });
        }
        self.end(terms);
    }

    /// The call is over.
    #[inline]
    fn end(&mut self, terms: &Terms) {
        self.under_way = None;
        if self.good {
            if let Some(budget) = self.budget(terms) {
                budget.deposit();
            }
        }
    }

    /// "Not executed" is a claim about the whole call: a rejection must not make it for earlier attempts.
    fn claim<T, E: CallError>(&self, result: Result<T, E>) -> Result<T, E> {
        match result.as_ref().map_err(CallError::rejected) {
            Err(Some(rejected))
                if self.executed == Executed::Maybe && rejected.executed == Executed::No =>
            {
                Err(rejected.clone().executed(Executed::Maybe).into())
            }
            _ => result,
        }
    }
}

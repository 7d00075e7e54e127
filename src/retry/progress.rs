//! What one call has gone through, whoever drives it: the machine, the token, and the claim about the whole call.

use std::time::Duration;

use super::machine::{Finished, Machine, Refusal, Step};
use super::shared::Rules;
use crate::budget::{CallUnderWay, RetryBudget, Withdrawal};
use crate::call::{Call, CallOptions, mark_spent};
use crate::chance;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::{Event, RetryStop, emit};
use crate::outcome::{Classify, Executed, Kind, Outcome, judge};

pub(super) struct Progress {
    wishes: Option<Wishes>,
    under_way: Option<CallUnderWay>,
    /// `None` until the first attempt has failed: most calls go well and are not to pay for it.
    course: Option<Course>,
}

/// What a call remembers once an attempt has failed.
struct Course {
    machine: Machine,
    /// Whether the next attempt counts as one.
    counted: bool,
    /// Pays for the retry that is scheduled or under way.
    paid: Option<Withdrawal>,
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

/// What comes after an attempt. The result itself stays where it is: moving it costs more than all the rest.
pub(super) enum Next {
    /// It is the call's result.
    Done,
    /// It is the call's result, to be put right by [`Progress::claim`].
    Failed,
    /// Another attempt after this wait. Until it has begun, it may still be the call's result.
    Again(Duration),
}

impl Progress {
    /// A call whose first attempt is about to begin.
    #[inline]
    pub(super) fn new(rules: Rules<'_>) -> Self {
        Self {
            wishes: None,
            under_way: rules.budget.and_then(RetryBudget::begin),
            course: None,
        }
    }

    /// To be called whenever the call is polled.
    #[inline]
    pub(super) fn polled(&mut self) {
        if self.wishes.is_none() {
            self.wishes = Some(Wishes {
                deadline: Deadline::current(),
                retry: CallOptions::current_retry(),
            });
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.wishes.and_then(|wishes| wishes.deadline)
    }

    fn retry_allowed(&self) -> bool {
        self.wishes.is_none_or(|wishes| wishes.retry)
    }

    /// The next attempt begins: what it is to be told.
    #[inline]
    pub(super) fn begin(&mut self, rules: Rules<'_>, repeatable: bool) -> Call {
        match &mut self.course {
            None => Call::new(1, !repeatable),
            Some(course) => course.begin(rules),
        }
    }

    /// An attempt has come to this result. `repeatable` says whether the request may be sent again after such an outcome.
    #[inline]
    pub(super) fn settle<T, E, C>(
        &mut self,
        rules: Rules<'_>,
        classify: &C,
        result: &Result<T, E>,
        spent_below: bool,
        repeatable: impl FnOnce(&Outcome) -> bool,
    ) -> Next
    where
        E: CallError,
        C: Classify<T, E>,
    {
        // A classifier may ask which attempt it judges: a 425 is repeated once.
        let judged = {
            let attempts = self.course.as_ref().map_or(1, Course::attempts);
            let _attempt = Call::new(attempts, false).enter();
            judge(result, classify)
        };
        let outcome = match judged {
            Some(outcome) if outcome.kind != Kind::Success => outcome,
            judged => {
                self.course = None;
                self.under_way = None;
                // `None`: cut short by the deadline, so no result of the service, and no time for another one.
                if let (Some(_), Some(budget)) = (judged, rules.budget) {
                    budget.deposit();
                }
                return Next::Done;
            }
        };
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
        match self.failed(rules, finished) {
            Some(wait) => Next::Again(wait),
            None => Next::Failed,
        }
    }

    /// The wait before the next attempt, if there is to be one.
    #[cold]
    fn failed(&mut self, rules: Rules<'_>, mut finished: Finished) -> Option<Duration> {
        let now = Now::unread();
        finished.remaining = self.deadline().map(|deadline| deadline.remaining(&now));
        let course = self.course.get_or_insert_with(Course::new);
        let wait = course.failed(rules, &finished, &now);
        if wait.is_none() {
            self.under_way = None;
        }
        wait
    }

    /// The attempt that was scheduled is not made after all: the last result is the call's.
    #[cold]
    pub(super) fn give_up<T, E: CallError>(
        &mut self,
        rules: Rules<'_>,
        why: RetryStop,
        last: Result<T, E>,
    ) -> Result<T, E> {
        self.under_way = None;
        if let Some(course) = &mut self.course {
            course.stop(rules, Some(why));
        }
        self.claim(last)
    }

    /// "Not executed" is a claim about the whole call: a rejection must not make it for earlier attempts.
    #[cold]
    pub(super) fn claim<T, E: CallError>(&self, result: Result<T, E>) -> Result<T, E> {
        let executed = self.course.as_ref().map(|course| course.executed);
        match result.as_ref().map_err(CallError::rejected) {
            Err(Some(rejected))
                if executed == Some(Executed::Maybe) && rejected.executed == Executed::No =>
            {
                Err(rejected.clone().executed(Executed::Maybe).into())
            }
            _ => result,
        }
    }
}

impl Course {
    /// The first attempt was made.
    fn new() -> Self {
        let mut machine = Machine::new();
        machine.begin(true);
        Self {
            machine,
            counted: true,
            paid: None,
            executed: Executed::No,
            good: false,
        }
    }

    fn attempts(&self) -> u32 {
        self.machine.attempts()
    }

    fn begin(&mut self, rules: Rules<'_>) -> Call {
        self.machine.begin(self.counted);
        if let Some(paid) = &mut self.paid {
            paid.started();
        }
        Call::new(self.machine.attempts(), self.machine.is_last(rules.config))
    }

    fn failed(&mut self, rules: Rules<'_>, finished: &Finished, now: &Now) -> Option<Duration> {
        let outcome = finished.outcome;
        // The retry that came to this is over.
        self.paid = None;
        self.good = outcome.is_good();
        if outcome.executed == Executed::Maybe {
            self.executed = Executed::Maybe;
        }
        if let Some(budget) = rules.budget {
            budget.failed(&outcome);
        }
        let step = self.machine.next(rules.config, finished, chance::draw);
        let (wait, cost, counted) = match step {
            Step::RetryAfter {
                wait,
                cost,
                counted,
            } => (wait, cost, counted),
            Step::Stop(why) => {
                self.stop(rules, why);
                return None;
            }
        };
        if let (Some(kind), Some(budget)) = (cost, rules.budget) {
            self.paid = budget.withdraw(kind, now);
            if self.paid.is_none() {
                self.stop(rules, Some(RetryStop::BudgetExhausted));
                return None;
            }
        }
        self.counted = counted;
        emit(&Event::Retry {
            source: rules.source,
            attempt: self.machine.attempts().saturating_add(counted.into()),
            wait,
            outcome,
        });
        Some(wait)
    }

    /// There is no further attempt.
    fn stop(&mut self, rules: Rules<'_>, why: Option<RetryStop>) {
        // What never started goes back to the budget.
        self.paid = None;
        if let (true, Some(budget)) = (self.good, rules.budget) {
            budget.deposit();
        }
        let Some(why) = why else { return };
        let attempts = self.machine.attempts();
        let spent = match why {
            RetryStop::BudgetExhausted | RetryStop::SpentBelow => true,
            // A layer that repeats nothing has spent nothing.
            RetryStop::AttemptsUsed => attempts > 1,
            _ => false,
        };
        if spent {
            mark_spent();
        }
        emit(&Event::RetryStopped {
            source: rules.source,
            attempts,
            why,
        });
    }
}

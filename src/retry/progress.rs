//! What one call has gone through, whoever drives it: the machine, the token, and the claim about the whole call.

use std::time::Duration;

use super::machine::{Finished, Machine, Refusal, Step};
use super::shared::Rules;
use crate::budget::RetryBudget;
use crate::budget::withdrawal::CallUnderWay;
use crate::budget::withdrawal::Withdrawal;
use crate::call::{AttemptReason, Call, CallOptions, Marks};
use crate::chance;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::{Event, RetryStop, emit};
use crate::outcome::{Executed, Outcome};

pub(super) struct Progress {
    wishes: Option<Wishes>,
    under_way: Option<CallUnderWay>,
    /// `None` until the first attempt has failed: most calls go well and are not to pay for it.
    course: Option<Box<Course>>,
}

/// What a call remembers once an attempt has failed. In a box, for most calls have none and would carry the room for it.
struct Course {
    machine: Machine,
    /// Whether the next attempt counts as one.
    counted: bool,
    /// Why it is made.
    reason: AttemptReason,
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

    /// To be called at the first poll, unless that one is also the last. A call that goes well at once is not asked.
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

    /// What the next attempt is to be told, if it begins.
    pub(super) fn upcoming(&self, rules: Rules<'_>) -> Option<Call> {
        self.course.as_ref().map(|course| course.upcoming(rules))
    }

    /// The next attempt begins: what it is to be told.
    #[inline]
    pub(super) fn begin(&mut self, rules: Rules<'_>, repeatable: bool) -> Call {
        match &mut self.course {
            None => Call::new(1, !repeatable),
            Some(course) => course.begin(rules),
        }
    }

    /// The call is over, and has not failed. Unless the deadline cut it short, it went well.
    #[inline(always)]
    pub(super) fn end(&mut self, rules: Rules<'_>, went_well: bool) {
        if self.course.is_some() || self.under_way.is_some() {
            self.forget();
        }
        if went_well {
            rules.deposit();
        }
    }

    #[cold]
    fn forget(&mut self) {
        self.course = None;
        self.under_way = None;
    }

    /// An attempt has failed: the wait before the next one, if there is to be one. Until that has begun, this may still be the
    /// call's result. If there is to be none, it is, put right by [`claim`](Self::claim).
    ///
    /// `barred` says why the request cannot be sent again, or must not after this outcome.
    #[cold]
    pub(super) fn failed<T, E: CallError>(
        &mut self,
        rules: Rules<'_>,
        outcome: Outcome,
        result: &Result<T, E>,
        marks: Marks,
        barred: Option<RetryStop>,
    ) -> Option<Duration> {
        let now = Now::unread();
        self.polled();
        let finished = Finished {
            outcome,
            barred,
            refusal: result
                .as_ref()
                .err()
                .and_then(CallError::rejected)
                .and_then(Refusal::of),
            // Taken whether or not it is repeated: the allowance measures how much comes back unprocessed.
            is_granted: outcome
                .unprocessed
                .is_some_and(|how| rules.take_unprocessed(how)),
            spent_below: marks.spent_below(),
            retry_allowed: self.wishes.is_none_or(|wishes| wishes.retry),
            remaining: self.deadline().map(|deadline| deadline.remaining(&now)),
        };
        let course = self.course.get_or_insert_with(|| Box::new(Course::new()));
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
            reason: AttemptReason::First,
            paid: None,
            executed: Executed::No,
            good: false,
        }
    }

    fn upcoming(&self, rules: Rules<'_>) -> Call {
        let mut machine = self.machine;
        machine.begin(self.counted);
        Call::new(machine.attempts(), machine.is_last(&rules.config()))
            .because(self.reason, machine.free())
    }

    fn begin(&mut self, rules: Rules<'_>) -> Call {
        let call = self.upcoming(rules);
        self.machine.begin(self.counted);
        if let Some(paid) = &mut self.paid {
            paid.started();
        }
        call
    }

    fn failed(&mut self, rules: Rules<'_>, finished: &Finished, now: &Now) -> Option<Duration> {
        let outcome = finished.outcome;
        // The retry that came to this is over. One that a layer further in refused never reached the service.
        if let Some(mut paid) = self.paid.take() {
            if finished.refusal.is_some() && outcome.executed == Executed::No {
                paid.refused();
            }
        }
        self.good =
            outcome.is_good() && !rules.budget.is_some_and(|budget| budget.counts(&outcome));
        if outcome.executed == Executed::Maybe {
            self.executed = Executed::Maybe;
        }
        if let Some(budget) = rules.budget {
            budget.failed(&outcome);
        }
        let step = self.machine.next(&rules.config(), finished, chance::draw);
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
        if let (Some(_), Some(budget)) = (cost, rules.budget) {
            self.paid = budget.withdraw(now);
            if self.paid.is_none() {
                self.stop(rules, Some(RetryStop::BudgetExhausted));
                return None;
            }
        }
        self.counted = counted;
        self.reason = match finished.refusal {
            Some(_) => AttemptReason::Rejected,
            None => AttemptReason::after(&outcome),
        };
        emit(&Event::Retry {
            source: rules.source(),
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
        // The last result may say that it was not executed; of the call that is not true.
        if self.executed == Executed::Maybe {
            Marks::ACTED.publish();
        }
        if self.good {
            rules.deposit();
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
            Marks::SPENT.publish();
        }
        emit(&Event::RetryStopped {
            source: rules.source(),
            attempts,
            why,
        });
    }
}

//! The state of one call: the machine, the budget's token, and whether any attempt may have been executed.

use std::time::Duration;

use super::machine::{Finished, Machine, Refusal, Step};
use super::terms::Rules;
use crate::budget::RetryBudget;
use crate::budget::{CallUnderWay, Withdrawal};
use crate::call::{AttemptReason, Call, CallOptions, Marks};
use crate::chance;
use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::{Event, RetryStop, emit};
use crate::outcome::{Executed, Kind, Outcome};

pub(super) struct Progress {
    caller: Option<CallerOptions>,
    under_way: Option<CallUnderWay>,
    /// `None` until the first attempt has failed: calls that succeed do not pay for it.
    course: Option<Box<Course>>,
}

/// The state of a call after its first failure. Boxed, because most calls have none.
struct Course {
    machine: Machine,
    /// Whether the next attempt counts as one.
    counted: bool,
    /// The reason for the next attempt.
    reason: AttemptReason,
    /// Pays for the retry that is scheduled or in progress.
    paid: Option<Withdrawal>,
    /// Whether the service may have acted on any attempt so far.
    executed: Executed,
    /// Whether the budget counts the last result as good.
    good: bool,
}

/// The options of the caller's task. Read at the first poll, because `call` may run in another task, as under tower's `Buffer`.
#[derive(Clone, Copy)]
struct CallerOptions {
    deadline: Option<Deadline>,
    retry: bool,
}

impl Progress {
    /// A call whose first attempt is about to begin.
    #[inline]
    pub(super) fn new(rules: Rules<'_>) -> Self {
        Self {
            caller: None,
            under_way: rules.budget.and_then(RetryBudget::begin),
            course: None,
        }
    }

    /// Reads the caller's options. Called at the first poll, unless the call succeeds at that poll.
    pub(super) fn polled(&mut self) {
        if self.caller.is_none() {
            self.caller = Some(CallerOptions {
                deadline: Deadline::current(),
                retry: CallOptions::current_retry(),
            });
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.caller.and_then(|caller| caller.deadline)
    }

    /// The [`Call`] of the next attempt, if there is one.
    pub(super) fn upcoming(&self, rules: Rules<'_>) -> Option<Call> {
        self.course.as_ref().map(|course| course.upcoming(rules))
    }

    /// Begins the next attempt and returns its [`Call`].
    #[inline]
    pub(super) fn begin(&mut self, rules: Rules<'_>, replayable: bool) -> Call {
        match &mut self.course {
            None => Call::new(1, !replayable),
            Some(course) => course.begin(rules),
        }
    }

    /// The call ended without a failure: it succeeded, or the deadline ended it.
    #[inline(always)]
    pub(super) fn end(&mut self, rules: Rules<'_>, succeeded: bool) {
        if self.course.is_some() || self.under_way.is_some() {
            self.clear();
        }
        if succeeded {
            rules.deposit();
        }
    }

    #[cold]
    fn clear(&mut self) {
        self.course = None;
        self.under_way = None;
    }

    /// Records a failed attempt and returns the wait before the next one. `None`: there is no next attempt, and this result is
    /// the call's result after [`claim`](Self::claim).
    ///
    /// `barred` is the reason why the request cannot be sent again, or must not after this outcome.
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
            // Taken even without a retry: the allowance measures how many requests are not processed.
            is_granted: outcome
                .unprocessed
                .is_some_and(|how| rules.take_unprocessed(how)),
            spent_below: marks.spent_below(),
            retry_allowed: self.caller.is_none_or(|caller| caller.retry),
            remaining: self.deadline().map(|deadline| deadline.remaining(&now)),
        };
        let course = self.course.get_or_insert_with(|| Box::new(Course::new()));
        let wait = course.failed(rules, &finished, &now);
        if wait.is_none() {
            self.under_way = None;
        }
        wait
    }

    /// The scheduled attempt is not made: the last result becomes the call's result.
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

    /// Corrects a rejection that claims "not executed" although an earlier attempt may have been executed.
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
        // The paid retry is over. If an inner layer rejected it, it never reached the service.
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
            None => reason_after(&outcome),
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
        // The token of a retry that never started goes back to the budget.
        self.paid = None;
        // The last attempt may be "not executed" although the call as a whole may have been executed.
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
            // A layer that made no retry has spent nothing.
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

/// The reason for an attempt after this outcome.
const fn reason_after(outcome: &Outcome) -> AttemptReason {
    match (outcome.executed, outcome.kind) {
        (Executed::No, _) => AttemptReason::NotExecuted,
        (_, Kind::Transient) => AttemptReason::Transient,
        (_, Kind::Overloaded) => AttemptReason::Overloaded,
        _ => AttemptReason::Allowed,
    }
}

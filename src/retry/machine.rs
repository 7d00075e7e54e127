//! The rules of a retry: what comes after a finished attempt. Time and chance are arguments.

use std::time::Duration;

use super::config::RetryConfig;
use crate::backoff::Backoff;
use crate::chance::Draw;
use crate::error::{Reason, Rejected};
use crate::event::RetryStop;
use crate::outcome::{Executed, Kind, Outcome, RetryAdvice, Unprocessed};

/// The progress of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Attempts begun, without the free retries.
    attempts: u32,
    /// Whether the free retry of a call that was not executed is used up.
    free_used: bool,
    /// Free retries after a closing connection.
    closing: u8,
    /// Whether the free retry after a refused stream is used up.
    refused: bool,
    /// Waits of the schedule since it was last started.
    waits: u32,
    previous: Option<Duration>,
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    /// Why the request cannot be sent again, or must not after this outcome.
    pub(super) barred: Option<RetryStop>,
    /// Set if an inner layer of this crate rejected the attempt.
    pub(super) refusal: Option<Refusal>,
    /// Whether the request never reached the server and the allowance for such requests pays for the retry.
    pub(super) is_granted: bool,
    /// Whether an inner retry layer has used up its attempts or its budget.
    pub(super) spent_below: bool,
    /// Whether the caller's options allow a retry.
    pub(super) retry_allowed: bool,
    /// The time until the deadline.
    pub(super) remaining: Option<Duration>,
}

/// A rejection by an inner layer of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Never waited for: an open circuit rejects calls on purpose, and an expired deadline stays expired.
    Final,
    /// The condition may pass soon.
    Passing,
}

/// How often one call is retried for free after a closing connection. A pool may return several closing connections in a row:
/// the first retries do not wait, the later ones wait 1, 2, 4 … ms for a new connection.
const CLOSING_FREE: u8 = 10;
const CLOSING_AT_ONCE: u8 = 3;

/// The next step of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Returns this result to the caller. The reason is set if the outcome alone would have allowed another attempt.
    Stop(Option<RetryStop>),
    /// Another attempt.
    RetryAfter {
        /// The wait before the attempt.
        wait: Duration,
        /// The kind of failure that the budget pays for. `None`: the retry is free.
        cost: Option<Kind>,
        /// Whether it counts as an attempt.
        counted: bool,
    },
}

impl Refusal {
    /// `None` if the rejection is a result of the service, such as a timeout.
    pub(super) const fn of(rejected: &Rejected) -> Option<Self> {
        match rejected.reason {
            Reason::AttemptTimeout { .. }
            | Reason::ConnectTimeout { .. }
            | Reason::HeaderTimeout { .. }
            | Reason::BodyIdle { .. } => None,
            Reason::CircuitOpen
            | Reason::CircuitProbing
            | Reason::CircuitRampingUp
            | Reason::CircuitForcedOpen
            | Reason::CircuitIsolated
            | Reason::Deadline
            | Reason::Key(_) => Some(Self::Final),
            Reason::QuotaExceeded(_) | Reason::Policy(_) => Some(Self::Passing),
        }
    }
}

impl Machine {
    pub(super) const fn new() -> Self {
        Self {
            attempts: 0,
            free_used: false,
            closing: 0,
            refused: false,
            waits: 0,
            previous: None,
        }
    }

    /// An attempt begins.
    pub(super) const fn begin(&mut self, counted: bool) {
        self.attempts = self.attempts.saturating_add(counted as u32);
    }

    /// The number of the last attempt begun. A free retry has the number of the attempt before it.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The number of free retries, the next one included.
    pub(super) const fn free(&self) -> u8 {
        self.closing + self.free_used as u8 + self.refused as u8
    }

    /// Whether all attempts are used up. Another one follows only if this one certainly is not executed.
    pub(super) const fn is_last(&self, config: &RetryConfig) -> bool {
        self.attempts >= config.max_attempts
    }

    /// The step after this attempt.
    pub(super) fn next(
        &mut self,
        config: &RetryConfig,
        finished: &Finished,
        draw: impl FnOnce() -> Draw,
    ) -> Step {
        let outcome = &finished.outcome;
        if !wanted(config, finished) {
            return Step::Stop(None);
        }
        if let Some(why) = forbidden(config, finished) {
            return Step::Stop(Some(why));
        }
        if let Some(wait) = self.free_wait(finished) {
            return in_time(finished, wait, None, false);
        }
        if self.attempts >= config.max_attempts {
            return Step::Stop(Some(RetryStop::AttemptsUsed));
        }
        let computed = self.wait(config, outcome, draw());
        let requested = outcome.wait.unwrap_or_default();
        let (wait, longest, cost) = if finished.refusal.is_none() {
            let longest = computed.saturating_add(config.max_retry_after);
            (requested.max(computed), longest, Some(outcome.kind))
        } else {
            // The attempt never reached the service, so the budget does not pay.
            let longest = config.retry_rejections.unwrap_or_default();
            (requested.max(computed.min(longest)), longest, None)
        };
        if requested > longest {
            return Step::Stop(Some(RetryStop::WaitTooLong));
        }
        in_time(finished, wait, cost, true)
    }

    /// The wait before a free retry, which does not count as an attempt. `None` if the retry is not free.
    fn free_wait(&mut self, finished: &Finished) -> Option<Duration> {
        match finished.outcome.unprocessed {
            Some(Unprocessed::ConnectionClosing) => {
                if !finished.is_granted || self.closing >= CLOSING_FREE {
                    return None;
                }
                self.closing += 1;
                let after = self.closing.checked_sub(CLOSING_AT_ONCE + 1);
                Some(after.map_or(Duration::ZERO, |n| Duration::from_millis(1 << n)))
            }
            Some(Unprocessed::StreamRefused) => (finished.is_granted
                && !std::mem::replace(&mut self.refused, true))
            .then_some(Duration::ZERO),
            None => (is_free(finished) && !std::mem::replace(&mut self.free_used, true))
                .then_some(Duration::ZERO),
        }
    }

    /// The next wait of the schedule.
    fn wait(&mut self, config: &RetryConfig, outcome: &Outcome, draw: Draw) -> Duration {
        let mut backoff = config.backoff;
        if outcome.kind == Kind::Overloaded && outcome.wait.is_none() {
            backoff = slower(backoff, config.overloaded_base);
        }
        if outcome.restarts_backoff {
            self.waits = 0;
            self.previous = None;
            return backoff.drawn(1, None, draw);
        }
        self.waits = self.waits.saturating_add(1);
        let wait = backoff.drawn(self.waits, self.previous, draw);
        self.previous = Some(wait);
        wait
    }
}

/// Whether the outcome allows another attempt.
fn wanted(config: &RetryConfig, finished: &Finished) -> bool {
    if let Some(refusal) = finished.refusal {
        return refusal == Refusal::Passing && config.retry_rejections.is_some();
    }
    match (finished.outcome.retry, finished.outcome.kind) {
        (RetryAdvice::Never | RetryAdvice::Vetoed, _) | (_, Kind::Success) => false,
        (RetryAdvice::Allowed, _) => true,
        (RetryAdvice::ByKind, kind) => matches!(kind, Kind::Transient | Kind::Overloaded),
    }
}

/// The reason against an attempt that the outcome allows.
fn forbidden(config: &RetryConfig, finished: &Finished) -> Option<RetryStop> {
    if !finished.retry_allowed {
        Some(RetryStop::SwitchedOff)
    } else if finished.spent_below && !config.retry_spent_below {
        Some(RetryStop::SpentBelow)
    } else {
        finished.barred
    }
}

/// Whether the call may be retried at once: the service did not execute it and did not request a wait.
fn is_free(finished: &Finished) -> bool {
    let outcome = &finished.outcome;
    finished.refusal.is_none()
        && outcome.executed == Executed::No
        && outcome.kind != Kind::Overloaded
        && outcome.wait.is_none_or(|wait| wait.is_zero())
}

/// The retry, unless its wait cannot end before the deadline.
fn in_time(finished: &Finished, wait: Duration, cost: Option<Kind>, counted: bool) -> Step {
    match finished.remaining {
        Some(remaining) if wait >= remaining => Step::Stop(Some(RetryStop::Deadline)),
        _ => Step::RetryAfter {
            wait,
            cost,
            counted,
        },
    }
}

/// The same schedule with at least this base.
fn slower(backoff: Backoff, base: Duration) -> Backoff {
    backoff.base(backoff.base.max(base).min(backoff.cap))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backoff::Jitter;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const S: fn(u64) -> Duration = Duration::from_secs;

    const STOP: Step = Step::Stop(None);

    fn stop(why: RetryStop) -> Step {
        Step::Stop(Some(why))
    }

    fn finished(outcome: Outcome) -> Finished {
        Finished {
            outcome,
            barred: None,
            refusal: None,
            is_granted: false,
            spent_below: false,
            retry_allowed: true,
            remaining: None,
        }
    }

    #[test]
    fn the_attempt_number_never_overflows() {
        let endless = RetryConfig::new().max_attempts(u32::MAX);
        let mut machine = Machine::new();
        machine.attempts = u32::MAX - 1;
        machine.waits = u32::MAX - 1;
        for expected in [true, false] {
            let step = machine.next(&endless, &finished(Outcome::TRANSIENT), || Draw::new(0));
            assert_eq!(matches!(step, Step::RetryAfter { .. }), expected);
            machine.begin(true);
            assert_eq!(machine.attempts(), u32::MAX);
        }
    }

    fn any_wait() -> impl Strategy<Value = Option<Duration>> {
        proptest::option::of(prop_oneof![
            8 => (0_u64..8000).prop_map(MS),
            1 => Just(Duration::MAX),
        ])
    }

    fn any_finished() -> impl Strategy<Value = Finished> {
        let kind = prop_oneof![
            1 => Just(Kind::Success),
            6 => Just(Kind::Transient),
            3 => Just(Kind::Overloaded),
            1 => Just(Kind::Permanent),
            1 => Just(Kind::Neutral),
        ];
        let advice = prop_oneof![
            6 => Just(RetryAdvice::ByKind),
            1 => Just(RetryAdvice::Never),
            1 => Just(RetryAdvice::Vetoed),
            2 => Just(RetryAdvice::Allowed),
        ];
        let refusal = prop_oneof![
            8 => Just(None),
            1 => Just(Some(Refusal::Final)),
            2 => Just(Some(Refusal::Passing)),
        ];
        let mostly = || prop::bool::weighted(0.95);
        let flags = (mostly(), mostly(), mostly(), any::<bool>(), mostly());
        let how = prop_oneof![
            8 => Just(None),
            2 => Just(Some(Unprocessed::ConnectionClosing)),
            1 => Just(Some(Unprocessed::StreamRefused)),
        ];
        let unprocessed = (how, mostly());
        (
            kind,
            advice,
            refusal,
            any_wait(),
            any_wait(),
            flags,
            unprocessed,
        )
            .prop_map(
                |(kind, advice, refusal, wait, remaining, flags, (how, is_granted))| {
                    let mut outcome = Outcome::of(kind).retry(advice).wait(wait);
                    if let (Some(how), None) = (how, refusal) {
                        outcome = Outcome::unprocessed(how);
                    }
                    if flags.3 {
                        outcome = outcome.not_executed();
                    }
                    if !flags.4 {
                        outcome = outcome.restarts_backoff();
                    }
                    Finished {
                        outcome,
                        barred: (!flags.0).then_some(RetryStop::NotRetryable),
                        refusal,
                        is_granted: is_granted && outcome.unprocessed.is_some(),
                        spent_below: !flags.1,
                        retry_allowed: flags.2,
                        remaining,
                    }
                },
            )
    }

    fn any_config() -> impl Strategy<Value = RetryConfig> {
        let jitter = prop_oneof![
            Just(Jitter::None),
            Just(Jitter::Full),
            Just(Jitter::Equal),
            Just(Jitter::Decorrelated)
        ];
        let cap = prop_oneof![Just(MS(200)), Just(S(2))];
        (
            1_u32..6,
            any_wait(),
            any::<bool>(),
            0_u64..9000,
            jitter,
            cap,
        )
            .prop_map(
                |(max_attempts, rejections, below, max_retry_after, jitter, cap)| {
                    RetryConfig::new()
                        .max_attempts(max_attempts)
                        .retry_rejections(rejections)
                        .retry_spent_below(below)
                        .max_retry_after(MS(max_retry_after))
                        .backoff(Backoff::default().jitter(jitter).cap(cap))
                },
            )
    }

    /// The rules of the module's page, recounted from the whole history each time.
    fn naive(
        config: &RetryConfig,
        history: &[(Finished, Step, Duration)],
        finished: &Finished,
        draw: Draw,
    ) -> (Step, Duration) {
        let none = Duration::ZERO;
        let outcome = finished.outcome;
        let own = finished.refusal.is_some();
        let wants = match outcome.kind {
            _ if own => {
                finished.refusal == Some(Refusal::Passing) && config.retry_rejections.is_some()
            }
            Kind::Success => false,
            Kind::Transient | Kind::Overloaded => {
                !matches!(outcome.retry, RetryAdvice::Never | RetryAdvice::Vetoed)
            }
            Kind::Permanent | Kind::Neutral => outcome.retry == RetryAdvice::Allowed,
        };
        let counted = |step: &Step| matches!(step, Step::RetryAfter { counted: true, .. });
        let attempts = 1 + history.iter().filter(|(_, step, _)| counted(step)).count();
        let free_steps = |how| {
            let free = |step: &Step| matches!(step, Step::RetryAfter { counted: false, .. });
            let of = history
                .iter()
                .filter(|(f, _, _)| f.outcome.unprocessed == how);
            of.filter(|(_, step, _)| free(step)).count()
        };
        let free_before = free_steps(outcome.unprocessed);
        let no_wait = outcome.wait.unwrap_or(none) == none;
        let unexecuted = !own && outcome.executed == Executed::No;
        let free = match outcome.unprocessed {
            Some(Unprocessed::ConnectionClosing) => finished.is_granted && free_before < 10,
            Some(Unprocessed::StreamRefused) => finished.is_granted && free_before == 0,
            None => unexecuted && no_wait && outcome.kind != Kind::Overloaded && free_before == 0,
        };

        // The waits since the schedule was last started over.
        let since = history
            .iter()
            .rposition(|(f, step, _)| f.outcome.restarts_backoff && counted(step))
            .map_or(0, |at| at + 1);
        let earlier: Vec<Duration> = history[since..]
            .iter()
            .filter(|(_, step, _)| counted(step))
            .map(|(_, _, computed)| *computed)
            .collect();
        let mut backoff = config.backoff;
        if outcome.kind == Kind::Overloaded && outcome.wait.is_none() {
            backoff.base = S(1).min(backoff.cap);
        }
        let computed = if outcome.restarts_backoff {
            backoff.drawn(1, None, draw)
        } else {
            let retry = u32::try_from(earlier.len()).expect("few") + 1;
            backoff.drawn(retry, earlier.last().copied(), draw)
        };
        let requested = outcome.wait.unwrap_or(none);
        let (wait, too_long) = if free {
            let closing = outcome.unprocessed == Some(Unprocessed::ConnectionClosing);
            let waits = [0, 0, 0, 1, 2, 4, 8, 16, 32, 64];
            (
                if closing {
                    MS(waits[free_before])
                } else {
                    none
                },
                false,
            )
        } else if own {
            let longest = config.retry_rejections.unwrap_or(none);
            (requested.max(computed.min(longest)), requested > longest)
        } else {
            let longest = computed.saturating_add(config.max_retry_after);
            (requested.max(computed), requested > longest)
        };
        let max_attempts = usize::try_from(config.max_attempts).expect("few");
        let step = if !wants {
            STOP
        } else if !finished.retry_allowed {
            stop(RetryStop::SwitchedOff)
        } else if finished.spent_below && !config.retry_spent_below {
            stop(RetryStop::SpentBelow)
        } else if let Some(why) = finished.barred {
            stop(why)
        } else if !free && attempts >= max_attempts {
            stop(RetryStop::AttemptsUsed)
        } else if too_long {
            stop(RetryStop::WaitTooLong)
        } else if finished.remaining.is_some_and(|left| wait >= left) {
            stop(RetryStop::Deadline)
        } else {
            Step::RetryAfter {
                wait,
                cost: (!free && !own).then_some(outcome.kind),
                counted: !free,
            }
        };
        (step, computed)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_agrees_with_a_model_that_recounts_the_history(
            config in any_config(),
            closing in 0_usize..14,
            attempts in proptest::collection::vec((any_finished(), any::<u64>()), 1..12),
        ) {
            let unprocessed = Finished {
                is_granted: true,
                ..finished(Outcome::unprocessed(Unprocessed::ConnectionClosing))
            };
            let attempts = std::iter::repeat_n((unprocessed, 0), closing).chain(attempts);
            let mut machine = Machine::new();
            machine.begin(true);
            let mut history = Vec::new();
            for (finished, draw) in attempts {
                let draw = Draw::new(draw);
                let (expected, computed) = naive(&config, &history, &finished, draw);
                let step = machine.next(&config, &finished, || draw);
                prop_assert_eq!(step, expected);
                let Step::RetryAfter { counted, .. } = step else { break };
                machine.begin(counted);
                prop_assert!(machine.attempts() <= config.max_attempts);
                history.push((finished, step, computed));
                let begun = u32::from(machine.free()) + machine.attempts();
                prop_assert_eq!(usize::try_from(begun).unwrap(), history.len() + 1);
            }
        }
    }
}

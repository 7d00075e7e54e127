//! The counts of a closed circuit, and the rules that open it.

use std::time::Duration;

use super::config::{Abandoned, BreakerConfig, Window};
use crate::chance::Draw;
use crate::clock::Moment;
use crate::event::Cause;
use crate::outcome::Kind;
use crate::window::{CallWindow, Counts, Rolling, TimeWindow};

/// The first and the last of the abandoned calls that open the circuit are at least this far apart: a few callers who leave
/// together must not open it.
const ABANDONED_OVER: Duration = Duration::from_secs(1);

/// The same where short calls count too: a service that is slower than its callers are patient still responds to some
/// call within this time.
pub(super) const SHORT_ABANDONED_OVER: Duration = Duration::from_secs(10);

/// The share admitted when the circuit has just closed; Envoy's slow start begins with 10 % too.
const FIRST_SHARE: f64 = 0.1;

/// The counts of a closed circuit.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// `None` while both rates are off.
    window: Option<Rolling>,
    failures: Run,
    abandoned: Abandonments,
    /// When it closed, until the ramp-up is over.
    ramp_from: Option<Moment>,
}

/// Abandoned calls with no result between.
#[derive(Clone, Debug, Default)]
struct Abandonments {
    /// Those abandoned after `abandoned_after`.
    long: Run,
    /// The short ones too.
    all: Run,
}

impl Abandonments {
    /// Counts one more and returns whether they open the circuit.
    fn extend(&mut self, min_calls: u32, short: bool, now: Moment) -> bool {
        self.all.extend(now);
        let all = self.all.reaches(min_calls, SHORT_ABANDONED_OVER, now);
        if short {
            return all;
        }
        self.long.extend(now);
        all || self.long.reaches(min_calls, ABANDONED_OVER, now)
    }
}

/// Events in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    length: u32,
    first: Moment,
}

impl Run {
    fn extend(&mut self, now: Moment) {
        if self.length == 0 {
            self.first = now;
        }
        self.length = self.length.saturating_add(1);
    }

    /// Whether it has `length` events, the last of them now, spread over at least `over`.
    fn reaches(&self, length: u32, over: Duration, now: Moment) -> bool {
        self.length >= length && now.since(self.first) >= over
    }
}

impl Tally {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        Self {
            window: config.new_window(),
            failures: Run::default(),
            abandoned: Abandonments::default(),
            ramp_from: None,
        }
    }

    /// The same, letting calls back in step by step from `now` on.
    pub(super) fn ramping_up(mut self, config: &BreakerConfig, now: Moment) -> Self {
        self.ramp_from = (!config.ramp_up.is_zero()).then_some(now);
        self
    }

    pub(super) const fn is_ramping_up(&self) -> bool {
        self.ramp_from.is_some()
    }

    /// Whether the ramp-up lets this call in.
    pub(super) fn lets_in(&mut self, config: &BreakerConfig, now: Moment, draw: Draw) -> bool {
        let Some(from) = self.ramp_from else {
            return true;
        };
        let passed = now.since(from);
        if passed >= config.ramp_up {
            self.ramp_from = None;
            return true;
        }
        draw.happens(passed.div_duration_f64(config.ramp_up).max(FIRST_SHARE))
    }

    /// Counts a result and returns the rule that it trips.
    pub(super) fn settle(
        &mut self,
        config: &BreakerConfig,
        kind: Kind,
        slow: bool,
        now: Moment,
    ) -> Option<Cause> {
        let failed = match kind {
            // Not even the end of a run of abandoned calls.
            Kind::Neutral => return None,
            Kind::Success | Kind::Permanent => {
                self.failures = Run::default();
                false
            }
            Kind::Transient => {
                self.failures.extend(now);
                true
            }
            // The service is alive: neither one more failure in a row nor the end of the run.
            Kind::Overloaded => true,
        };
        self.abandoned = Abandonments::default();
        if let Some(window) = &mut self.window {
            window.add(failed, slow, now);
        }
        let consecutive_failures = config
            .consecutive_failures
            .filter(|_| kind == Kind::Transient)
            .is_some_and(|length| {
                self.failures
                    .reaches(length, config.consecutive_min_span, now)
            });
        if consecutive_failures {
            return Some(Cause::ConsecutiveFailures);
        }
        config.judge(self.window.as_ref()?.counts())
    }

    /// Counts an abandoned call and returns the rule that it trips.
    pub(super) fn abandon(
        &mut self,
        config: &BreakerConfig,
        short: bool,
        now: Moment,
    ) -> Option<Cause> {
        match config.abandoned {
            Abandoned::Ignore => None,
            Abandoned::Failure => self.settle(config, Kind::Transient, false, now),
            Abandoned::Detect => self
                .abandoned
                .extend(config.min_calls, short, now)
                .then_some(Cause::Abandoned),
        }
    }

    /// Until when a good and fast result changes only the counts.
    pub(super) fn grant(&self, config: &BreakerConfig) -> Option<Moment> {
        let Some(window) = &self.window else {
            return Some(Moment::FAR);
        };
        // Good results only ever lower a rate, but they may complete the number of calls it takes to judge one.
        let mut counts = window.counts();
        counts.total = counts.total.max(config.min_calls);
        match config.judge(counts) {
            None => Some(window.unchanged_until()),
            Some(_) => None,
        }
    }

    /// Counts `n` good and fast results under the grant.
    pub(super) fn successes(&mut self, n: u64) {
        if n > 0 {
            self.failures = Run::default();
            self.abandoned = Abandonments::default();
            if let Some(window) = &mut self.window {
                window.add_good(n);
            }
        }
    }

    /// Whether a new tally would behave differently, apart from the number of calls.
    pub(super) fn remembers(&self, now: Moment) -> bool {
        let counts = self.counts_at(now);
        counts.failed > 0
            || counts.slow > 0
            || self.failures.length > 0
            || self.abandoned.all.length > 0
            || self.is_ramping_up()
    }

    pub(super) fn counts_at(&self, now: Moment) -> Counts {
        self.window
            .as_ref()
            .map_or_else(Counts::default, |window| window.counts_at(now))
    }

    /// Changes the configuration and preserves the counts.
    pub(super) fn reconfigure(&mut self, config: &BreakerConfig, now: Moment) {
        self.window = match (self.window.take(), config.new_window(), config.window) {
            (Some(Rolling::Time(old)), Some(_), Window::Time(length)) => {
                Some(Rolling::Time(old.resized(length, now)))
            }
            (Some(Rolling::Calls(old)), Some(_), Window::Calls(calls)) => {
                Some(Rolling::Calls(old.resized(calls)))
            }
            (_, new, _) => new,
        };
    }
}

impl BreakerConfig {
    fn new_window(&self) -> Option<Rolling> {
        if self.failure_rate.is_none() && self.slow_rate.is_none() {
            return None;
        }
        Some(match self.window {
            Window::Time(length) => Rolling::Time(TimeWindow::new(length)),
            Window::Calls(calls) => Rolling::Calls(CallWindow::new(calls)),
        })
    }

    /// The rate rule that these counts trip.
    fn judge(&self, counts: Counts) -> Option<Cause> {
        if counts.total < self.min_calls {
            return None;
        }
        let exceeds = |part: u32, limit: Option<f64>| {
            limit.is_some_and(|limit| rate(part, counts.total) >= limit)
        };
        if exceeds(counts.failed, self.failure_rate) {
            Some(Cause::FailureRate)
        } else if exceeds(counts.slow, self.slow_rate) {
            Some(Cause::SlowRate)
        } else {
            None
        }
    }
}

/// A quotient, never `part >= limit * total`: 7 / 100 is exactly the number that `0.07` is read as, but 0.07 · 100 is more
/// than 7.
pub(super) fn rate(part: u32, total: u32) -> f64 {
    f64::from(part) / f64::from(total)
}

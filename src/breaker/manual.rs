//! Manual state transitions of a machine, and reads that cause no transition.

use std::time::Duration;

use super::config::BreakerConfig;
use super::machine::{Epoch, Machine, State, Transitions};
use super::trip::{Tally, rate};
use crate::clock::Moment;
use crate::error::{ConfigError, Reason};
use crate::event::{BreakerState, Cause};
use crate::window::Counts;

/// The state and the counts of a breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state that a call would find now.
    pub state: BreakerState,
    /// The time until the next probe, if the circuit is open.
    pub remaining: Option<Duration>,
    /// Results in the window.
    pub total: u32,
    /// How many of them were failures.
    pub failed: u32,
    /// How many of them were slow.
    pub slow: u32,
    /// The share of failures, from 0 to 1; `None` below `min_calls`.
    pub failure_rate: Option<f64>,
    /// The share of slow calls, from 0 to 1; `None` below `min_calls` and while the rule is off.
    pub slow_rate: Option<f64>,
}

impl Machine {
    /// Refuses all calls for this time, then probes.
    pub(crate) fn force_open(&mut self, period: Duration, now: Moment) -> Transitions {
        let until = now.after(period);
        self.enter_manually(State::ForcedOpen { until })
    }

    /// Refuses all calls until released.
    pub(crate) fn isolate(&mut self) -> Transitions {
        self.enter_manually(State::Isolated)
    }

    /// Ends a manual state: the circuit is closed, with nothing counted.
    pub(crate) fn release(&mut self) -> Transitions {
        match self.state {
            State::ForcedOpen { .. } | State::Isolated | State::Disabled => self.reset(),
            _ => Transitions::default(),
        }
    }

    /// Admits all calls and counts nothing.
    pub(crate) fn disable(&mut self) -> Transitions {
        self.enter_manually(State::Disabled)
    }

    /// Closes the circuit, whatever state it is in, and drops all counts.
    pub(crate) fn reset(&mut self) -> Transitions {
        self.enter_manually(State::Closed(Tally::new(&self.config)))
    }

    /// Changes the configuration. The state, its counts and its remaining wait stay.
    pub(crate) fn reconfigure(
        &mut self,
        config: BreakerConfig,
        now: Moment,
    ) -> Result<Transitions, ConfigError> {
        config.validate()?;
        self.config = config;
        let mut transitions = Transitions::default();
        match &mut self.state {
            State::Closed(tally) => tally.reconfigure(&self.config, now),
            // There may be no probe under way that would decide it later.
            State::HalfOpen { .. } => self.decide(None, now, Some(Cause::Manual), &mut transitions),
            _ => {}
        }
        Ok(transitions)
    }

    fn enter_manually(&mut self, state: State) -> Transitions {
        let mut transitions = Transitions::default();
        self.enter(state, Cause::Manual, &mut transitions);
        transitions
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What a call would find now.
    pub(crate) fn state(&self, now: Moment) -> BreakerState {
        match &self.state {
            State::Open { until, .. } | State::ForcedOpen { until } if now >= *until => {
                BreakerState::HalfOpen
            }
            State::HalfOpen { .. } if self.lost_until(now).is_some_and(|until| now < until) => {
                BreakerState::Open
            }
            state => state.name(),
        }
    }

    /// The remaining open time; `None` if the circuit is not open, or not for a known time.
    pub(crate) fn remaining(&self, now: Moment) -> Option<Duration> {
        let until = match &self.state {
            State::Open { until, .. } | State::ForcedOpen { until } => *until,
            State::HalfOpen { .. } => self.lost_until(now)?,
            State::Closed(_) | State::Isolated | State::Disabled => return None,
        };
        Some(until.since(now)).filter(|left| !left.is_zero())
    }

    /// Until when every call is certainly rejected; `None` if the machine has to decide.
    pub(crate) const fn refused_until(&self) -> Option<Moment> {
        match self.state {
            State::Open { until, .. } | State::ForcedOpen { until } => Some(until),
            State::Isolated => Some(Moment::FAR),
            State::Closed(_) | State::HalfOpen { .. } | State::Disabled => None,
        }
    }

    /// Whether every call is admitted without a decision of the machine: while closed, with a ticket of this epoch; while
    /// disabled, with one that is ignored.
    pub(crate) const fn admits_all(&self) -> bool {
        match &self.state {
            State::Closed(tally) => !tally.is_ramping_up(),
            State::Disabled => true,
            _ => false,
        }
    }

    /// What the window holds; nothing while no rate rule is on or the circuit is not closed.
    pub(crate) fn counts(&self, now: Moment) -> Counts {
        match &self.state {
            State::Closed(tally) => tally.counts_at(now),
            _ => Counts::default(),
        }
    }

    /// The failure rate; `None` below `min_calls`.
    pub(crate) fn failure_rate(&self, now: Moment) -> Option<f64> {
        let counts = self.counts(now);
        (counts.total >= self.config.min_calls).then(|| rate(counts.failed, counts.total))
    }

    /// The slow rate; `None` below `min_calls` and while the slow rule is off.
    pub(crate) fn slow_rate(&self, now: Moment) -> Option<f64> {
        let counts = self.counts(now);
        let known = self.config.slow_rate.is_some() && counts.total >= self.config.min_calls;
        known.then(|| rate(counts.slow, counts.total))
    }
}

impl Machine {
    pub(super) fn snapshot(&self, now: Moment) -> Snapshot {
        let counts = self.counts(now);
        Snapshot {
            state: self.state(now),
            remaining: self.remaining(now),
            total: counts.total,
            failed: counts.failed,
            slow: counts.slow,
            failure_rate: self.failure_rate(now),
            slow_rate: self.slow_rate(now),
        }
    }

    /// The state after the last transition, whatever the time is.
    pub(super) fn last_state(&self) -> BreakerState {
        self.state.name()
    }

    /// Whether a closed circuit has counted anything but good results.
    pub(super) fn remembers(&self, now: Moment) -> bool {
        match &self.state {
            State::Closed(tally) => !self.allowance.is_full() || tally.remembers(now),
            _ => true,
        }
    }

    /// The rejection that every call would get now; `None` if a call may pass.
    pub(super) fn refuses(&self, now: Moment) -> Option<(Reason, Option<Duration>)> {
        let reason = match (&self.state, self.state(now)) {
            (State::Open { .. }, BreakerState::Open) => Reason::CircuitOpen,
            (State::ForcedOpen { .. }, BreakerState::ForcedOpen) => Reason::CircuitForcedOpen,
            (State::Isolated, _) => Reason::CircuitIsolated,
            (State::HalfOpen { probes, .. }, BreakerState::HalfOpen)
                if probes.is_full(self.config.probes) && self.lost_until(now).is_none() =>
            {
                return Some((Reason::CircuitProbing, probes.wait(&self.config, now)));
            }
            _ => return None,
        };
        Some((reason, self.remaining(now)))
    }

    /// The limit above which a call is slow; `None` while the rule is off.
    pub(super) fn slow_call(&self) -> Option<Duration> {
        self.config.slow_rate.map(|_| self.config.slow_call)
    }
}

//! Manual state transitions of a machine, and its present state.

use std::time::Duration;

use super::config::BreakerConfig;
use super::machine::{Machine, State};
use super::ticket::{Epoch, Transitions};
use super::trip::{Tally, rate};
use crate::clock::Moment;
use crate::error::ConfigError;
use crate::event::{BreakerState, Cause};
use crate::window::Counts;

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

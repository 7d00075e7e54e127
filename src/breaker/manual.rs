//! What is done to a machine by hand, and what can be seen of it.

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

    /// Ends what was begun by hand: the circuit is closed, as new.
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

    /// Closes the circuit, whatever state it is in, and forgets what was counted.
    pub(crate) fn reset(&mut self) -> Transitions {
        self.enter_manually(State::Closed(Tally::new(&self.config)))
    }

    /// Goes on in the same state, with what was counted and what is left of a wait, under another configuration.
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
            // Nobody may be under way to settle it later.
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

    /// How long a call would still find the circuit open; `None` if it is not, or not for a certain time.
    pub(crate) fn remaining(&self, now: Moment) -> Option<Duration> {
        let until = match &self.state {
            State::Open { until, .. } | State::ForcedOpen { until } => *until,
            State::HalfOpen { .. } => self.lost_until(now)?,
            State::Closed(_) | State::Isolated | State::Disabled => return None,
        };
        Some(until.since(now)).filter(|left| !left.is_zero())
    }

    /// Until when every call is certainly refused, if that is so without asking.
    pub(crate) const fn refused_until(&self) -> Option<Moment> {
        match self.state {
            State::Open { until, .. } | State::ForcedOpen { until } => Some(until),
            State::Isolated => Some(Moment::FAR),
            State::Closed(_) | State::HalfOpen { .. } | State::Disabled => None,
        }
    }

    /// Whether every call is certainly admitted without asking: while closed, with a ticket of this epoch; while disabled,
    /// with one that is ignored.
    pub(crate) const fn admits_without_asking(&self) -> bool {
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

    /// The share of failures, once there were `min_calls`.
    pub(crate) fn failure_rate(&self, now: Moment) -> Option<f64> {
        let counts = self.counts(now);
        (counts.total >= self.config.min_calls).then(|| rate(counts.failed, counts.total))
    }

    /// The share of slow calls, once there were `min_calls`; `None` too while the slow rule is off.
    pub(crate) fn slow_rate(&self, now: Moment) -> Option<f64> {
        let counts = self.counts(now);
        let known = self.config.slow_rate.is_some() && counts.total >= self.config.min_calls;
        known.then(|| rate(counts.slow, counts.total))
    }
}

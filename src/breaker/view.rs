//! Reads of a machine that cause no state transition.

use std::time::Duration;

use super::machine::{Machine, State};
use crate::clock::Moment;
use crate::error::Reason;
use crate::event::BreakerState;

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

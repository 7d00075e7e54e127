//! The state transitions of a machine.

use std::time::Duration;

use super::machine::{Machine, State};
use super::probes::{Decision, Probes};
use super::ticket::Transitions;
use super::trip::Tally;
use crate::chance::Draw;
use crate::clock::Moment;
use crate::event::{Cause, StateTransition};

impl Machine {
    /// Fails the probes whose idle timeout has passed: there is no timer that would.
    pub(super) fn give_up_lost_probes(&mut self, now: Moment, transitions: &mut Transitions) {
        let until = self.lost_until(now);
        if let State::HalfOpen { probes, before, .. } = &mut self.state {
            if let Some(until) = until {
                let before = *before;
                self.enter(State::Open { until, before }, Cause::ProbeLost, transitions);
            } else {
                probes.expire(self.config.probe_idle_timeout, now);
            }
        }
    }

    /// Until when the circuit is open again because its probes are lost.
    pub(super) fn lost_until(&self, now: Moment) -> Option<Moment> {
        match &self.state {
            State::HalfOpen {
                probes,
                before,
                draw,
            } => probes
                .lost(&self.config, now)
                .map(|admitted| admitted.after(self.config.open_time(*before, *draw, None))),
            _ => None,
        }
    }

    /// Ends the half-open state if the results so far decide it.
    pub(super) fn decide(
        &mut self,
        wait: Option<Duration>,
        now: Moment,
        cause: Option<Cause>,
        transitions: &mut Transitions,
    ) {
        let State::HalfOpen {
            probes,
            before,
            draw,
        } = &self.state
        else {
            return;
        };
        match probes.decision(&self.config) {
            None => {}
            Some(Decision::Close) => {
                let tally = Tally::new(&self.config).ramping_up(&self.config, now);
                self.enter(
                    State::Closed(tally),
                    cause.unwrap_or(Cause::ProbesSucceeded),
                    transitions,
                );
            }
            Some(decision @ (Decision::Open | Decision::GiveUp)) => {
                let opened = match decision {
                    Decision::GiveUp => Cause::Abandoned,
                    _ => Cause::ProbeFailed,
                };
                let before = *before;
                let until = now.after(self.config.open_time(before, *draw, wait));
                self.enter(
                    State::Open { until, before },
                    cause.unwrap_or(opened),
                    transitions,
                );
            }
        }
    }

    /// Begins to probe, having opened `before` times since the last close.
    pub(super) fn half_open(&mut self, before: u32, draw: Draw, transitions: &mut Transitions) {
        let probes = Probes::default();
        self.enter(
            State::HalfOpen {
                probes,
                before,
                draw,
            },
            Cause::OpenForOver,
            transitions,
        );
    }

    /// Every state begins a new epoch: results of calls admitted before it change nothing.
    pub(super) fn enter(&mut self, state: State, cause: Cause, transitions: &mut Transitions) {
        let (from, to) = (self.state.name(), state.name());
        self.state = state;
        self.epoch = self.epoch.next();
        if from != to {
            self.sequence += 1;
            transitions.push(self.sequence, StateTransition::new(from, to, cause));
        }
    }
}

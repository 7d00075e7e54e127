//! The rules of a circuit breaker, without a clock, without chance and without threads.

use std::time::Duration;

use super::config::{Abandoned, BreakerConfig};
use super::probes::{Answer, Decision, Probes};
use super::ticket::{Epoch, Moves, Ticket, Verdict};
use super::trip::Tally;
use crate::chance::Draw;
use crate::clock::Moment;
use crate::error::{ConfigError, Reason};
use crate::event::{BreakerState, Cause, Move};
use crate::outcome::{Kind, Outcome};

/// What the machine does with calls, and what it remembers for it.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "closed is the state almost all machines are in"
)]
pub(super) enum State {
    Closed(Tally),
    Open {
        until: Moment,
        /// How often it has opened since it was last closed, this time not counted.
        before: u32,
    },
    HalfOpen {
        probes: Probes,
        before: u32,
        /// For the time it opens again: drawn beforehand, so that whoever only looks sees what a call would find.
        draw: Draw,
    },
    ForcedOpen {
        until: Moment,
    },
    Isolated,
    Disabled,
}

impl State {
    pub(super) const fn name(&self) -> BreakerState {
        match self {
            Self::Closed(_) => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::ForcedOpen { .. } => BreakerState::ForcedOpen,
            Self::Isolated => BreakerState::Isolated,
            Self::Disabled => BreakerState::Disabled,
        }
    }
}

/// A circuit breaker. Times may be handed in slightly out of order.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(super) config: BreakerConfig,
    pub(super) state: State,
    pub(super) epoch: Epoch,
    /// The number of the last move.
    pub(super) sequence: u64,
}

impl Machine {
    /// A closed circuit.
    pub(crate) fn new(config: BreakerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            state: State::Closed(Tally::new(&config)),
            config,
            epoch: Epoch::FIRST,
            sequence: 0,
        })
    }

    /// A call asks to pass.
    pub(crate) fn admit(&mut self, now: Moment, draw: Draw) -> (Verdict, Moves) {
        let mut moves = Moves::default();
        self.give_up_lost_probes(now, &mut moves);
        match self.state {
            State::Open { until, before } if now >= until => {
                self.half_open(before.saturating_add(1), draw, &mut moves);
            }
            State::ForcedOpen { until } if now >= until => self.half_open(0, draw, &mut moves),
            _ => {}
        }
        (self.verdict(now, draw), moves)
    }

    /// A call that was admitted has a result. `took` is looked at only while the slow rule is on.
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        outcome: &Outcome,
        took: Option<Duration>,
        now: Moment,
        draw: Draw,
    ) -> Moves {
        let slow = self.config.slow_rate.is_some()
            && took.is_some_and(|took| took > self.config.slow_call);
        let (answer, wait) = match outcome.kind {
            Kind::Neutral => (Answer::Nothing, None),
            Kind::Transient | Kind::Overloaded => (Answer::Bad, outcome.wait),
            Kind::Success | Kind::Permanent if slow => (Answer::Bad, None),
            Kind::Success | Kind::Permanent => (Answer::Good, None),
        };
        self.take(ticket, answer, wait, now, draw, |tally, config| {
            tally.settle(config, outcome.kind, slow, now)
        })
    }

    /// A call that was admitted will have no result: its caller left.
    pub(crate) fn abandon(&mut self, ticket: Ticket, now: Moment, draw: Draw) -> Moves {
        let answer = match self.config.abandoned {
            Abandoned::Failure => Answer::Bad,
            Abandoned::Detect | Abandoned::Ignore => Answer::Nothing,
        };
        self.take(ticket, answer, None, now, draw, |tally, config| {
            tally.abandon(config, now)
        })
    }

    /// Until this moment (exclusive) a good and fast result of this epoch changes nothing but the counts, so that it may be
    /// told later, by [`Machine::successes`]. `None`: each has to be settled.
    pub(crate) fn licence(&self) -> Option<Moment> {
        match &self.state {
            State::Closed(tally) => tally.licence(&self.config),
            _ => None,
        }
    }

    /// There were `n` good and fast results of this epoch under the licence.
    pub(crate) fn successes(&mut self, n: u64) {
        if let State::Closed(tally) = &mut self.state {
            tally.successes(n);
        }
    }

    fn verdict(&mut self, now: Moment, draw: Draw) -> Verdict {
        let refuse = |reason, retry_after| Verdict::Refuse {
            reason,
            retry_after,
        };
        match &mut self.state {
            State::Closed(tally) => {
                if tally.lets_in(&self.config, now, draw) {
                    Verdict::Admit(Ticket::call(self.epoch))
                } else {
                    refuse(Reason::CircuitRampingUp, None)
                }
            }
            State::Open { until, .. } => refuse(Reason::CircuitOpen, Some(until.since(now))),
            State::HalfOpen { probes, .. } => match probes.admit(self.config.probes, now) {
                Some(place) => Verdict::Admit(Ticket::probe(self.epoch, place)),
                None => refuse(Reason::CircuitProbing, probes.wait(&self.config, now)),
            },
            State::ForcedOpen { until } => {
                refuse(Reason::CircuitForcedOpen, Some(until.since(now)))
            }
            State::Isolated => refuse(Reason::CircuitIsolated, None),
            State::Disabled => Verdict::Admit(Ticket::IGNORED),
        }
    }

    /// Takes a result of this epoch: a probe's `answer`, or, while closed, what it does to the tally.
    fn take(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        wait: Option<Duration>,
        now: Moment,
        draw: Draw,
        count: impl FnOnce(&mut Tally, &BreakerConfig) -> Option<Cause>,
    ) -> Moves {
        let mut moves = Moves::default();
        if ticket.epoch != self.epoch {
            return moves;
        }
        self.give_up_lost_probes(now, &mut moves);
        match (&mut self.state, ticket.probe) {
            (State::Closed(tally), None) => {
                if let Some(cause) = count(tally, &self.config) {
                    let until = now.after(self.config.open_time(0, draw, wait));
                    self.enter(State::Open { until, before: 0 }, cause, &mut moves);
                }
            }
            (State::HalfOpen { probes, .. }, Some(place)) => {
                probes.settle(place, answer);
                self.decide(wait, now, None, &mut moves);
            }
            // The probe was lost, and with it the half-open time.
            _ => {}
        }
        moves
    }

    fn give_up_lost_probes(&mut self, now: Moment, moves: &mut Moves) {
        let until = self.lost_until(now);
        match &mut self.state {
            State::HalfOpen { probes, before, .. } => match until {
                Some(until) => {
                    let before = *before;
                    self.enter(State::Open { until, before }, Cause::ProbeLost, moves);
                }
                None => probes.expire(self.config.probe_lease, now),
            },
            _ => {}
        }
    }

    /// Until when the circuit opens again because it will be found to have lost its probes.
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

    /// Ends the half-open time if the answers so far decide it.
    pub(super) fn decide(
        &mut self,
        wait: Option<Duration>,
        now: Moment,
        cause: Option<Cause>,
        moves: &mut Moves,
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
                    moves,
                );
            }
            Some(Decision::Open) => {
                let before = *before;
                let until = now.after(self.config.open_time(before, *draw, wait));
                self.enter(
                    State::Open { until, before },
                    cause.unwrap_or(Cause::ProbeFailed),
                    moves,
                );
            }
        }
    }

    fn half_open(&mut self, before: u32, draw: Draw, moves: &mut Moves) {
        let probes = Probes::default();
        self.enter(
            State::HalfOpen {
                probes,
                before,
                draw,
            },
            Cause::OpenForOver,
            moves,
        );
    }

    /// Every state begins a new epoch: results of calls admitted before it change nothing.
    pub(super) fn enter(&mut self, state: State, cause: Cause, moves: &mut Moves) {
        let (from, to) = (self.state.name(), state.name());
        self.state = state;
        self.epoch = self.epoch.next();
        if from != to {
            self.sequence += 1;
            moves.push(self.sequence, Move::new(from, to, cause));
        }
    }
}

//! A model that stores every result and recounts each time, compared with the machine over random histories.

use std::time::Duration;

use proptest::prelude::*;

use super::config::{Abandoned, BreakerConfig, Window};
use super::machine::{Machine, Ticket, Transitions, Verdict};
use crate::chance::Draw;
use crate::clock::{Moment, nanos};
use crate::error::Reason;
use crate::event::{BreakerState, Cause, StateTransition};
use crate::outcome::{Kind, Outcome};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Entry {
    /// `None`: abandoned.
    kind: Option<Kind>,
    slow: bool,
    /// Abandoned early.
    short: bool,
    at: Moment,
    /// When the window counts it: at the start of its cell, once the cells have changed. `None`: not in it.
    counted_at: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq)]
enum Probe {
    /// Since when nothing has come, and when its head did.
    UnderWay(Moment, Option<Moment>),
    Good,
    Bad,
    GivenBack,
}

enum State {
    Closed {
        log: Vec<Entry>,
        ramp: Option<Moment>,
    },
    Open {
        until: Moment,
        before: u32,
    },
    HalfOpen {
        probes: Vec<Probe>,
        /// When the short abandoned probes came back, since the last result.
        short: Vec<Moment>,
        before: u32,
        draw: Draw,
    },
    Forced(Moment),
    Isolated,
    Disabled,
}

struct Model {
    config: BreakerConfig,
    state: State,
    epoch: u32,
    transitions: Vec<StateTransition>,
}

/// The epoch and, for a probe, its index.
type ModelTicket = (u32, Option<usize>);

impl Model {
    fn name(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::Forced(_) => BreakerState::ForcedOpen,
            State::Isolated => BreakerState::Isolated,
            State::Disabled => BreakerState::Disabled,
        }
    }

    fn enter(&mut self, state: State, cause: Cause) {
        let from = self.name();
        self.state = state;
        self.epoch += 1;
        if from != self.name() {
            self.transitions
                .push(StateTransition::new(from, self.name(), cause));
        }
    }

    fn closed(&mut self, ramp: Option<Moment>, cause: Cause) {
        self.enter(State::Closed { log: vec![], ramp }, cause);
    }

    fn open_time(&self, before: u32, draw: Draw, wait: Option<Duration>) -> Duration {
        let mut time = self.config.open_for;
        for _ in 0..before {
            if self.config.open_growth > 1.0 {
                time = time
                    .mul_f64(self.config.open_growth)
                    .min(self.config.max_open_for);
            }
        }
        let time = draw.spread(time, self.config.open_jitter);
        match (wait, self.config.max_server_wait) {
            (Some(wait), Some(max)) => time.max(wait.min(max)),
            _ => time,
        }
    }

    fn tolerated(&self) -> usize {
        (self.config.probes - self.config.probes_to_close.unwrap_or(self.config.probes)) as usize
    }

    fn expire_lost_probes(&mut self, now: Moment) {
        let (tolerated, lease) = (self.tolerated(), self.config.probe_idle_timeout);
        let State::HalfOpen {
            probes,
            before,
            draw,
            ..
        } = &mut self.state
        else {
            return;
        };
        loop {
            let admitted = |probe: &Probe| match probe {
                Probe::UnderWay(since, _) if now >= since.after(lease) => Some(*since),
                _ => None,
            };
            let Some((lost, at)) = probes
                .iter_mut()
                .filter_map(|probe| admitted(probe).map(|at| (probe, at)))
                .min_by_key(|(_, at)| *at)
            else {
                return;
            };
            *lost = Probe::Bad;
            if probes.iter().filter(|probe| **probe == Probe::Bad).count() > tolerated {
                let (before, draw) = (*before, *draw);
                let until = at.after(self.open_time(before, draw, None));
                return self.enter(State::Open { until, before }, Cause::ProbeLost);
            }
        }
    }

    fn admit(
        &mut self,
        now: Moment,
        draw: Draw,
    ) -> Result<ModelTicket, (Reason, Option<Duration>)> {
        self.expire_lost_probes(now);
        let half_open = |before| State::HalfOpen {
            probes: vec![],
            short: vec![],
            before,
            draw,
        };
        match self.state {
            State::Open { until, before } if now >= until => {
                self.enter(half_open(before + 1), Cause::OpenForOver);
            }
            State::Forced(until) if now >= until => self.enter(half_open(0), Cause::OpenForOver),
            _ => {}
        }
        match &mut self.state {
            State::Closed { ramp, .. } => match *ramp {
                Some(from) if now.since(from) < self.config.ramp_up => {
                    let share = now.since(from).as_secs_f64() / self.config.ramp_up.as_secs_f64();
                    if draw.happens(share.max(0.1)) {
                        Ok((self.epoch, None))
                    } else {
                        Err((Reason::CircuitRampingUp, None))
                    }
                }
                _ => {
                    *ramp = None;
                    Ok((self.epoch, None))
                }
            },
            State::Open { until, .. } => Err((Reason::CircuitOpen, Some(until.since(now)))),
            State::HalfOpen { probes, .. } => {
                if probes
                    .iter()
                    .filter(|probe| **probe != Probe::GivenBack)
                    .count()
                    < self.config.probes as usize
                {
                    probes.push(Probe::UnderWay(now, None));
                    return Ok((self.epoch, Some(probes.len() - 1)));
                }
                let leases = probes.iter().filter_map(|probe| match probe {
                    Probe::UnderWay(since, _) => {
                        Some(since.after(self.config.probe_idle_timeout).since(now))
                    }
                    _ => None,
                });
                Err((
                    Reason::CircuitProbing,
                    leases.chain([self.config.open_for]).min(),
                ))
            }
            State::Forced(until) => Err((Reason::CircuitForcedOpen, Some(until.since(now)))),
            State::Isolated => Err((Reason::CircuitIsolated, None)),
            State::Disabled => Ok((u32::MAX, None)),
        }
    }

    /// Whether the probe is decided.
    fn progress(&mut self, ticket: ModelTicket, took: Duration, now: Moment) -> bool {
        if ticket.0 == self.epoch {
            self.expire_lost_probes(now);
        }
        let (true, Some(place)) = (ticket.0 == self.epoch, ticket.1) else {
            return true;
        };
        let slow = self.config.slow_rate.is_some() && took > self.config.slow_call;
        let State::HalfOpen { probes, short, .. } = &mut self.state else {
            return true;
        };
        let Probe::UnderWay(_, head) = probes[place] else {
            return false;
        };
        let head = head.unwrap_or(now);
        if now < head.after(self.config.probe_idle_timeout) {
            probes[place] = Probe::UnderWay(now, Some(head));
            return false;
        }
        probes[place] = if slow { Probe::Bad } else { Probe::Good };
        short.clear();
        self.decide(None, now, None);
        true
    }

    /// `kind` is `None` for a call that is abandoned, after `took`.
    fn settle(
        &mut self,
        ticket: ModelTicket,
        kind: Option<Kind>,
        wait: Option<Duration>,
        took: Duration,
        now: Moment,
        draw: Draw,
    ) {
        if ticket.0 != self.epoch {
            return;
        }
        self.expire_lost_probes(now);
        if ticket.0 != self.epoch {
            return;
        }
        let slow =
            self.config.slow_rate.is_some() && took > self.config.slow_call && kind.is_some();
        let wait = wait.filter(|_| matches!(kind, Some(Kind::Transient | Kind::Overloaded)));
        let early = kind.is_none() && took < self.config.abandoned_after;
        let detects = self.config.abandoned == Abandoned::Detect;
        let kind = match self.config.abandoned {
            Abandoned::Failure => kind.or(Some(Kind::Transient)),
            _ => kind,
        };
        match (&mut self.state, ticket.1) {
            (State::Closed { log, .. }, None) => {
                let ignored = kind.is_none() && self.config.abandoned == Abandoned::Ignore;
                if kind != Some(Kind::Neutral) && !ignored {
                    let counts =
                        self.config.failure_rate.is_some() || self.config.slow_rate.is_some();
                    let counted_at = Some(now).filter(|_| counts && kind.is_some());
                    log.push(Entry {
                        kind,
                        slow,
                        short: early,
                        at: now,
                        counted_at,
                    });
                    if let Some(cause) = self.tripped(now) {
                        let until = now.after(self.open_time(0, draw, wait));
                        self.enter(State::Open { until, before: 0 }, cause);
                    }
                }
            }
            (State::HalfOpen { probes, short, .. }, Some(probe)) => {
                if matches!(probes[probe], Probe::UnderWay(..)) {
                    match kind {
                        Some(Kind::Neutral) => {}
                        None if early && detects => short.push(now),
                        None if !detects => {}
                        _ => short.clear(),
                    }
                    probes[probe] = match kind {
                        None if early || !detects => Probe::GivenBack,
                        Some(Kind::Neutral) => Probe::GivenBack,
                        Some(Kind::Success | Kind::Permanent) if !slow => Probe::Good,
                        _ => Probe::Bad,
                    };
                }
                self.decide(wait, now, None);
            }
            _ => unreachable!(),
        }
    }

    fn decide(&mut self, wait: Option<Duration>, now: Moment, cause: Option<Cause>) {
        let State::HalfOpen {
            probes,
            short,
            before,
            draw,
        } = &self.state
        else {
            return;
        };
        let (before, draw) = (*before, *draw);
        let first = short.first().copied();
        let gave_up = first.is_some_and(|first| {
            let last = short.iter().copied().max().unwrap_or(first);
            last.since(first) >= 10 * S
        });
        if gave_up {
            let until = now.after(self.open_time(before, draw, None));
            let cause = cause.unwrap_or(Cause::Abandoned);
            return self.enter(State::Open { until, before }, cause);
        }
        let count = |which| probes.iter().filter(|probe| **probe == which).count();
        if count(Probe::Good) + self.tolerated() >= self.config.probes as usize {
            let ramp = Some(now).filter(|_| !self.config.ramp_up.is_zero());
            self.closed(ramp, cause.unwrap_or(Cause::ProbesSucceeded));
        } else if count(Probe::Bad) > self.tolerated() {
            let until = now.after(self.open_time(before, draw, wait));
            self.enter(
                State::Open { until, before },
                cause.unwrap_or(Cause::ProbeFailed),
            );
        }
    }

    /// The places in the log.
    fn in_window(&self, now: Moment) -> Vec<usize> {
        let State::Closed { log, .. } = &self.state else {
            return vec![];
        };
        let counted = |place: &usize| log[*place].counted_at;
        match self.config.window {
            Window::Time(length) => {
                let cell = |at: Moment| at.as_nanos() / (nanos(length) / 10);
                let holds =
                    |place: &usize| counted(place).is_some_and(|at| cell(at) + 10 > cell(now));
                (0..log.len()).filter(holds).collect()
            }
            Window::Calls(calls) => {
                let places = (0..log.len())
                    .rev()
                    .filter(|place| counted(place).is_some());
                places.take(calls as usize).collect()
            }
        }
    }

    fn counts(&self, now: Moment) -> (usize, usize, usize) {
        let State::Closed { log, .. } = &self.state else {
            return (0, 0, 0);
        };
        let window = self.in_window(now);
        let entries = || window.iter().map(|place| log[*place]);
        let failed = |e: &Entry| matches!(e.kind, Some(Kind::Transient | Kind::Overloaded));
        (
            window.len(),
            entries().filter(failed).count(),
            entries().filter(|e| e.slow).count(),
        )
    }

    fn tripped(&self, now: Moment) -> Option<Cause> {
        let State::Closed { log, .. } = &self.state else {
            return None;
        };
        let spread = |run: &[&Entry]| run[0].at.since(run[run.len() - 1].at);
        let run: Vec<_> = log
            .iter()
            .rev()
            .take_while(|e| !matches!(e.kind, Some(Kind::Success | Kind::Permanent)))
            .filter(|e| e.kind == Some(Kind::Transient))
            .collect();
        if log.last()?.kind == Some(Kind::Transient)
            && self
                .config
                .consecutive_failures
                .is_some_and(|n| run.len() >= n as usize)
            && spread(&run) >= self.config.consecutive_min_span
        {
            return Some(Cause::ConsecutiveFailures);
        }
        if log.last()?.kind.is_some() {
            let (total, failed, slow) = self.counts(now);
            // Whole numbers: the rates of these histories are quarters.
            let over = |part: usize, rate: Option<f64>| {
                let quarters = (1..=4)
                    .zip([0.25, 0.5, 0.75, 1.0])
                    .find(|(_, part)| Some(*part) == rate);
                quarters.is_some_and(|(quarters, _)| part * 4 >= total * quarters)
            };
            if total < self.config.min_calls as usize {
                return None;
            }
            return if over(failed, self.config.failure_rate) {
                Some(Cause::FailureRate)
            } else {
                over(slow, self.config.slow_rate).then_some(Cause::SlowRate)
            };
        }
        let left: Vec<_> = log.iter().rev().take_while(|e| e.kind.is_none()).collect();
        let long: Vec<_> = left.iter().copied().filter(|e| !e.short).collect();
        let enough = |run: &[&Entry], over| {
            run.len() >= self.config.min_calls as usize && spread(run) >= over
        };
        let many = enough(&left, 10 * S) || !log.last()?.short && enough(&long, S);
        (many && self.config.abandoned == Abandoned::Detect).then_some(Cause::Abandoned)
    }

    fn reconfigure(&mut self, config: BreakerConfig, now: Moment) {
        let counted = self.in_window(now);
        if let State::Closed { log, .. } = &mut self.state {
            for (place, entry) in log.iter_mut().enumerate() {
                entry.counted_at = entry.counted_at.filter(|_| counted.contains(&place));
                entry.counted_at = match (self.config.window, config.window) {
                    _ if config.failure_rate.is_none() && config.slow_rate.is_none() => None,
                    (Window::Time(length), Window::Time(_)) => {
                        let cell = nanos(length) / 10;
                        entry
                            .counted_at
                            .map(|at| Moment::from_nanos(at.as_nanos() / cell * cell))
                    }
                    (Window::Calls(_), Window::Calls(_)) => entry.counted_at,
                    _ => None,
                }
            }
        }
        self.config = config;
        self.decide(None, now, Some(Cause::Manual));
    }
}

/// The machine as a handle uses it: successes under the grant are counted separately.
struct Granted {
    machine: Machine,
    pending: u64,
}

impl Granted {
    fn folded(&mut self) -> &mut Machine {
        self.machine.successes(std::mem::take(&mut self.pending));
        &mut self.machine
    }

    fn admit(&mut self, now: Moment, draw: Draw) -> (Verdict, Transitions) {
        if self.machine.admits_all() {
            let ticket = match self.machine.state(now) {
                BreakerState::Disabled => Ticket::IGNORED,
                _ => Ticket::call(self.machine.epoch()),
            };
            return (Verdict::Admit(ticket), Transitions::default());
        }
        if let Some(until) = self.machine.refused_until().filter(|until| now < *until) {
            let (verdict, transitions) = self.folded().admit(now, draw);
            assert!(
                matches!(verdict, Verdict::Refuse { .. }),
                "refused until {until:?}"
            );
            return (verdict, transitions);
        }
        self.folded().admit(now, draw)
    }

    fn settle(
        &mut self,
        ticket: Ticket,
        outcome: &Outcome,
        took: Duration,
        now: Moment,
        draw: Draw,
    ) -> Transitions {
        let config = &self.machine.config;
        let granted = outcome.is_good()
            && (config.slow_rate.is_none() || took <= config.slow_call)
            && ticket == Ticket::call(self.machine.epoch())
            && self.machine.grant().is_some_and(|until| now < until);
        if granted {
            self.pending += 1;
            return Transitions::default();
        }
        self.folded().settle(ticket, outcome, Some(took), now, draw)
    }
}

/// Bits of one number, taken one field after the other.
struct Bits(u64);

impl Bits {
    fn below(&mut self, n: u64) -> u64 {
        let value = self.0 % n;
        self.0 /= n;
        value
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(values.len() as u64)).unwrap()]
    }
}

fn config(seed: u64) -> BreakerConfig {
    let mut bits = Bits(seed);
    let probes = bits.of(&[3, 1, 2, 4]);
    let config = BreakerConfig::default()
        .failure_rate(bits.of(&[Some(0.5), None, Some(0.25), Some(1.0)]))
        .consecutive_failures(bits.of(&[None, Some(1), Some(3)]))
        .consecutive_min_span(bits.of(&[Duration::ZERO, 200 * MS]))
        .slow_rate(bits.of(&[None, Some(0.5)]))
        .window(bits.of(&[
            Window::Time(10 * S),
            Window::Time(S),
            Window::Time(7 * S),
            Window::Calls(5),
            Window::Calls(70),
        ]))
        .min_calls(bits.of(&[3, 1, 5]))
        .open_jitter(bits.of(&[0.0, 0.2, 1.0]))
        .open_growth(bits.of(&[1.0, 2.0]))
        .max_open_for(5 * S)
        .max_server_wait(bits.of(&[None, Some(3 * S)]))
        .probes(probes)
        .probe_idle_timeout(bits.of(&[S, 10 * S]))
        .ramp_up(bits.of(&[Duration::ZERO, 3 * S]))
        .abandoned(bits.of(&[Abandoned::Detect, Abandoned::Ignore, Abandoned::Failure]))
        .abandoned_after(bits.of(&[S, Duration::ZERO, S + MS]));
    let needed = u32::try_from(bits.below(u64::from(probes) + 1)).unwrap();
    config.probes_to_close(Some(needed).filter(|needed| *needed > 0))
}

/// The plain machine, the machine with grants, and the model, side by side.
struct Trial {
    machine: Machine,
    granted: Granted,
    model: Model,
    under_way: Vec<(Ticket, Ticket, ModelTicket)>,
    now: Moment,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let config = config(seed);
        let machine = Machine::new(config).unwrap();
        Self {
            granted: Granted {
                machine: machine.clone(),
                pending: 0,
            },
            machine,
            model: Model {
                config,
                state: State::Closed {
                    log: vec![],
                    ramp: None,
                },
                epoch: 0,
                transitions: vec![],
            },
            under_way: vec![],
            now: Moment::START,
        }
    }

    fn step(&mut self, step: u64) {
        let mut bits = Bits(step);
        let what = bits.below(64);
        self.now = self.now.after(bits.of(&[
            Duration::ZERO,
            Duration::from_nanos(1),
            50 * MS,
            150 * MS,
            Duration::ZERO,
            200 * MS,
            999 * MS,
            S,
            2 * S,
            Duration::ZERO,
            7 * S,
            9 * S,
            10 * S,
            60 * 86_400 * S,
        ]));
        let kind = bits.of(&[
            Some(Kind::Success),
            Some(Kind::Success),
            Some(Kind::Transient),
            Some(Kind::Transient),
            Some(Kind::Overloaded),
            Some(Kind::Permanent),
            Some(Kind::Neutral),
            None,
        ]);
        let took = bits.of(&[MS, S, S + MS]);
        let wait = bits.of(&[None, None, Some(MS), Some(3 * S), Some(60 * S)]);
        let draw = Draw::part(bits.of(&[0.0, 0.5, 0.15, 1.0]));
        let which = bits.below(1 << 10);
        match what {
            0..30 => {
                if self.admit(draw) {
                    self.settle(self.under_way.len() - 1, kind, wait, took, draw);
                }
            }
            30..44 => {
                self.admit(draw);
            }
            44..50 if !self.under_way.is_empty() => {
                let which = usize::try_from(which).unwrap() % self.under_way.len();
                self.progress(which, took);
            }
            44..57 if self.under_way.is_empty() => {}
            44..57 => {
                let which = usize::try_from(which).unwrap() % self.under_way.len();
                self.settle(which, kind, wait, took, draw);
            }
            57..61 => self.reconfigure(which),
            _ => self.manual(which),
        }
        self.compare();
    }

    fn admit(&mut self, draw: Draw) -> bool {
        let now = self.now;
        let state = self.machine.state(now);
        let remaining = self.machine.remaining(now);
        let (one, transitions) = self.machine.admit(now, draw);
        let (other, other_transitions) = self.granted.admit(now, draw);
        assert_eq!((&one, transitions), (&other, other_transitions));
        let expected = self.model.admit(now, draw);
        self.compare_transitions(transitions);
        assert_eq!(
            self.machine.state(now),
            state,
            "`state` is what a call finds"
        );
        match (one, other, expected) {
            (Verdict::Admit(one), Verdict::Admit(other), Ok(expected)) => {
                assert_eq!(one.is_probe(), expected.1.is_some());
                assert_eq!(one.is_probe(), state == BreakerState::HalfOpen);
                assert_eq!(remaining, None);
                self.under_way.push((one, other, expected));
                true
            }
            (
                Verdict::Refuse {
                    reason,
                    retry_after,
                },
                _,
                Err(expected),
            ) => {
                if matches!(reason, Reason::CircuitOpen | Reason::CircuitForcedOpen) {
                    assert_eq!(remaining, retry_after);
                } else {
                    assert_eq!(remaining, None);
                }
                assert_eq!((reason, retry_after), expected);
                false
            }
            (one, _, expected) => panic!("{one:?} instead of {expected:?}"),
        }
    }

    fn progress(&mut self, which: usize, took: Duration) {
        let now = self.now;
        let (ticket, other, model_ticket) = self.under_way[which];
        // Only probes report it.
        if !ticket.is_probe() {
            return;
        }
        let (decided, transitions) = self.machine.progress(ticket, Some(took), now);
        let also = self.granted.folded().progress(other, Some(took), now);
        assert_eq!((decided, transitions), also);
        assert_eq!(decided, self.model.progress(model_ticket, took, now));
        if decided {
            self.under_way.swap_remove(which);
        }
        self.compare_transitions(transitions);
    }

    fn settle(
        &mut self,
        which: usize,
        kind: Option<Kind>,
        wait: Option<Duration>,
        took: Duration,
        draw: Draw,
    ) {
        let now = self.now;
        let (ticket, other, model_ticket) = self.under_way.swap_remove(which);
        let (transitions, other_transitions) = match kind {
            None => (
                self.machine.abandon(ticket, took, now, draw),
                self.granted.folded().abandon(other, took, now, draw),
            ),
            Some(kind) => {
                let outcome = Outcome::of(kind).wait(wait);
                (
                    self.machine.settle(ticket, &outcome, Some(took), now, draw),
                    self.granted.settle(other, &outcome, took, now, draw),
                )
            }
        };
        assert_eq!(transitions, other_transitions);
        self.model.settle(model_ticket, kind, wait, took, now, draw);
        self.compare_transitions(transitions);
    }

    fn manual(&mut self, which: u64) {
        let now = self.now;
        let apply = |machine: &mut Machine| match which % 7 {
            0 => machine.force_open(S, now),
            1 => machine.isolate(),
            2 | 3 | 5 => machine.release(),
            4 => machine.disable(),
            _ => machine.reset(),
        };
        let transitions = apply(&mut self.machine);
        assert_eq!(apply(self.granted.folded()), transitions);
        match (which % 7, &self.model.state) {
            (0, _) => self.model.enter(State::Forced(now.after(S)), Cause::Manual),
            (1, _) => self.model.enter(State::Isolated, Cause::Manual),
            (4, _) => self.model.enter(State::Disabled, Cause::Manual),
            (6, _) | (2 | 3 | 5, State::Isolated | State::Forced(_) | State::Disabled) => {
                self.model.closed(None, Cause::Manual);
            }
            _ => {}
        }
        self.compare_transitions(transitions);
    }

    fn reconfigure(&mut self, which: u64) {
        let config = config(which * 0x9E37_79B9);
        let transitions = self.machine.reconfigure(config, self.now).unwrap();
        assert_eq!(
            self.granted.folded().reconfigure(config, self.now),
            Ok(transitions)
        );
        self.model.reconfigure(config, self.now);
        self.compare_transitions(transitions);
    }

    fn compare_transitions(&mut self, transitions: Transitions) {
        let transitions: Vec<_> = transitions
            .into_iter()
            .map(|(_, transition)| transition)
            .collect();
        assert_eq!(transitions, std::mem::take(&mut self.model.transitions));
    }

    fn compare(&mut self) {
        let (machine, other) = (&self.machine, &self.granted.machine);
        assert_eq!(machine.epoch(), other.epoch());
        assert_eq!(machine.state(self.now), other.state(self.now));
        assert_eq!(machine.admits_all(), other.admits_all());
        let mut folded = other.clone();
        folded.successes(self.granted.pending);
        assert_eq!(machine.counts(self.now), folded.counts(self.now));
        let counts = machine.counts(self.now);
        let (total, failed, slow) = self.model.counts(self.now);
        assert_eq!(
            (
                counts.total as usize,
                counts.failed as usize,
                counts.slow as usize
            ),
            (total, failed, slow)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_decided_as_by_the_model_and_by_the_machine_with_grants(
        seed: u64,
        steps in proptest::collection::vec(any::<u64>(), 1..40),
    ) {
        let mut trial = Trial::new(seed);
        for step in steps {
            trial.step(step);
        }
    }

    #[test]
    fn times_in_any_order_neither_panic_nor_hold_places(
        seed: u64,
        steps in proptest::collection::vec((0_u8..5, any::<u64>(), 0_usize..8), 1..60),
    ) {
        let config = config(seed);
        let mut machine = Machine::new(config).unwrap();
        let mut tickets = vec![];
        let check = |machine: &Machine, tickets: &[Ticket]| {
            let current = |ticket: &&Ticket| ticket.epoch == machine.epoch() && ticket.is_probe();
            prop_assert!(tickets.iter().filter(current).count() <= 2 * config.probes as usize);
            Ok(())
        };
        for (what, time, which) in steps {
            let shift = which * 8;
            let (now, draw) = (Moment::from_nanos(time >> shift), Draw::new(time));
            let which = which.min(tickets.len().saturating_sub(1));
            match what {
                0 | 1 => {
                    if let (Verdict::Admit(ticket), _) = machine.admit(now, draw) {
                        tickets.push(ticket);
                    }
                }
                _ if tickets.is_empty() => {}
                2 => {
                    machine.settle(tickets.swap_remove(which), &Outcome::TRANSIENT, None, now, draw);
                }
                3 => {
                    if machine.progress(tickets[which], None, now).0 {
                        tickets.swap_remove(which);
                    }
                }
                _ => {
                    let waited = Duration::from_nanos(time >> 8);
                    machine.abandon(tickets.swap_remove(which), waited, now, draw);
                }
            }
            let _ = (machine.state(now), machine.remaining(now), machine.grant(), machine.counts(now));
            check(&machine, &tickets)?;
        }
        for ticket in tickets {
            machine.abandon(ticket, Duration::ZERO, Moment::START, Draw::new(0));
        }
        machine.admit(Moment::FAR, Draw::new(u64::MAX));
        let (verdict, _) = machine.admit(Moment::FAR, Draw::new(0));
        prop_assert!(matches!(verdict, Verdict::Admit(_)), "{verdict:?}");
    }
}

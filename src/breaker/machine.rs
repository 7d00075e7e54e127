//! The rules of a circuit breaker, without a clock, without chance and without threads.

use std::time::Duration;

use super::config::{Abandoned, BreakerConfig};
use super::probes::{Decision, ProbeResult, Probes};
use super::trip::Tally;
use crate::allowance::Allowance;
use crate::chance::Draw;
use crate::clock::Moment;
use crate::error::{ConfigError, Reason};
use crate::event::{BreakerState, Cause, StateTransition};
use crate::outcome::{Kind, Outcome};

/// The state of the circuit, with its counts.
#[derive(Clone, Debug)]
pub(super) enum State {
    Closed(Tally),
    Open {
        until: Moment,
        /// How often it had opened before, since it was last closed.
        before: u32,
    },
    HalfOpen {
        probes: Probes,
        before: u32,
        /// For the next open time. Drawn beforehand, so that a read shows what a call would find.
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
    /// The number of the last state transition.
    pub(super) sequence: u64,
    /// For requests that never reached the server.
    pub(super) allowance: Allowance,
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
            allowance: Allowance::default(),
        })
    }

    /// Admits or rejects a call.
    pub(crate) fn admit(&mut self, now: Moment, draw: Draw) -> (Verdict, Transitions) {
        let mut transitions = Transitions::default();
        self.give_up_lost_probes(now, &mut transitions);
        match self.state {
            State::Open { until, before } if now >= until => {
                self.half_open(before.saturating_add(1), draw, &mut transitions);
            }
            State::ForcedOpen { until } if now >= until => {
                self.half_open(0, draw, &mut transitions);
            }
            _ => {}
        }
        (self.verdict(now, draw), transitions)
    }

    /// A call that was admitted has a result. `took` is looked at only while the slow rule is on.
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        outcome: &Outcome,
        took: Option<Duration>,
        now: Moment,
        draw: Draw,
    ) -> Transitions {
        let outcome = self.charge(*outcome);
        let slow = self.is_slow(took);
        let (result, wait) = match outcome.kind {
            Kind::Neutral => (ProbeResult::Neutral, None),
            Kind::Transient | Kind::Overloaded => (ProbeResult::Bad, outcome.wait),
            Kind::Success | Kind::Permanent if slow => (ProbeResult::Bad, None),
            Kind::Success | Kind::Permanent => (ProbeResult::Good, None),
        };
        self.receive(ticket, result, wait, now, draw, |tally, config| {
            tally.settle(config, outcome.kind, slow, now)
        })
    }

    /// Charges a request that never reached the server to the allowance: with none left, it counts as overloaded. A good
    /// result restores some of it.
    fn charge(&mut self, mut outcome: Outcome) -> Outcome {
        if let Some(how) = outcome.unprocessed {
            if !self.allowance.take(how) {
                outcome.kind = Kind::Overloaded;
            }
        } else if outcome.is_good() {
            self.allowance.restore(1);
        }
        outcome
    }

    /// A call that was admitted will have no result: its caller left, after it had `waited` this long for the response, or
    /// for the next part of it.
    pub(crate) fn abandon(
        &mut self,
        ticket: Ticket,
        waited: Duration,
        now: Moment,
        draw: Draw,
    ) -> Transitions {
        let short = waited < self.config.abandoned_after;
        let result = match self.config.abandoned {
            Abandoned::Ignore => ProbeResult::Neutral,
            Abandoned::Detect if short => ProbeResult::Abandoned,
            Abandoned::Detect | Abandoned::Failure => ProbeResult::Bad,
        };
        self.receive(ticket, result, None, now, draw, |tally, config| {
            tally.abandon(config, short, now)
        })
    }

    /// A part of the response to a probe has arrived: its good head, or a frame of its body. `took` is the time since the
    /// call began, and read only while the slow rule is on. Returns whether the probe is decided: its later result changes
    /// nothing.
    pub(crate) fn progress(
        &mut self,
        ticket: Ticket,
        took: Option<Duration>,
        now: Moment,
    ) -> (bool, Transitions) {
        let slow = self.is_slow(took);
        let mut over = true;
        let mut transitions = Transitions::default();
        if ticket.epoch != self.epoch {
            return (over, transitions);
        }
        self.give_up_lost_probes(now, &mut transitions);
        let lease = self.config.probe_idle_timeout;
        if let (State::HalfOpen { probes, .. }, Some(place)) = (&mut self.state, ticket.place()) {
            over = probes.progress(place, lease, now);
            if over {
                let result = if slow {
                    ProbeResult::Bad
                } else {
                    ProbeResult::Good
                };
                probes.settle(place, result, now);
                self.decide(None, now, None, &mut transitions);
            }
        }
        (over, transitions)
    }

    fn is_slow(&self, took: Option<Duration>) -> bool {
        self.config.slow_rate.is_some() && took.is_some_and(|took| took > self.config.slow_call)
    }

    /// Until this moment (exclusive) a good and fast result of this epoch changes only the counts, and may be reported later
    /// with [`Machine::successes`]. `None`: each has to be settled.
    pub(crate) fn grant(&self) -> Option<Moment> {
        match &self.state {
            // While the allowance is not full, every good result restores some of it.
            State::Closed(tally) if self.allowance.is_full() => tally.grant(&self.config),
            _ => None,
        }
    }

    /// Counts `n` good and fast results of this epoch under the grant.
    pub(crate) fn successes(&mut self, n: u64) {
        if let State::Closed(tally) = &mut self.state {
            tally.successes(n);
        }
        self.allowance.restore(n);
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

    /// Counts a result of this epoch: the `result` of a probe, or, while closed, what `count` does to the tally.
    fn receive(
        &mut self,
        ticket: Ticket,
        result: ProbeResult,
        wait: Option<Duration>,
        now: Moment,
        draw: Draw,
        count: impl FnOnce(&mut Tally, &BreakerConfig) -> Option<Cause>,
    ) -> Transitions {
        let mut transitions = Transitions::default();
        if ticket.epoch != self.epoch {
            return transitions;
        }
        self.give_up_lost_probes(now, &mut transitions);
        match (&mut self.state, ticket.place()) {
            (State::Closed(tally), None) => {
                if let Some(cause) = count(tally, &self.config) {
                    let until = now.after(self.config.open_time(0, draw, wait));
                    self.enter(State::Open { until, before: 0 }, cause, &mut transitions);
                }
            }
            (State::HalfOpen { probes, .. }, Some(place)) => {
                probes.settle(place, result, now);
                self.decide(wait, now, None, &mut transitions);
            }
            // The probe was lost, and the half-open state ended with it.
            _ => {}
        }
        transitions
    }
}

/// State transitions.
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

/// Counts the states a machine has been in. 31 bits; it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Epoch {
    pub(super) const FIRST: Self = Self(0);
    /// Not one of the 31-bit values, so no machine is ever in it.
    const NONE: Self = Self(u32::MAX);
    const MASK: u32 = u32::MAX >> 1;

    /// The epoch with these 31 bits.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::MASK)
    }

    /// Its 31 bits.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn next(self) -> Self {
        Self::from_bits(self.0.wrapping_add(1))
    }
}

/// Identifies an admitted call to the machine when it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(super) epoch: Epoch,
    /// Its place among the probes, or [`NOT_A_PROBE`].
    place: u32,
}

const NOT_A_PROBE: u32 = u32::MAX;

impl Ticket {
    /// Of a call whose result is ignored.
    pub(crate) const IGNORED: Self = Self::call(Epoch::NONE);

    /// Of a call admitted by a circuit that was closed in this epoch.
    pub(crate) const fn call(epoch: Epoch) -> Self {
        Self {
            epoch,
            place: NOT_A_PROBE,
        }
    }

    pub(super) const fn probe(epoch: Epoch, place: u16) -> Self {
        Self {
            epoch,
            place: place as u32,
        }
    }

    /// All of it in one number.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.epoch.0)
    }

    /// The ticket with these [`bits`](Self::bits).
    #[expect(clippy::cast_possible_truncation, reason = "each half is wanted")]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self {
            epoch: Epoch(bits as u32),
            place: (bits >> 32) as u32,
        }
    }

    pub(crate) const fn is_probe(self) -> bool {
        self.place != NOT_A_PROBE
    }

    /// Its place among the probes, if it is one.
    pub(super) fn place(self) -> Option<u16> {
        u16::try_from(self.place).ok()
    }
}

/// Whether a call may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admit(Ticket),
    Refuse {
        reason: Reason,
        retry_after: Option<Duration>,
    },
}

/// The state transitions of one step, each with its number. There are two at most: a probe is found lost, and the open time
/// that follows is already over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transitions([Option<(u64, StateTransition)>; 2]);

impl Transitions {
    pub(super) fn push(&mut self, sequence: u64, transition: StateTransition) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((sequence, transition));
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

impl IntoIterator for Transitions {
    type Item = (u64, StateTransition);
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<(u64, StateTransition)>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Window;
    use super::*;
    use crate::outcome::Unprocessed;
    use crate::window::Counts;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);
    const EVEN: Draw = Draw::new(u64::MAX / 2);

    /// A machine, the time, and the last transition.
    struct Bench {
        machine: Machine,
        now: Moment,
        last: Option<Cause>,
        transitions: u64,
    }

    /// No jitter and no spread; three failures in a row unless a test sets something else.
    fn plain() -> BreakerConfig {
        BreakerConfig::default()
            .consecutive_failures(Some(3))
            .consecutive_min_span(Duration::ZERO)
            .open_jitter(0.0)
    }

    /// Only the failure rate.
    fn by_rate(rate: f64, min_calls: u32, window: Window) -> BreakerConfig {
        plain()
            .consecutive_failures(None)
            .failure_rate(Some(rate))
            .min_calls(min_calls)
            .window(window)
    }

    fn bench(config: BreakerConfig) -> Bench {
        Bench {
            machine: Machine::new(config).unwrap(),
            now: Moment::START,
            last: None,
            transitions: 0,
        }
    }

    impl Bench {
        fn wait(&mut self, time: Duration) -> &mut Self {
            self.now = self.now.after(time);
            self
        }

        fn admit(&mut self) -> Verdict {
            // A read shows what a call finds. A call that finds lost probes causes the transition.
            let announced = self.machine.refuses(self.now);
            let changes_state = self.machine.lost_until(self.now).is_some();
            let (verdict, transitions) = self.machine.admit(self.now, EVEN);
            let found = match verdict.clone() {
                Verdict::Refuse {
                    reason: Reason::CircuitRampingUp,
                    ..
                }
                | Verdict::Admit(_) => None,
                Verdict::Refuse {
                    reason,
                    retry_after,
                } => Some((reason, retry_after)),
            };
            assert_eq!(announced, found.filter(|_| !changes_state));
            self.note(transitions);
            verdict
        }

        fn ticket(&mut self) -> Ticket {
            match self.admit() {
                Verdict::Admit(ticket) => ticket,
                refused @ Verdict::Refuse { .. } => panic!("{refused:?}"),
            }
        }

        fn refusal(&mut self) -> (Reason, Option<Duration>) {
            match self.admit() {
                Verdict::Refuse {
                    reason,
                    retry_after,
                } => (reason, retry_after),
                Verdict::Admit(_) => panic!("was admitted in {:?}", self.state()),
            }
        }

        fn settle_slow(
            &mut self,
            ticket: Ticket,
            outcome: Outcome,
            took: Duration,
        ) -> BreakerState {
            let transitions = self
                .machine
                .settle(ticket, &outcome, Some(took), self.now, EVEN);
            self.note(transitions);
            self.state()
        }

        fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> BreakerState {
            self.settle_slow(ticket, outcome, MS)
        }

        fn abandon_after(&mut self, ticket: Ticket, waited: Duration) -> BreakerState {
            let transitions = self.machine.abandon(ticket, waited, self.now, EVEN);
            self.note(transitions);
            self.state()
        }

        fn abandon(&mut self, ticket: Ticket) -> BreakerState {
            self.abandon_after(ticket, 999 * MS)
        }

        /// A part of the response has arrived. Whether the probe is decided.
        fn progress(&mut self, ticket: Ticket) -> bool {
            let (decided, transitions) = self.machine.progress(ticket, None, self.now);
            self.note(transitions);
            decided
        }

        /// One call a letter: success, failure, overloaded, permanent, neutral, abandoned after 1 s, abandoned before; as
        /// long as it is admitted.
        fn calls(&mut self, letters: &str) -> BreakerState {
            for letter in letters.chars() {
                let ticket = self.ticket();
                match letter {
                    'S' => self.settle(ticket, Outcome::SUCCESS),
                    'F' => self.settle(ticket, Outcome::TRANSIENT),
                    'O' => self.settle(ticket, Outcome::OVERLOADED),
                    'P' => self.settle(ticket, Outcome::PERMANENT),
                    'N' => self.settle(ticket, Outcome::NEUTRAL),
                    'A' => self.abandon_after(ticket, S),
                    'a' => self.abandon(ticket),
                    _ => unreachable!(),
                };
            }
            self.state()
        }

        fn state(&self) -> BreakerState {
            self.machine.state(self.now)
        }

        fn note(&mut self, transitions: Transitions) {
            for (sequence, transition) in transitions {
                self.transitions += 1;
                assert_eq!(sequence, self.transitions);
                self.last = Some(transition.cause);
            }
        }

        /// Opens it by three failures and waits until it may probe.
        fn until_half_open(config: BreakerConfig) -> Self {
            let mut bench = bench(config);
            assert_eq!(bench.calls("FFF"), Open);
            bench.wait(config.open_for);
            bench
        }
    }

    use BreakerState::{Closed, HalfOpen, Open};

    #[test]
    fn it_is_small_enough_to_keep_one_for_every_key() {
        assert!(size_of::<Machine>() <= 480, "{}", size_of::<Machine>());
        assert_eq!(size_of::<Ticket>(), 8);
    }

    #[test]
    fn failures_in_a_row_open_it() {
        for (calls, state) in [
            ("FFSFF", Closed),
            ("FFSFFF", Open),
            ("FFPFF", Closed),
            ("FFOF", Open),
            ("OOOOOO", Closed),
            ("FFOO", Closed),
            ("FFNAF", Open),
            ("FSFSFSFSFSFSFSFS", Closed),
        ] {
            assert_eq!(bench(plain()).calls(calls), state, "{calls}");
        }
    }

    #[test]
    fn requests_that_never_reached_the_server_open_it_only_without_an_allowance() {
        let by_rate = by_rate(0.5, 20, Window::Time(10 * S));
        for (how, allowance) in [
            (Unprocessed::ConnectionClosing, 100),
            (Unprocessed::StreamRefused, 10),
        ] {
            let mut bench = bench(by_rate);
            let unprocessed = Outcome::unprocessed(how);
            for _ in 0..allowance {
                let ticket = bench.ticket();
                assert_eq!(bench.settle(ticket, unprocessed), Closed);
            }
            assert_eq!(bench.machine.counts(bench.now), Counts::default());
            assert_eq!(bench.machine.grant(), None, "a success is to restore it");
            for _ in 0..19 {
                let ticket = bench.ticket();
                assert_eq!(bench.settle(ticket, unprocessed), Closed);
            }
            let ticket = bench.ticket();
            assert_eq!(bench.settle(ticket, unprocessed), Open);
            assert_eq!(bench.last, Some(Cause::FailureRate));
        }
    }

    #[test]
    fn good_results_restore_the_allowance_for_requests_that_never_reached_the_server() {
        let closing = Outcome::unprocessed(Unprocessed::ConnectionClosing);
        let mut bench = bench(by_rate(0.5, 20, Window::Time(10 * S)));
        for _ in 0..1000 {
            for outcome in [closing, closing, closing, closing, Outcome::SUCCESS] {
                let ticket = bench.ticket();
                assert_eq!(bench.settle(ticket, outcome), Closed);
            }
        }
        assert!(bench.machine.grant().is_some());
    }

    #[test]
    fn a_probe_that_never_reached_the_server_gives_its_place_back_while_the_allowance_lasts() {
        let mut bench = Bench::until_half_open(plain());
        for _ in 0..10 {
            let ticket = bench.ticket();
            let refused = Outcome::unprocessed(Unprocessed::StreamRefused);
            assert_eq!(bench.settle(ticket, refused), HalfOpen);
        }
        let ticket = bench.ticket();
        let refused = Outcome::unprocessed(Unprocessed::StreamRefused);
        assert_eq!(bench.settle(ticket, refused), Open);
    }

    #[test]
    fn a_rate_is_reached_by_exactly_its_fraction() {
        for percent in 1..100_u32 {
            let rate = f64::from(percent) / 100.0;
            let mut bench = bench(by_rate(rate, 100, Window::Calls(100)));
            for _ in 0..percent {
                assert_eq!(bench.calls("F"), Closed);
            }
            for _ in percent..99 {
                assert_eq!(bench.calls("S"), Closed);
            }
            assert_eq!(bench.calls("S"), Open, "{percent} %");
        }
    }

    #[test]
    fn progress_of_what_is_no_probe_of_this_time_changes_nothing() {
        let mut bench = Bench::until_half_open(plain());
        let old = bench.ticket();
        bench.machine.reset();
        let call = bench.ticket();
        for ticket in [old, call, Ticket::IGNORED] {
            assert!(bench.progress(ticket));
            bench.wait(60 * S);
            assert!(bench.progress(ticket));
        }
        assert_eq!(bench.state(), Closed);
    }

    #[test]
    fn a_closed_circuit_remembers_what_would_open_it() {
        let quiet = by_rate(0.5, 4, Window::Time(10 * S));
        let slow = quiet.slow_rate(Some(0.5)).slow_call(S);
        for (config, calls, remembers) in [
            (quiet, "", false),
            (quiet, "SSPN", false),
            (quiet, "F", true),
            // Its run is over: only the window knows of it.
            (quiet, "FS", true),
            (quiet, "O", true),
            (quiet, "a", true),
            (quiet, "A", true),
            (quiet, "aS", false),
            (slow, "S", false),
        ] {
            let mut bench = bench(config);
            bench.calls(calls);
            let now = bench.now;
            assert_eq!(bench.machine.remembers(now), remembers, "{calls}");
        }
        let mut bench = bench(slow);
        let ticket = bench.ticket();
        bench.settle_slow(ticket, Outcome::SUCCESS, 2 * S);
        assert!(bench.machine.remembers(bench.now));
        assert!(!bench.machine.remembers(bench.now.after(10 * S)));
    }

    #[test]
    fn calls_are_timed_only_for_the_slow_rule() {
        let slow = plain().slow_call(3 * S);
        assert_eq!(bench(slow).machine.slow_call(), None);
        let slow = slow.slow_rate(Some(0.5));
        assert_eq!(bench(slow).machine.slow_call(), Some(3 * S));
    }

    #[test]
    fn a_run_of_failures_is_remembered_beyond_the_window() {
        let window = plain().window(Window::Time(10 * S));
        for config in [window, plain().failure_rate(None)] {
            let mut bench = bench(config);
            bench.calls("F");
            bench.wait(3600 * S);
            assert!(bench.machine.remembers(bench.now));
            bench.calls("S");
            bench.wait(3600 * S);
            assert!(!bench.machine.remembers(bench.now));
        }
    }

    #[test]
    fn a_circuit_that_ramps_up_is_remembered() {
        let mut bench = Bench::until_half_open(plain().ramp_up(10 * S));
        assert_eq!(bench.calls("SSS"), Closed);
        assert!(bench.machine.remembers(bench.now));
        bench.wait(10 * S);
        bench.calls("S");
        assert!(!bench.machine.remembers(bench.now));
    }

    #[test]
    fn the_grant_ends_where_a_success_could_change_more_than_the_counts() {
        let grant = |bench: &Bench| bench.machine.grant().map(Moment::as_nanos);
        let mut timed = bench(by_rate(0.5, 4, Window::Time(10 * S)));
        timed.wait(1500 * MS).calls("S");
        assert_eq!(grant(&timed), Some(2_000_000_000));
        timed.calls("F");
        assert_eq!(grant(&timed), Some(2_000_000_000), "1 of at least 4");
        timed.calls("F");
        assert_eq!(
            grant(&timed),
            None,
            "one success more would complete 2 of 4"
        );
        timed.calls("N");
        assert_eq!(grant(&timed), None);
        assert_eq!(timed.calls("S"), Open);
        assert_eq!(grant(&timed), None);

        let mut counted = bench(by_rate(0.5, 4, Window::Calls(4)));
        assert_eq!(counted.machine.grant(), Some(Moment::FAR));
        counted.calls("SSSF");
        counted.machine.successes(3);
        assert_eq!(counted.machine.counts(counted.now).failed, 1);
        counted.machine.successes(1);
        assert_eq!(counted.machine.counts(counted.now).failed, 0);

        let mut in_a_row = bench(plain().failure_rate(None));
        in_a_row.calls("FF");
        assert_eq!(in_a_row.machine.grant(), Some(Moment::FAR));
        in_a_row.machine.successes(1);
        assert_eq!(in_a_row.calls("FF"), Closed);
        in_a_row.machine.successes(0);
        assert_eq!(in_a_row.calls("F"), Open);
    }

    #[test]
    fn epochs_wrap_within_their_bits() {
        let last = Epoch::from_bits(u32::MAX);
        assert_eq!(last.bits(), u32::MAX >> 1);
        assert_eq!(last.next(), Epoch::FIRST);
        assert_ne!(Ticket::IGNORED, Ticket::call(last));
    }

    #[test]
    fn the_end_of_time_is_a_time_like_any_other() {
        let mut bench = bench(plain().min_calls(1).window(Window::Time(3600 * S)));
        bench.now = Moment::FAR;
        bench.calls("SSFF");
        bench.calls("F");
        assert_eq!(bench.machine.refused_until(), Some(Moment::FAR));
        bench.now = Moment::START;
        assert_eq!(bench.refusal().0, Reason::CircuitOpen);
        bench.now = Moment::FAR;
        let probes = [bench.ticket(), bench.ticket()];
        bench.now = Moment::START;
        // The first was lost at once: its lease cannot end later than time does.
        bench.settle(probes[0], Outcome::TRANSIENT);
        assert!(bench.progress(probes[1]) || bench.state() == HalfOpen);
        bench.abandon(probes[1]);
        assert_eq!(bench.calls("SSS"), Closed);
    }
}

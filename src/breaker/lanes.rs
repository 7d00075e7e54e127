//! The machine behind a lock, and the way round the lock for calls of a healthy service.
//!
//! Each core has a lane of its own. While the circuit is closed, the lane's word says so: admission reads it, and a success
//! under the machine's *licence* only counts it up. Everything else takes the lock, takes the lanes' counts in first and
//! then asks the machine, so each verdict is the one the plain machine would have given.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::config::BreakerConfig;
use super::machine::Machine;
use super::ticket::{Epoch, Moves};
use crate::chance::{Draw, draw};
use crate::clock::{Moment, Now, nanos};
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::{BreakerState, Event, Source, emit};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// One core's own way to a circuit.
pub(super) struct Lane {
    /// The tag, the `ASK` bit, and below them how many successes were counted here since the last fold.
    word: AtomicU64,
    /// Until when a success only counts, in nanoseconds; `u64::MAX`: for ever. Written under the lock, before the word.
    until: AtomicU64,
    pub(super) shared: Arc<Shared>,
}

/// The upper half of a lane's word, its tag: the epoch and one bit for the licence. Without that bit nothing goes past the
/// lock.
const TAG: u64 = !0 << 32;
const LICENSED: u64 = 1 << 32;
/// Admission takes more than a look at the lane: a rule asks how long calls take, or calls are let back in step by step.
const ASK: u64 = 1 << 31;
const COUNT: u64 = ASK - 1;

const fn licensed(epoch: Epoch) -> u64 {
    (epoch.bits() as u64) << 33 | LICENSED
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the bits above the shift are wanted, and no epoch has more"
)]
const fn epoch(word: u64, shift: u32) -> Epoch {
    Epoch::from_bits((word >> shift) as u32)
}

impl Lane {
    /// The epoch in which a call is admitted, if that takes neither clock nor lock.
    #[inline]
    pub(super) fn admits(&self) -> Option<Epoch> {
        let word = self.word.load(Ordering::Acquire);
        (word & (LICENSED | ASK) == LICENSED).then(|| epoch(word, 33))
    }

    /// Counts a success past the lock, if the licence of this epoch allows it now.
    #[inline]
    pub(super) fn count(&self, epoch: Epoch, now: &Now) -> bool {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & TAG != licensed(epoch) || word & COUNT == COUNT {
                return false;
            }
            let until = self.until.load(Ordering::Acquire);
            if until != u64::MAX && now.moment().as_nanos() >= until {
                return false;
            }
            if self
                .word
                .compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }
}

/// What all handles and permits of a circuit have in common.
pub(super) struct Shared {
    pub(super) source: Source,
    /// How the next call is admitted: [`Mode`], written under the lock only.
    mode: AtomicU64,
    /// Until when an open circuit certainly refuses, in nanoseconds; written under the lock only.
    refused_until: AtomicU64,
    /// The slow-call limit in nanoseconds, `u64::MAX` if there is none.
    slow_call: AtomicU64,
    locked: Mutex<Locked>,
    pub(super) moved: Notify,
}

pub(super) struct Locked {
    pub(super) machine: Machine,
    pub(super) dry_run: bool,
    lanes: Vec<Weak<Lane>>,
}

/// What the mode word says: in the lowest two bits how a call is admitted, above them, while closed, the epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Ask the machine.
    Ask,
    /// Admit, in this epoch.
    Closed(Epoch),
    /// Admit, and ignore the result.
    Disabled,
    /// Refuse until [`Shared::refused_until`], then ask.
    Open,
}

impl Mode {
    fn pack(self) -> u64 {
        match self {
            Self::Ask => 0,
            Self::Closed(epoch) => 1 | u64::from(epoch.bits()) << 32,
            Self::Disabled => 2,
            Self::Open => 3,
        }
    }

    fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Ask,
            1 => Self::Closed(epoch(word, 32)),
            2 => Self::Disabled,
            _ => Self::Open,
        }
    }
}

impl Shared {
    pub(super) fn new(source: Source, config: BreakerConfig) -> Result<Arc<Self>, ConfigError> {
        let shared = Self {
            source,
            mode: AtomicU64::new(0),
            refused_until: AtomicU64::new(0),
            slow_call: AtomicU64::new(0),
            locked: Mutex::new(Locked {
                dry_run: config.dry_run,
                machine: Machine::new(config)?,
                lanes: Vec::new(),
            }),
            moved: Notify::new(),
        };
        shared.publish(&shared.locked.lock());
        Ok(Arc::new(shared))
    }

    #[inline]
    pub(super) fn mode(&self) -> Mode {
        Mode::unpack(self.mode.load(Ordering::Acquire))
    }

    /// Until when an open circuit certainly refuses.
    #[inline]
    pub(super) fn refused_until(&self) -> Moment {
        Moment::from_nanos(self.refused_until.load(Ordering::Acquire))
    }

    /// The slow-call limit in nanoseconds, `u64::MAX` if there is none.
    #[inline]
    pub(super) fn slow_call(&self) -> u64 {
        self.slow_call.load(Ordering::Relaxed)
    }

    /// A further lane. Its counts are lost if it is dropped before the next fold.
    pub(super) fn new_lane(self: &Arc<Self>) -> Arc<Lane> {
        let mut locked = self.locked.lock();
        let lane = Arc::new(Lane {
            word: AtomicU64::new(locked.word()),
            until: AtomicU64::new(locked.until()),
            shared: Arc::clone(self),
        });
        locked.lanes.retain(|lane| lane.strong_count() > 0);
        locked.lanes.reserve_exact(1);
        locked.lanes.push(Arc::downgrade(&lane));
        lane
    }

    /// Looks at the machine, without what the lanes have counted since it was last asked.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Locked) -> R) -> R {
        look(&self.locked.lock())
    }

    /// Whether a permit of this circuit is about.
    pub(super) fn has_calls(&self) -> bool {
        self.look(|locked| locked.lanes.iter().any(|lane| lane.strong_count() > 1))
    }

    /// Takes the lock and the lanes' counts, lets the machine act, and publishes what calls may do without the lock.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut Locked, Draw) -> (R, Moves)) -> R {
        let draw = draw();
        let mut locked = self.locked.lock();
        locked.fold();
        let (answer, moves) = act(&mut locked, draw);
        self.publish(&locked);
        let dry_run = locked.dry_run;
        drop(locked);
        if !moves.is_empty() {
            // First, so that an observer that panics keeps nobody waiting.
            self.moved.notify_waiters();
        }
        for (sequence, moved) in moves {
            emit(&Event::BreakerMoved {
                source: &self.source,
                sequence,
                moved,
                dry_run,
            });
        }
        answer
    }

    /// Under the lock. The order does not matter to those who read without it: each reads a word that was true at some
    /// moment during its call.
    fn publish(&self, locked: &Locked) {
        let machine = &locked.machine;
        let mode = match machine.last_state() {
            BreakerState::Disabled => Mode::Disabled,
            _ if machine.admits_without_asking() => Mode::Closed(machine.epoch()),
            BreakerState::Open if !locked.dry_run => Mode::Open,
            _ => Mode::Ask,
        };
        let slow = machine.slow_call().map_or(u64::MAX, nanos);
        self.slow_call.store(slow, Ordering::Relaxed);
        // Only of a circuit that is open: whoever read that mode a moment ago must not find the end of another state.
        let until = machine
            .refused_until()
            .filter(|_| mode == Mode::Open)
            .unwrap_or(Moment::START);
        self.refused_until
            .store(until.as_nanos(), Ordering::Release);
        self.mode.store(mode.pack(), Ordering::Release);
        let (word, until) = (locked.word(), locked.until());
        for lane in locked.lanes.iter().filter_map(Weak::upgrade) {
            lane.until.store(until, Ordering::Release);
            lane.word.store(word, Ordering::Release);
        }
    }

    pub(super) fn rejected(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        Rejected::new(reason, Arc::clone(self.source.name())).retry_after(retry_after)
    }

    pub(super) fn report(&self, rejected: &Rejected) {
        emit(&Event::Rejected {
            source: &self.source,
            rejected,
        });
    }
}

impl Locked {
    /// Takes the lanes' counts in. Their licence ends here: a success that comes while the machine thinks waits for the
    /// lock.
    fn fold(&mut self) {
        let mut count = 0;
        self.lanes.retain(|lane| match lane.upgrade() {
            Some(lane) => {
                count += lane.word.swap(0, Ordering::AcqRel) & COUNT;
                true
            }
            None => false,
        });
        self.machine.successes(count);
    }

    /// The word of a lane that has counted nothing.
    fn word(&self) -> u64 {
        let machine = &self.machine;
        let ask = machine.slow_call().is_some() || !machine.admits_without_asking();
        match machine.licence() {
            Some(_) => licensed(machine.epoch()) | if ask { ASK } else { 0 },
            None => 0,
        }
    }

    fn until(&self) -> u64 {
        self.machine.licence().unwrap_or(Moment::START).as_nanos()
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::super::Breaker;
    use super::*;

    #[test]
    fn only_an_open_circuit_says_until_when_it_refuses() {
        // The mode is read apart from it: who still reads "open" must not find another state's end.
        let breaker = Breaker::new("until", BreakerConfig::default()).expect("a configuration");
        for by_hand in [Breaker::isolate, Breaker::disable, Breaker::reset] {
            by_hand(&breaker);
            assert_eq!(breaker.shared().refused_until(), Moment::START);
        }
        breaker.force_open(Duration::MAX);
        assert_eq!(breaker.shared().refused_until(), Moment::START);
    }
}

//! One core's way round the lock, and what it is told.

use std::sync::Arc;

use super::machine::Machine;
use super::shards::Inner;
use super::ticket::Epoch;
use crate::clock::{Moment, Now, nanos};
use crate::event::BreakerState;
use crate::sync::{AtomicU64, Ordering};

/// One core's own way to a circuit.
pub(super) struct Shard {
    /// The tag, the `ASK` bit, and below them how many successes were counted here since the last fold.
    pub(super) word: AtomicU64,
    /// Until when a success only counts, in nanoseconds; `u64::MAX`: for ever. Written under the lock, before the word.
    pub(super) until: AtomicU64,
    pub(super) shared: Arc<Inner>,
}

/// The upper half of a lane's word, its tag: the epoch and one bit for the licence. Without that bit nothing goes past the
/// lock.
const TAG: u64 = !0 << 32;
const GRANTED: u64 = 1 << 32;
/// Admission takes more than a look at the lane: a rule asks how long calls take, or calls are let back in step by step.
const ASK: u64 = 1 << 31;
pub(super) const COUNT: u64 = ASK - 1;

const fn granted(epoch: Epoch) -> u64 {
    (epoch.bits() as u64) << 33 | GRANTED
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the bits above the shift are wanted, and no epoch has more"
)]
pub(super) const fn epoch(word: u64, shift: u32) -> Epoch {
    Epoch::from_bits((word >> shift) as u32)
}

impl Shard {
    /// The epoch in which a call is admitted, if that takes neither clock nor lock.
    #[inline]
    pub(super) fn admits(&self) -> Option<Epoch> {
        let word = self.word.load(Ordering::Acquire);
        (word & (GRANTED | ASK) == GRANTED).then(|| epoch(word, 33))
    }

    /// Counts a success past the lock, if the licence of this epoch allows it now.
    #[inline]
    pub(super) fn count(&self, epoch: Epoch, now: &Now) -> bool {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & TAG != granted(epoch) || word & COUNT == COUNT {
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

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

/// What is told to those who go round the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) mode: Mode,
    pub(super) refused_until: u64,
    pub(super) slow_call: u64,
    pub(super) word: u64,
    pub(super) until: u64,
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
    /// Refuse until `refused_until`, then ask.
    Open,
}

impl Mode {
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Ask => 0,
            Self::Closed(epoch) => 1 | u64::from(epoch.bits()) << 32,
            Self::Disabled => 2,
            Self::Open => 3,
        }
    }

    pub(super) fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Ask,
            1 => Self::Closed(epoch(word, 32)),
            2 => Self::Disabled,
            _ => Self::Open,
        }
    }
}

impl Published {
    pub(super) fn of(machine: &Machine, dry_run: bool) -> Self {
        let mode = match machine.last_state() {
            BreakerState::Disabled => Mode::Disabled,
            _ if machine.admits_without_asking() => Mode::Closed(machine.epoch()),
            BreakerState::Open if !dry_run => Mode::Open,
            _ => Mode::Ask,
        };
        let ask = machine.slow_call().is_some() || !machine.admits_without_asking();
        let grant = machine.grant();
        Self {
            mode,
            // Only of a circuit that is open: whoever read that mode a moment ago must not find the end of another state.
            refused_until: machine
                .refused_until()
                .filter(|_| mode == Mode::Open)
                .unwrap_or(Moment::START)
                .as_nanos(),
            slow_call: machine.slow_call().map_or(u64::MAX, nanos),
            word: match grant {
                Some(_) => granted(machine.epoch()) | if ask { ASK } else { 0 },
                None => 0,
            },
            until: grant.unwrap_or(Moment::START).as_nanos(),
        }
    }
}

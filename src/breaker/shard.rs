//! Per-thread fast path that avoids the lock, and the state published to it.

use std::sync::Arc;

use super::machine::Machine;
use super::shards::Inner;
use super::ticket::Epoch;
use crate::clock::{Moment, Now, nanos};
use crate::event::BreakerState;
use crate::sync::{AtomicU64, Ordering};

/// The fast path of one core.
pub(super) struct Shard {
    /// The tag, the [`DECIDE`] bit, and below them how many successes were counted here since the last fold.
    pub(super) word: AtomicU64,
    /// When the grant ends, in nanoseconds; `u64::MAX`: never. Written under the lock, before the word.
    pub(super) until: AtomicU64,
    pub(super) shared: Arc<Inner>,
}

/// The upper half of a shard's word, its tag: the epoch and one bit for the grant. Without that bit every call takes the
/// lock.
const TAG: u64 = !0 << 32;
const GRANTED: u64 = 1 << 32;
/// Set if admission needs more than the shard: a rule measures how long calls take, or a ramp-up admits a share of them.
const DECIDE: u64 = 1 << 31;
pub(super) const COUNT: u64 = DECIDE - 1;

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
        (word & (GRANTED | DECIDE) == GRANTED).then(|| epoch(word, 33))
    }

    /// Counts a success without the lock, if the grant of this epoch allows it now.
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

/// The state published to calls that avoid the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) mode: Mode,
    pub(super) refused_until: u64,
    pub(super) slow_call: u64,
    pub(super) word: u64,
    pub(super) until: u64,
}

/// How a call is admitted: the lowest two bits of the mode word. While closed, the epoch is above them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The machine decides, under the lock.
    Decide,
    /// Admit, in this epoch.
    Closed(Epoch),
    /// Admit, and ignore the result.
    Disabled,
    /// Reject until `refused_until`, then let the machine decide.
    Open,
}

impl Mode {
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Decide => 0,
            Self::Closed(epoch) => 1 | u64::from(epoch.bits()) << 32,
            Self::Disabled => 2,
            Self::Open => 3,
        }
    }

    pub(super) fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Decide,
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
            _ if machine.admits_all() => Mode::Closed(machine.epoch()),
            BreakerState::Open if !dry_run => Mode::Open,
            _ => Mode::Decide,
        };
        let decide = machine.slow_call().is_some() || !machine.admits_all();
        let grant = machine.grant();
        Self {
            mode,
            // Only for an open circuit: a call that read that mode a moment ago must not find the end of another state.
            refused_until: machine
                .refused_until()
                .filter(|_| mode == Mode::Open)
                .unwrap_or(Moment::START)
                .as_nanos(),
            slow_call: machine.slow_call().map_or(u64::MAX, nanos),
            word: match grant {
                Some(_) => granted(machine.epoch()) | if decide { DECIDE } else { 0 },
                None => 0,
            },
            until: grant.unwrap_or(Moment::START).as_nanos(),
        }
    }
}

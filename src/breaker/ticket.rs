//! Tickets, verdicts and state transitions of a machine.

use std::time::Duration;

use crate::error::Reason;
use crate::event::StateTransition;

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
    use super::*;

    #[test]
    fn a_ticket_is_restored_from_its_bits() {
        let later = Epoch::from_bits(0x7fff_fff0);
        let mut numbers = vec![];
        for epoch in [Epoch::FIRST, Epoch::FIRST.next(), later] {
            for ticket in [
                Ticket::call(epoch),
                Ticket::probe(epoch, 0),
                Ticket::probe(epoch, 1),
                Ticket::probe(epoch, u16::MAX),
            ] {
                assert_eq!(Ticket::from_bits(ticket.bits()), ticket);
                numbers.push(ticket.bits());
            }
        }
        numbers.push(Ticket::IGNORED.bits());
        assert_eq!(Ticket::from_bits(Ticket::IGNORED.bits()), Ticket::IGNORED);
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "no two tickets have the same number");
    }
}

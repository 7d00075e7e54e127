//! How many circuits of a keyed breaker are in which state.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::transition::BreakerState;

/// How many circuits of a keyed breaker are in which state. Reading it returns the counts of now, not of the event that
/// carries it.
#[derive(Debug, Default)]
pub struct CircuitCounts([AtomicI64; BreakerState::ALL.len()]);

impl CircuitCounts {
    /// How many circuits are in this state. An open circuit counts as open until the next call to it.
    pub fn get(&self, state: BreakerState) -> u64 {
        // A transition may be counted before the one that led to it.
        let count = self.0[state as usize].load(Ordering::Acquire);
        u64::try_from(count).unwrap_or(0)
    }

    pub(crate) fn add(&self, state: BreakerState) {
        self.0[state as usize].fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, state: BreakerState) {
        self.0[state as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_counted_late_never_shows_a_negative_count() {
        let counts = CircuitCounts::default();
        counts.remove(BreakerState::Open);
        assert_eq!(counts.get(BreakerState::Open), 0);
        counts.add(BreakerState::Open);
        counts.add(BreakerState::Open);
        assert_eq!(counts.get(BreakerState::Open), 1);
    }
}

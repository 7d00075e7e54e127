//! The moves of a breaker, to wait for.

use std::fmt;
use std::sync::Arc;

use super::lanes::Shared;
use crate::event::BreakerState;

/// The moves of a breaker, one after the other: [`Breaker::changes`](super::Breaker::changes).
#[derive(Clone)]
pub struct Changes {
    shared: Arc<Shared>,
    seen: u64,
}

impl Changes {
    /// From now on.
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        let seen = shared.look(|locked| locked.machine.sequence);
        Self { shared, seen }
    }

    /// Waits until the circuit has moved, and says where it is then. A move before this call, but after the last one, counts;
    /// of several moves the newest state is told.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next one sees the same move.
    pub async fn changed(&mut self) -> BreakerState {
        loop {
            // Registered before the look, so that a move between the two is not missed.
            let moved = self.shared.moved.notified();
            let (sequence, state) = self
                .shared
                .look(|locked| (locked.machine.sequence, locked.machine.last_state()));
            if sequence != self.seen {
                self.seen = sequence;
                return state;
            }
            moved.await;
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("breaker", self.shared.source.name())
            .finish_non_exhaustive()
    }
}

//! The moves of a breaker, to wait for.

use std::error::Error;
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

    /// Waits for the next state transition, and returns the state after it. A transition before this call, but after the
    /// last one, counts; of several transitions only the newest state is returned. As with tokio's
    /// [`watch`](tokio::sync::watch::Receiver::changed), a transition that was not seen yet is returned even if the breaker
    /// is gone.
    ///
    /// # Errors
    ///
    /// [`BreakerDropped`]: all handles of the breaker were dropped, so no call can move it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next one sees the same move.
    pub async fn changed(&mut self) -> Result<BreakerState, BreakerDropped> {
        loop {
            // Registered before the look, so that a move between the two is not missed.
            let moved = self.shared.moved.notified();
            let (sequence, state, closed) = self.shared.look(|locked| {
                let machine = &locked.machine;
                (machine.sequence, machine.last_state(), locked.closed)
            });
            if sequence != self.seen {
                self.seen = sequence;
                return Ok(state);
            }
            if closed {
                return Err(BreakerDropped);
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

/// All handles of the breaker were dropped: [`Changes::changed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerDropped;

impl fmt::Display for BreakerDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all handles of the circuit breaker were dropped")
    }
}

impl Error for BreakerDropped {}

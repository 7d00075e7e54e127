//! What a breaker shows, and what is done to it by hand.

use std::sync::Arc;
use std::time::Duration;

use super::Breaker;
use super::changes::Changes;
use super::config::BreakerConfig;
use super::machine::Machine;
use super::ticket::Moves;
use super::view::Snapshot;
use crate::clock::{Moment, Now};
use crate::error::ConfigError;
use crate::event::BreakerState;

impl Breaker {
    /// What a call would find now. Asking does not move the circuit.
    pub fn state(&self) -> BreakerState {
        let now = Now::unread().moment();
        self.shared().look(|locked| locked.machine.state(now))
    }

    /// What it has counted, and where it stands.
    pub fn snapshot(&self) -> Snapshot {
        let now = Now::unread().moment();
        self.shared()
            .act(|locked, _| (locked.machine.snapshot(now), Moves::default()))
    }

    /// The state from now on, to wait for its next change.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::ConfigError> {
    /// use buttress::breaker::{Breaker, BreakerConfig, BreakerState};
    ///
    /// let breaker = Breaker::new("payments", BreakerConfig::default())?;
    /// let mut changes = breaker.changes();
    /// breaker.isolate();
    /// assert_eq!(changes.changed().await, BreakerState::Isolated);
    /// # Ok(()) }
    /// ```
    pub fn changes(&self) -> Changes {
        Changes::of(Arc::clone(self.shared()))
    }

    /// Opens the circuit by hand for this time, whatever the results say; then it probes.
    pub fn force_open(&self, time: Duration) {
        self.by_hand(|machine, now| machine.force_open(time, now));
    }

    /// Opens the circuit by hand until [`release`](Self::release).
    pub fn isolate(&self) {
        self.by_hand(|machine, _| machine.isolate());
    }

    /// Ends what [`force_open`](Self::force_open), [`isolate`](Self::isolate) or [`disable`](Self::disable) began: the
    /// circuit is closed and has forgotten everything.
    pub fn release(&self) {
        self.by_hand(|machine, _| {
            let released = machine.release();
            if released.is_empty() {
                machine.enable()
            } else {
                released
            }
        });
    }

    /// Switches the breaker off: every call passes and nothing is counted, until [`release`](Self::release).
    pub fn disable(&self) {
        self.by_hand(|machine, _| machine.disable());
    }

    /// Closes the circuit, with nothing counted.
    pub fn reset(&self) {
        self.by_hand(|machine, _| machine.reset());
    }

    /// Takes new settings over while running: what was counted, the state and its remaining wait are kept; changing
    /// between a window over time and one over calls starts the window anew.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work; nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        let now = Now::unread().moment();
        let dry_run = config.dry_run;
        self.shared()
            .act(|locked, _| match locked.machine.reconfigure(config, now) {
                Ok(moves) => {
                    locked.dry_run = dry_run;
                    (Ok(()), moves)
                }
                Err(error) => (Err(error), Moves::default()),
            })
    }

    fn by_hand(&self, act: impl FnOnce(&mut Machine, Moment) -> Moves) {
        let now = Now::unread().moment();
        self.shared()
            .act(|locked, _| ((), act(&mut locked.machine, now)));
    }
}

//! What a person can do to a breaker while it runs.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::Breaker;
use super::config::BreakerConfig;
use super::machine::Machine;
use super::ticket::Transitions;
use crate::clock::{Moment, Now};
use crate::error::ConfigError;
use crate::event::Observe;
use crate::gate::Keyed;

impl Breaker {
    /// Opens the circuit by hand for this time, whatever the results say; then it probes.
    pub fn force_open(&self, time: Duration) {
        self.manual(|machine, now| machine.force_open(time, now));
    }

    /// Opens the circuit by hand until [`release`](Self::release).
    pub fn isolate(&self) {
        self.manual(|machine, _| machine.isolate());
    }

    /// Ends what [`force_open`](Self::force_open), [`isolate`](Self::isolate) or [`disable`](Self::disable) began: the
    /// circuit is closed and has forgotten everything.
    pub fn release(&self) {
        self.manual(|machine, _| machine.release());
    }

    /// Switches the breaker off: every call passes and nothing is counted, until [`release`](Self::release).
    pub fn disable(&self) {
        self.manual(|machine, _| machine.disable());
    }

    /// Closes the circuit, with nothing counted.
    pub fn reset(&self) {
        self.manual(|machine, _| machine.reset());
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
                Ok(transitions) => {
                    locked.dry_run = dry_run;
                    (Ok(()), transitions)
                }
                Err(error) => (Err(error), Transitions::default()),
            })
    }

    fn manual(&self, act: impl FnOnce(&mut Machine, Moment) -> Transitions) {
        let now = Now::unread().moment();
        self.shared()
            .act(|locked, _| ((), act(&mut locked.machine, now)));
    }
}

impl<K, B> Keyed<K, B, Breaker>
where
    K: Hash + Eq + Clone + fmt::Display,
{
    /// Takes new settings over while running, for every key there is: see [`Breaker::reconfigure`]. Those of
    /// [`Breaker::keyed`] hold for every key to come, too.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work; nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        self.change_each(|breaker| breaker.reconfigure(config))
    }

    /// Sends the events of the circuits of all keys to `observer` too, for as long as this handle lives. Of a handle that
    /// was made with [`Keyed::new`], attach it to each breaker instead: see [`Breaker::observe_with`].
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.observe_all(Arc::new(observer));
    }
}

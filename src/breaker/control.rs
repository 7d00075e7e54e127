//! Manual control and new settings while a breaker runs.

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
    /// Opens the circuit for this time, whatever the results are. Then it probes.
    pub fn force_open(&self, time: Duration) {
        self.manual(|machine, now| machine.force_open(time, now));
    }

    /// Opens the circuit until [`release`](Self::release).
    pub fn isolate(&self) {
        self.manual(|machine, _| machine.isolate());
    }

    /// Ends [`force_open`](Self::force_open), [`isolate`](Self::isolate) or [`disable`](Self::disable): the circuit is closed,
    /// with nothing counted.
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

    /// Changes the settings while running. The counts, the state and its remaining wait stay; a change between a window over
    /// time and one over calls empties the window.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        let now = Now::unread().moment();
        let dry_run = config.dry_run;
        self.shared()
            .with_state_mut(|locked, _| match locked.machine.reconfigure(config, now) {
                Ok(transitions) => {
                    locked.dry_run = dry_run;
                    (Ok(()), transitions)
                }
                Err(error) => (Err(error), Transitions::default()),
            })
    }

    fn manual(&self, transition: impl FnOnce(&mut Machine, Moment) -> Transitions) {
        let now = Now::unread().moment();
        self.shared()
            .with_state_mut(|locked, _| ((), transition(&mut locked.machine, now)));
    }
}

impl<K, B> Keyed<K, B, Breaker>
where
    K: Hash + Eq + Clone + fmt::Display,
{
    /// Changes the settings of all keys while running: see [`Breaker::reconfigure`]. On a handle of [`Breaker::keyed`], new
    /// keys get them too.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        self.change_each(|breaker| breaker.reconfigure(config))
    }

    /// Sends the events of the circuits of all keys to `observer` too, for as long as this handle lives. For a handle of
    /// [`Keyed::new`], attach it to each breaker instead: see [`Breaker::observe_with`].
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.observe_all(Arc::new(observer));
    }
}

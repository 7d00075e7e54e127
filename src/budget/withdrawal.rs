//! The guards that retries and calls hold while they are under way.

use std::fmt;
use std::sync::Arc;

use super::machine::Taken;
use super::policy::Inner;
use crate::sync::Ordering;

/// A retry that is paid for. Hold it until the retry has ended.
///
/// Dropped before it [`started`](Self::started), it gives back what it took.
#[must_use = "dropped before the retry started, it gives back what it took"]
pub struct Withdrawal {
    shared: Arc<Inner>,
    taken: Taken,
    /// Whether the retry is counted as under way.
    counted: bool,
    started: bool,
}

impl Withdrawal {
    pub(super) const fn new(shared: Arc<Inner>, taken: Taken, counted: bool) -> Self {
        Self {
            shared,
            taken,
            counted,
            started: false,
        }
    }

    /// Marks the retry as started: its tokens are spent.
    pub const fn started(&mut self) {
        self.started = true;
    }

    /// Marks the retry as not started after all: its tokens are given back.
    pub(crate) const fn refused(&mut self) {
        self.started = false;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let shared = &*self.shared;
        if self.started && !self.counted {
            return;
        }
        {
            let mut locked = shared.locked.lock();
            let rules = locked.rules;
            if self.counted {
                locked.machine.end();
            }
            if !self.started {
                locked.machine.refund(&rules, &self.taken);
                let balance = shared.balance.load(Ordering::Relaxed);
                shared.change(balance, |balance| (rules.refund(balance, &self.taken), ()));
            }
        }
        if !self.started {
            shared.report();
        }
    }
}

impl fmt::Debug for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withdrawal")
            .field("budget", self.shared.source.name())
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// A call that is under way, until this is dropped.
#[must_use = "the call is under way until this is dropped"]
pub struct CallUnderWay {
    shared: Arc<Inner>,
}

impl CallUnderWay {
    /// Of a call that was counted.
    pub(super) const fn new(shared: Arc<Inner>) -> Self {
        Self { shared }
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for CallUnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallUnderWay").finish_non_exhaustive()
    }
}

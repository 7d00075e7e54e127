//! The settings and the state that a call shares with its retry layer.

use std::fmt;
use std::sync::Arc;

use super::config::RetryConfig;
use crate::allowance::SharedAllowance;
use crate::budget::RetryBudget;
use crate::event::Source;
use crate::outcome::Unprocessed;
use crate::sync::Mutex;

/// Everything a call needs from its layer, behind one reference count.
#[derive(Clone, Debug)]
pub(super) struct Inner<R, C, K, D> {
    pub(super) terms: Terms,
    pub(super) replay: R,
    pub(super) classify: C,
    pub(super) budgets: K,
    pub(super) discard: D,
}

/// The part that does not depend on the types of requests and results.
pub(super) struct Terms {
    /// Read only after an attempt has failed.
    pub(super) config: Arc<Mutex<RetryConfig>>,
    pub(super) budget: Option<RetryBudget>,
    /// For requests that never reached the server, if there is no budget, which has an allowance of its own.
    pub(super) allowance: Arc<SharedAllowance>,
    /// Whether calls are retried at all.
    pub(super) enabled: bool,
    pub(super) source: Source,
}

/// The terms of one call: those of its layer, and the budget that pays for it.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    terms: &'a Terms,
    pub(super) budget: Option<&'a RetryBudget>,
}

impl Terms {
    /// The terms of a call whose retries are paid from its `own` budget, or else from the layer's.
    #[inline]
    pub(super) fn rules<'a>(&'a self, own: Option<&'a RetryBudget>) -> Rules<'a> {
        Rules {
            terms: self,
            budget: own.or(self.budget.as_ref()),
        }
    }
}

impl<'a> Rules<'a> {
    /// The current settings.
    pub(super) fn config(&self) -> RetryConfig {
        *self.terms.config.lock()
    }

    pub(super) const fn source(&self) -> &'a Source {
        &self.terms.source
    }

    /// Records a call that succeeded.
    #[inline(always)]
    pub(super) fn deposit(&self) {
        match self.budget {
            Some(budget) => budget.deposit(),
            None => self.terms.allowance.restore(),
        }
    }

    /// Takes one unit of the allowance for a request that never reached the server; `false` if there is none left.
    pub(super) fn take_unprocessed(&self, how: Unprocessed) -> bool {
        match self.budget {
            Some(budget) => budget.take_unprocessed(how),
            None => self.terms.allowance.take(how),
        }
    }
}

/// A clone has the same settings, now and later.
impl Clone for Terms {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            budget: self.budget.clone(),
            allowance: Arc::clone(&self.allowance),
            enabled: self.enabled,
            source: self.source.fork(),
        }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("source", &self.source)
            .field("config", &*self.config.lock())
            .field("budget", &self.budget)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

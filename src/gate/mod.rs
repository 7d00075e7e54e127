//! Admit, call, settle: the one shape of breaker, bulkhead, rate limit, adaptive limit and load shedding, written once.
//!
//! A [`Policy`] says whether a call may pass and hands out a [`Permit`]; the [`Gate`] asks it, calls the inner service,
//! classifies the result and settles the permit. Everything asynchronous is here; a policy is plain, synchronous code.
//!
//! Write one for a rule of your own about which calls may pass now. Not for what waits, repeats or changes a call: that takes
//! a service of its own.
//!
//! ```text
//!            ┌──────────────────── Gate ────────────────────┐
//! request ──►│ admit ──► inner.call ──► classify ──► settle │──► result
//!            │   └─ refused: Rejected                       │
//!            └──────────────────────────────────────────────┘
//! ```
//!
//! # A gate of your own
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//!
//! use buttress::clock::Now;
//! use buttress::gate::{GateLayer, Permit, Policy};
//! use buttress::{ErrorIsTransient, Outcome, Reason, Rejected};
//!
//! /// Refuses every call while a switch is on.
//! #[derive(Clone, Default)]
//! struct Maintenance(Arc<AtomicBool>);
//!
//! impl<Req: ?Sized> Policy<Req> for Maintenance {
//!     type Permit = Passed;
//!
//!     fn admit(&self, _request: &Req, _now: &Now) -> Result<Passed, Rejected> {
//!         if self.0.load(Ordering::Relaxed) {
//!             return Err(Rejected::new(Reason::Policy("maintenance".into()), "orders"));
//!         }
//!         Ok(Passed)
//!     }
//! }
//!
//! struct Passed;
//!
//! impl Permit for Passed {
//!     fn settle(self, _outcome: Outcome, _now: &Now) {}
//! }
//!
//! let layer = GateLayer::new(Maintenance::default(), ErrorIsTransient);
//! # let _ = layer;
//! ```
//!
//! The example `own_gate` of this crate has one that counts, in front of an axum route. One policy per host, tenant or route,
//! with bounded memory: [`Keyed`].
//!
//! # Order
//!
//! A policy is asked in `call`, so its permit is held for as long as the call takes that is inside the gate: put a gate that
//! judges attempts inside the retry, one that limits callers outside. What it refuses is seen by all layers further out.
//!
//! # Errors
//!
//! The policy's refusals, as [`Rejected`]; those of [`Reason::Policy`](crate::Reason::Policy) say why in words of yours. The
//! inner service's own results pass unchanged, its errors of readiness too, uncounted.
//!
//! # Events
//!
//! None of the gate's own: the policy reports what it decides. A [`Keyed`] one reports
//! [`Event::KeyEvicted`](crate::event::Event::KeyEvicted) and [`Event::KeyOverflow`](crate::event::Event::KeyOverflow).
//!
//! # Cancel safety
//!
//! A permit is a value. A call that is dropped at any point drops its permit unsettled, which means *abandoned*; a call
//! that panics settles it as a failure, and the panic goes on.

mod entries;
mod eviction;
mod finish;
pub mod future;
mod insert;
mod key;
mod keyed;
mod layer;
mod service;

pub(crate) use self::eviction::Internal;
pub use self::eviction::{Evict, EvictionCost, KeyedConfig};
pub(crate) use self::finish::{AtResult, Finish};
pub use self::key::{KeyBy, by, by_str};
pub use self::keyed::Keyed;
pub use self::layer::GateLayer;
pub use self::service::Gate;

use std::time::Duration;

use crate::clock::Now;
use crate::error::Rejected;
use crate::outcome::Outcome;

/// Says whether a call may pass.
///
/// A policy is a handle: cloning it must give another handle to the same state, because a layer is applied more than
/// once (axum does so once a route, and once a request).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy for requests of the type `{Req}`",
    note = "settings become a handle first: `buttress::breaker::Breaker::new(name, config)?`",
    note = "a policy of your own implements `buttress::gate::Policy<Req>`"
)]
pub trait Policy<Req: ?Sized> {
    /// What an admitted call carries until it is settled.
    type Permit: Permit;

    /// Asked in `call`, with the request: the permit, or the refusal the caller gets.
    ///
    /// # Errors
    ///
    /// The refusal.
    fn admit(&self, request: &Req, now: &Now) -> Result<Self::Permit, Rejected>;

    /// Admits, if that takes neither a clock nor a lock and is certain. A [`Keyed`] policy asks this first, under a lock of
    /// its own.
    #[doc(hidden)]
    fn pass(&self, _request: &Req, _: Internal) -> Option<Self::Permit> {
        None
    }

    /// Asked before the inner service is polled ready: would *any* call be refused now? If so, the inner service is not
    /// polled and the next call gets this refusal, so that an open circuit never waits for a dead connection.
    fn refuse(&self, now: &Now) -> Option<Rejected> {
        let _ = now;
        None
    }

    /// A refusal of [`refuse`](Policy::refuse) was given to a call: the moment to report it.
    fn refused(&self, rejected: &Rejected) {
        let _ = rejected;
    }
}

/// A gate that may have been left out: `None` admits every call.
impl<Req: ?Sized, P: Policy<Req>> Policy<Req> for Option<P> {
    type Permit = Option<P::Permit>;

    fn admit(&self, request: &Req, now: &Now) -> Result<Self::Permit, Rejected> {
        self.as_ref()
            .map(|policy| policy.admit(request, now))
            .transpose()
    }

    fn refuse(&self, now: &Now) -> Option<Rejected> {
        self.as_ref().and_then(|policy| policy.refuse(now))
    }

    fn refused(&self, rejected: &Rejected) {
        if let Some(policy) = self {
            policy.refused(rejected);
        }
    }
}

impl<P: Permit> Permit for Option<P> {
    fn settle(self, outcome: Outcome, now: &Now) {
        if let Some(permit) = self {
            permit.settle(outcome, now);
        }
    }

    #[inline]
    fn pending(&mut self, now: &Now) {
        if let Some(permit) = self {
            permit.pending(now);
        }
    }

    #[inline]
    fn progress(&mut self, now: &Now) {
        if let Some(permit) = self {
            permit.progress(now);
        }
    }

    fn abandon(self, waited: Duration, now: &Now) {
        if let Some(permit) = self {
            permit.abandon(waited, now);
        }
    }
}

/// What an admitted call carries. Dropped unsettled, the call was abandoned: its caller left before there was a result.
pub trait Permit {
    /// The call came to this.
    fn settle(self, outcome: Outcome, now: &Now);

    /// The call was polled and is pending. Called at every such poll: a permit that measures how long its caller waits reads
    /// the clock at the first one, so that a call that is ready at once costs nothing.
    #[inline]
    fn pending(&mut self, now: &Now) {
        let _ = now;
    }

    /// Part of the response has arrived: its head, which is good but does not settle the call yet, or a frame of its body.
    #[inline]
    fn progress(&mut self, now: &Now) {
        let _ = now;
    }

    /// The caller left while it was waiting for the next frame of the response's body, after it had `waited` this long for
    /// that frame. The same as dropping the permit, unless the permit distinguishes callers by their patience.
    fn abandon(self, waited: Duration, now: &Now)
    where
        Self: Sized,
    {
        let _ = (waited, now);
        drop(self);
    }
}

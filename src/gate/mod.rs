//! Admit, call, settle: the service that breakers, bulkheads, rate limits and load shedding have in common.
//!
//! A [`Policy`] admits or rejects a call and hands out a [`Permit`]. The [`Gate`] consults the policy, calls the inner service,
//! classifies the result and settles the permit. Everything asynchronous is here; a policy is plain, synchronous code.
//!
//! Write a policy for a rule of your own about which calls may pass now. A pattern that delays, replays or changes a call needs
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
//! A policy admits in `call`, and its permit is held until the inner call has ended. Put a gate that judges attempts inside the
//! retry layer, and one that limits callers outside. All layers further out see its rejections.
//!
//! # Errors
//!
//! The policy's rejections, as [`Rejected`]. [`Reason::Policy`](crate::Reason::Policy) carries a reason of your own. The inner
//! service's results pass unchanged. Its errors from `poll_ready` pass too and are not counted.
//!
//! # Events
//!
//! The gate has none of its own: the policy reports its decisions. A [`Keyed`] one reports
//! [`Event::KeyEvicted`](crate::event::Event::KeyEvicted) and [`Event::KeyOverflow`](crate::event::Event::KeyOverflow).
//!
//! # Cancel safety
//!
//! A permit is a value. Dropping a call at any point drops its permit unsettled, which counts as *abandoned*. A panic of the
//! inner service settles the permit as a failure and propagates.

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

/// Admits or rejects calls.
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

    /// Admits or rejects this request. Called in `call`.
    ///
    /// # Errors
    ///
    /// The rejection, which the caller gets.
    fn admit(&self, request: &Req, now: &Now) -> Result<Self::Permit, Rejected>;

    /// Admits a call if that is certain and needs neither a clock nor a lock. A [`Keyed`] policy calls this first, under a
    /// lock of its own.
    #[doc(hidden)]
    fn pass(&self, _request: &Req, _: Internal) -> Option<Self::Permit> {
        None
    }

    /// Returns a rejection if *any* call would be rejected now. Called before the inner service is polled ready: if there is a
    /// rejection, the inner service is not polled and the next call gets it. An open circuit never waits for a dead connection.
    fn refuse(&self, now: &Now) -> Option<Rejected> {
        let _ = now;
        None
    }

    /// Reports a rejection from [`refuse`](Policy::refuse) when a call gets it.
    fn refused(&self, rejected: &Rejected) {
        let _ = rejected;
    }
}

/// An optional policy: `None` admits every call.
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

/// Held by an admitted call. Dropping it unsettled means that the call was abandoned: it was cancelled before it had a result.
pub trait Permit {
    /// Records the outcome of the call.
    fn settle(self, outcome: Outcome, now: &Now);

    /// Called at every poll that is pending. A permit that measures how long its caller waits reads the clock at the first one:
    /// a call that is ready at once does not read it.
    #[inline]
    fn pending(&mut self, now: &Now) {
        let _ = now;
    }

    /// Part of the response has arrived: its head, which is a success but does not settle the call yet, or a frame of its body.
    #[inline]
    fn progress(&mut self, now: &Now) {
        let _ = now;
    }

    /// The caller cancelled while it was waiting for the next frame of the response's body, after it had `waited` this long for
    /// that frame. The default drops the permit.
    fn abandon(self, waited: Duration, now: &Now)
    where
        Self: Sized,
    {
        let _ = (waited, now);
        drop(self);
    }
}

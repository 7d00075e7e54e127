//! Admission: `Policy` for a breaker.

use std::sync::Arc;
use std::time::Duration;

use super::Breaker;
use super::permit::{BreakerPermit, Start};
use super::shard::Mode;
use super::ticket::{Ticket, Verdict};
use crate::clock::Now;
use crate::error::{Reason, Rejected};
use crate::event::{Event, emit};
use crate::gate::{Internal, Policy};

impl<Req: ?Sized> Policy<Req> for Breaker {
    type Permit = BreakerPermit;

    #[inline(always)]
    fn admit(&self, _request: &Req, now: &Now) -> Result<BreakerPermit, Rejected> {
        self.admit_at(now)
    }

    #[inline(always)]
    fn pass(&self, _request: &Req, _: Internal) -> Option<BreakerPermit> {
        let shard = self.shard();
        let epoch = shard.admits()?;
        Some(BreakerPermit::new(
            Arc::clone(shard),
            Ticket::call(epoch),
            Start::UNKNOWN,
        ))
    }

    #[inline(always)]
    fn refuse(&self, now: &Now) -> Option<Rejected> {
        self.refuses(now)
    }

    #[cold]
    fn refused(&self, rejected: &Rejected) {
        self.shared().report(rejected);
    }
}

impl Breaker {
    #[inline(always)]
    pub(super) fn admit_at(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        match Policy::<()>::pass(self, &(), Internal) {
            Some(permit) => Ok(permit),
            None => self.admit_by_mode(now),
        }
    }

    /// The rejection that any call would get now.
    #[inline(always)]
    pub(super) fn refuses(&self, now: &Now) -> Option<Rejected> {
        match self.shared().mode() {
            Mode::Closed(_) | Mode::Disabled => None,
            Mode::Open | Mode::Decide => self.would_refuse(now),
        }
    }

    #[inline(never)]
    fn admit_by_mode(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        let shared = self.shared();
        match shared.mode() {
            Mode::Closed(epoch) => Ok(self.permit(Ticket::call(epoch), now)),
            Mode::Disabled => Ok(self.permit(Ticket::IGNORED, now)),
            Mode::Open => match self.left_open(now) {
                Some(left) => Err(self.reject(Reason::CircuitOpen, Some(left))),
                None => self.decide(now),
            },
            Mode::Decide => self.decide(now),
        }
    }

    /// The remaining time for which the circuit is certainly open.
    #[inline]
    fn left_open(&self, now: &Now) -> Option<Duration> {
        let (until, moment) = (self.shared().refused_until(), now.moment());
        (moment < until).then(|| until.since(moment))
    }

    fn permit(&self, ticket: Ticket, now: &Now) -> BreakerPermit {
        let start = if self.shared().slow_call() == u64::MAX {
            Start::UNKNOWN
        } else {
            Start::measured(now.moment())
        };
        BreakerPermit::new(Arc::clone(self.shard()), ticket, start)
    }

    #[cold]
    fn decide(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        let moment = now.moment();
        let shared = self.shared();
        let (verdict, dry_run) = shared.with_state_mut(|locked, draw| {
            let (verdict, transitions) = locked.machine.admit(moment, draw);
            ((verdict, locked.dry_run), transitions)
        });
        match verdict {
            Verdict::Admit(ticket) => Ok(self.permit(ticket, now)),
            Verdict::Refuse {
                reason,
                retry_after,
            } if dry_run => {
                emit(&Event::WouldReject {
                    source: &shared.source,
                    rejected: &shared.rejected(reason, retry_after),
                });
                Ok(self.permit(Ticket::IGNORED, now))
            }
            Verdict::Refuse {
                reason,
                retry_after,
            } => Err(self.reject(reason, retry_after)),
        }
    }

    fn reject(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        let rejected = self.shared().rejected(reason, retry_after);
        self.shared().report(&rejected);
        rejected
    }

    #[inline(never)]
    fn would_refuse(&self, now: &Now) -> Option<Rejected> {
        let shared = self.shared();
        if shared.mode() == Mode::Open {
            if let Some(left) = self.left_open(now) {
                return Some(shared.rejected(Reason::CircuitOpen, Some(left)));
            }
        }
        let moment = now.moment();
        let (reason, retry_after) = shared.with_state(|locked| {
            if locked.dry_run {
                return None;
            }
            locked.machine.refuses(moment)
        })?;
        Some(shared.rejected(reason, retry_after))
    }
}

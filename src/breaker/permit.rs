//! The permit of an admitted call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::shard::Shard;
use super::shards::{Inner, Locked};
use super::ticket::Ticket;
use crate::clock::{Moment, Now, nanos};
use crate::gate::Permit;
use crate::outcome::{Kind, Outcome};

/// A call that a breaker has admitted. Dropping it unsettled counts the call as abandoned.
#[must_use = "dropping a permit counts the call as abandoned"]
pub struct BreakerPermit {
    shard: Arc<Shard>,
    /// The ticket, ignored from when it is settled; above it the [`Start`]. In one number: two fields are passed in
    /// registers, three through memory, at several times the cost.
    call: u128,
}

/// When a call began: nanoseconds, and above them whether no rule measures how long calls take. Then it is noted only for
/// a pending call, which may be abandoned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Start(u64);

impl Start {
    const UNMEASURED: u64 = 1 << 63;
    /// The clock was not read.
    pub(super) const UNKNOWN: Self = Self(u64::MAX);

    /// For a rule that measures how long the call takes.
    pub(super) const fn measured(began: Moment) -> Self {
        Self(began.as_nanos() & !Self::UNMEASURED)
    }

    /// For no such rule.
    pub(super) const fn noted(began: Moment) -> Self {
        Self(began.as_nanos() | Self::UNMEASURED)
    }

    #[inline]
    const fn is_measured(self) -> bool {
        self.0 & Self::UNMEASURED == 0
    }

    /// How long the call takes, if a rule measures it.
    fn took(self, now: Moment) -> Option<Duration> {
        self.is_measured().then(|| self.waited(now))
    }

    /// How long its caller has waited; no time if the call was never pending.
    fn waited(self, now: Moment) -> Duration {
        if self == Self::UNKNOWN {
            return Duration::ZERO;
        }
        now.since(Moment::from_nanos(self.0 & !Self::UNMEASURED))
    }
}

impl BreakerPermit {
    #[inline]
    pub(super) fn new(shard: Arc<Shard>, ticket: Ticket, start: Start) -> Self {
        Self {
            shard,
            call: u128::from(start.0) << 64 | u128::from(ticket.bits()),
        }
    }

    /// Records the outcome of the call.
    pub fn settle(self, outcome: Outcome) {
        Permit::settle(self, outcome, &Now::unread());
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is the ticket"
    )]
    #[inline]
    fn ticket(&self) -> Ticket {
        Ticket::from_bits(self.call as u64)
    }

    #[inline]
    const fn start(&self) -> Start {
        Start((self.call >> 64) as u64)
    }

    #[inline]
    fn ignore(&mut self) {
        self.call = u128::from(Ticket::IGNORED.bits());
    }

    #[inline(never)]
    fn note_start(&mut self, now: Moment) {
        let ticket = self.ticket().bits();
        self.call = u128::from(Start::noted(now).0) << 64 | u128::from(ticket);
    }

    #[cold]
    #[inline(never)]
    fn probe_progress(&mut self, now: Moment) {
        let (ticket, took) = (self.ticket(), self.start().took(now));
        let progress = |locked: &mut Locked, _| locked.machine.progress(ticket, took, now);
        let decided = self.shard.shared.with_state_mut(progress);
        if decided {
            self.ignore();
        }
    }
}

impl Permit for BreakerPermit {
    #[inline(always)]
    fn settle(mut self, outcome: Outcome, now: &Now) {
        let (ticket, start) = (self.ticket(), self.start());
        self.ignore();
        if ticket == Ticket::IGNORED || (is_ignored(&outcome) && !ticket.is_probe()) {
            return;
        }
        let counted = outcome.is_good()
            && !ticket.is_probe()
            && (!start.is_measured() || !is_slow(&self.shard.shared, start.waited(now.moment())))
            && self.shard.count(ticket.epoch, now);
        if !counted {
            settle_locked(&self.shard.shared, ticket, start, outcome, now.clone());
        }
    }

    #[inline]
    fn pending(&mut self, now: &Now) {
        if self.start() == Start::UNKNOWN && self.ticket() != Ticket::IGNORED {
            self.note_start(now.moment());
        }
    }

    #[inline]
    fn progress(&mut self, now: &Now) {
        if self.ticket().is_probe() {
            self.probe_progress(now.moment());
        }
    }

    fn abandon(mut self, waited: Duration, now: &Now) {
        let ticket = self.ticket();
        self.ignore();
        if ticket != Ticket::IGNORED {
            abandon(&self.shard.shared, ticket, waited, now.moment());
        }
    }
}

/// Whether a closed circuit does nothing with this result.
#[inline(always)]
fn is_ignored(outcome: &Outcome) -> bool {
    outcome.kind == Kind::Neutral && outcome.unprocessed.is_none()
}

#[inline(never)]
fn is_slow(shared: &Inner, took: Duration) -> bool {
    nanos(took) > shared.slow_call()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a time whose address is not taken stays in a register, also on the success path"
)]
#[cold]
#[inline(never)]
fn settle_locked(shared: &Inner, ticket: Ticket, start: Start, outcome: Outcome, now: Now) {
    let moment = now.moment();
    let took = start.took(moment);
    shared.with_state_mut(|locked, draw| {
        let transitions = locked.machine.settle(ticket, &outcome, took, moment, draw);
        ((), transitions)
    });
    shared.place_is_free(ticket);
}

impl Drop for BreakerPermit {
    #[inline]
    fn drop(&mut self) {
        if self.ticket() != Ticket::IGNORED {
            let now = Now::unread().moment();
            abandon(
                &self.shard.shared,
                self.ticket(),
                self.start().waited(now),
                now,
            );
        }
    }
}

#[cold]
#[inline(never)]
fn abandon(shared: &Inner, ticket: Ticket, waited: Duration, now: Moment) {
    shared.with_state_mut(|locked, draw| {
        let transitions = locked.machine.abandon(ticket, waited, now, draw);
        ((), transitions)
    });
    shared.place_is_free(ticket);
}

impl fmt::Debug for BreakerPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerPermit")
            .field("ticket", &self.ticket())
            .finish_non_exhaustive()
    }
}

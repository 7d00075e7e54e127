//! What a call carries that a breaker has admitted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::lane::Lane;
use super::lanes::Shared;
use super::ticket::Ticket;
use crate::clock::{Moment, Now, nanos};
use crate::gate::Permit;
use crate::outcome::{Kind, Outcome};

/// A call that a breaker has admitted. Dropped unsettled, the call was abandoned.
#[must_use = "dropping a permit says that the call was abandoned"]
pub struct BreakerPermit {
    lane: Arc<Lane>,
    /// The ticket, ignored from when it is settled; above it the nanoseconds at which the call began, or [`NOT_ASKED`]. In
    /// one number, because two are moved in two registers, but three through memory, at several times the cost.
    call: u128,
}

/// No rule asked how long calls take when the call began.
pub(super) const NOT_ASKED: Moment = Moment::FAR;

impl BreakerPermit {
    #[inline]
    pub(super) fn new(lane: Arc<Lane>, ticket: Ticket, started: Moment) -> Self {
        Self {
            lane,
            call: u128::from(started.as_nanos()) << 64 | u128::from(ticket.bits()),
        }
    }

    /// The call came to this.
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
    fn started(&self) -> Moment {
        Moment::from_nanos((self.call >> 64) as u64)
    }
}

impl Permit for BreakerPermit {
    #[inline(always)]
    fn settle(mut self, outcome: Outcome, now: &Now) {
        let (ticket, started) = (self.ticket(), self.started());
        self.call = u128::from(Ticket::IGNORED.bits());
        if ticket == Ticket::IGNORED || (is_ignored(&outcome) && !ticket.is_probe()) {
            return;
        }
        let counted = outcome.is_good()
            && !ticket.is_probe()
            && (started == NOT_ASKED || !is_slow(&self.lane.shared, now.moment().since(started)))
            && self.lane.count(ticket.epoch, now);
        if !counted {
            settle_locked(&self.lane.shared, ticket, started, outcome, now.clone());
        }
    }
}

/// Whether a closed circuit does nothing with this result.
#[inline(always)]
fn is_ignored(outcome: &Outcome) -> bool {
    outcome.kind == Kind::Neutral && outcome.unprocessed.is_none()
}

#[inline(never)]
fn is_slow(shared: &Shared, took: Duration) -> bool {
    nanos(took) > shared.slow_call()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a time whose address is not taken stays in a register, on the way of a good call too"
)]
#[cold]
#[inline(never)]
fn settle_locked(shared: &Shared, ticket: Ticket, started: Moment, outcome: Outcome, now: Now) {
    let moment = now.moment();
    let took = (started != NOT_ASKED).then(|| moment.since(started));
    shared.act(|locked, draw| {
        let moves = locked.machine.settle(ticket, &outcome, took, moment, draw);
        ((), moves)
    });
}

impl Drop for BreakerPermit {
    #[inline]
    fn drop(&mut self) {
        if self.ticket() != Ticket::IGNORED {
            abandon(&self.lane.shared, self.ticket());
        }
    }
}

#[cold]
#[inline(never)]
fn abandon(shared: &Shared, ticket: Ticket) {
    let moment = Now::unread().moment();
    shared.act(|locked, draw| ((), locked.machine.abandon(ticket, moment, draw)));
}

impl fmt::Debug for BreakerPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerPermit")
            .field("ticket", &self.ticket())
            .finish_non_exhaustive()
    }
}

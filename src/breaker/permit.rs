//! Admission of a call, and the permit that settles it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Breaker;
use super::machine::{Ticket, Verdict};
use super::shards::{Inner, Locked, Mode, Shard};
use crate::clock::{Moment, Now, nanos};
use crate::error::{CallError, Reason, Rejected};
use crate::event::{Event, emit};
use crate::gate::future::GateFuture;
use crate::gate::{AtResult, Internal, Permit, Policy};
use crate::outcome::{Classify, ErrorIsTransient, Kind, Outcome};

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
    /// Admits or rejects a call, without tower. Settle the permit with the call's outcome. Dropping it counts the call as
    /// abandoned, by a caller that has waited since it was admitted.
    ///
    /// # Errors
    ///
    /// The rejection, with the time until the next probe.
    pub fn try_acquire(&self) -> Result<BreakerPermit, Rejected> {
        let now = Now::unread();
        let mut permit = self.admit_at(&now)?;
        // No gate polls this call, so nothing else reports that it is pending.
        permit.pending(&now);
        Ok(permit)
    }

    /// Runs a call without tower. It is rejected while the circuit is open. An `Err` counts as a failure, and so does a panic.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn query() -> Result<u32, std::io::Error> { Ok(42) }
    /// use buttress::Error;
    /// use buttress::breaker::{Breaker, BreakerConfig};
    ///
    /// let breaker = Breaker::new("database", BreakerConfig::default())?;
    /// let value = breaker.run(async || query().await.map_err(Error::Inner)).await?;
    /// # assert_eq!(value, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`Rejected`] while the circuit is open, else the call's own error.
    pub async fn run<T, E, F>(&self, call: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        self.run_classified(ErrorIsTransient, call).await
    }

    /// Runs a call without tower, with a classifier for its results.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] while the circuit is open, else the call's own error.
    pub async fn run_classified<T, E, F>(
        &self,
        classify: impl Classify<T, E>,
        call: impl FnOnce() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        let permit = self.admit_at(&Now::unread())?;
        // The closure runs inside the future, so that its panic counts too.
        let future = async { call().await };
        GateFuture::running(future, Some(permit), classify, AtResult).await
    }

    #[inline(always)]
    fn admit_at(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
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

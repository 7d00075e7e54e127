//! The breaker's handle: the machine behind a lock, and the way round the lock for calls of a healthy service.
//!
//! While the circuit is closed, admission reads one word that changes only with the state, and a success under the
//! machine's *licence* only counts up its core's own lane. Everything else takes the lock, takes the lanes' counts in
//! first and then asks the machine, so each verdict is the one the plain machine would have given.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::config::BreakerConfig;
use super::machine::Machine;
use super::ticket::{Epoch, Moves, Ticket, Verdict};
use super::view::Snapshot;
use crate::chance::{Draw, draw};
use crate::clock::{Moment, Now};
use crate::error::{CallError, ConfigError, Reason, Rejected};
use crate::event::{BreakerState, Event, Source, emit};
use crate::gate::{AtResult, Forget, GateFuture, Keeps, Keyed, KeyedConfig, Permit, Policy};
use crate::outcome::{Classify, ErrorIsTransient, Kind, Outcome};
use crate::sync::{AtomicU64, Lane, Mutex, Ordering, lane_count, lane_index};

/// A circuit breaker: a named handle, cheap to clone; all clones are the same circuit. See [the page](crate::breaker).
#[derive(Clone)]
pub struct Breaker {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    lanes: Box<[OnceLock<Arc<Lane<Shared>>>]>,
}

pub(super) struct Shared {
    source: Source,
    /// How the next call is admitted: [`Mode`], written under the lock only.
    mode: AtomicU64,
    /// Until when an open circuit certainly refuses, in nanoseconds; written under the lock only.
    refused_until: AtomicU64,
    /// Until when a success only counts, in nanoseconds; `u64::MAX`: for ever. Whether it may count at all is said by the
    /// tag of its lane.
    licence_until: AtomicU64,
    /// The slow-call limit in nanoseconds, `u64::MAX` if there is none.
    slow_call: AtomicU64,
    locked: Mutex<Locked>,
    moved: Notify,
}

struct Locked {
    machine: Machine,
    dry_run: bool,
    lanes: Vec<Weak<Lane<Shared>>>,
}

/// What the mode word says: in the lowest two bits how a call is admitted, above them, while closed, the epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Ask the machine.
    Ask,
    /// Admit, in this epoch.
    Closed(Epoch),
    /// Admit, and ignore the result.
    Disabled,
    /// Refuse until `refused_until`, then ask.
    Open,
}

impl Mode {
    fn pack(self) -> u64 {
        match self {
            Self::Ask => 0,
            Self::Closed(epoch) => 1 | u64::from(epoch.bits()) << 32,
            Self::Disabled => 2,
            Self::Open => 3,
        }
    }

    fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Ask,
            1 => Self::Closed(Epoch::from_bits(upper(word))),
            2 => Self::Disabled,
            _ => Self::Open,
        }
    }
}

/// A lane's word: below, how many successes it has counted; above, the tag that says whether it may: the epoch and one
/// bit for the licence. Without that bit nothing is counted past the lock.
const COUNT: u64 = u32::MAX as u64;

fn licensed(epoch: Epoch) -> u64 {
    u64::from(epoch.bits() << 1 | 1) << 32
}

const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

impl Breaker {
    /// A closed circuit of this name, which appears in its errors, logs and metrics.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn new(name: impl Into<Arc<str>>, config: BreakerConfig) -> Result<Self, ConfigError> {
        let dry_run = config.dry_run;
        let machine = Machine::new(config)?;
        let shared = Shared {
            source: Source::new("breaker", name),
            mode: AtomicU64::new(0),
            refused_until: AtomicU64::new(0),
            licence_until: AtomicU64::new(0),
            slow_call: AtomicU64::new(0),
            locked: Mutex::new(Locked {
                machine,
                dry_run,
                lanes: Vec::new(),
            }),
            moved: Notify::new(),
        };
        shared.publish(&shared.locked.lock());
        Ok(Self {
            owner: Arc::new(Owner {
                shared: Arc::new(shared),
                lanes: (0..lane_count()).map(|_| OnceLock::new()).collect(),
            }),
        })
    }

    /// A circuit per key: the same settings for each, the key's text behind the name.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn keyed<K, B>(
        name: &str,
        config: BreakerConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        // Tried once, so that no later key can fail.
        let first = Self::new(name, config)?;
        Keyed::new(by, keys, move |key| {
            let name = format!("{}/{key}", first.name());
            Self::new(name, config).unwrap_or_else(|_| first.clone())
        })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        self.owner.shared.source.name()
    }

    /// Admits a call without tower, or refuses it. Settle the permit with the call's outcome; dropping it says that the
    /// call was abandoned.
    ///
    /// # Errors
    ///
    /// The refusal, with the time until the next probe.
    pub fn try_acquire(&self) -> Result<BreakerPermit, Rejected> {
        self.admit_at(&Now::unread())
    }

    /// Runs a call without tower: refused while the circuit is open; an `Err` counts as a failure, and so does a panic.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn query() -> Result<u32, std::io::Error> { Ok(42) }
    /// use buttress::Error;
    /// use buttress::breaker::{Breaker, BreakerConfig};
    ///
    /// let breaker = Breaker::new("database", BreakerConfig::default())?;
    /// let answer = breaker.run(async || query().await.map_err(Error::Inner)).await?;
    /// # assert_eq!(answer, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`Rejected`] if it was refused, else the call's own error.
    pub async fn run<T, E: CallError>(
        &self,
        call: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_classified(ErrorIsTransient, call).await
    }

    /// Runs a call without tower, whose results mean what `classify` says.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] if it was refused, else the call's own error.
    pub async fn run_classified<T, E: CallError>(
        &self,
        classify: impl Classify<T, E>,
        call: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let permit = self.try_acquire()?;
        // The closure runs inside the future, so that its panic counts too.
        let future = async { call().await };
        GateFuture::running(future, Some(permit), classify, AtResult).await
    }

    /// What a call would find now. Asking does not move the circuit.
    pub fn state(&self) -> BreakerState {
        let now = Now::unread().moment();
        self.owner.shared.locked.lock().machine.state(now)
    }

    /// What it has counted, and where it stands.
    pub fn snapshot(&self) -> Snapshot {
        let now = Now::unread().moment();
        self.owner
            .shared
            .locked(|machine, _| (machine.snapshot(now), Moves::default()))
    }

    /// The state from now on, to wait for its next change.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), buttress::ConfigError> {
    /// use buttress::breaker::{Breaker, BreakerConfig, BreakerState};
    ///
    /// let breaker = Breaker::new("payments", BreakerConfig::default())?;
    /// let mut changes = breaker.changes();
    /// breaker.isolate();
    /// assert_eq!(changes.changed().await, BreakerState::Isolated);
    /// # Ok(()) }
    /// ```
    pub fn changes(&self) -> Changes {
        Changes {
            seen: self.owner.shared.locked.lock().machine.sequence,
            breaker: self.clone(),
        }
    }

    /// Opens the circuit by hand for this time, whatever the results say; then it probes.
    pub fn force_open(&self, time: Duration) {
        self.by_hand(|machine, now| machine.force_open(time, now));
    }

    /// Opens the circuit by hand until [`release`](Self::release).
    pub fn isolate(&self) {
        self.by_hand(|machine, _| machine.isolate());
    }

    /// Ends what [`force_open`](Self::force_open), [`isolate`](Self::isolate) or [`disable`](Self::disable) began: the
    /// circuit is closed and has forgotten everything.
    pub fn release(&self) {
        self.by_hand(|machine, _| {
            let released = machine.release();
            if released.is_empty() {
                machine.enable()
            } else {
                released
            }
        });
    }

    /// Switches the breaker off: every call passes and nothing is counted, until [`release`](Self::release).
    pub fn disable(&self) {
        self.by_hand(|machine, _| machine.disable());
    }

    /// Closes the circuit, with nothing counted.
    pub fn reset(&self) {
        self.by_hand(|machine, _| machine.reset());
    }

    /// Takes new settings over while running: what was counted, the state and its remaining wait are kept; changing
    /// between a window over time and one over calls starts the window anew.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work; nothing was changed then.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        let now = Now::unread().moment();
        config.validate()?;
        self.owner.shared.locked.lock().dry_run = config.dry_run;
        self.owner
            .shared
            .locked(|machine, _| match machine.reconfigure(config, now) {
                Ok(moves) => (Ok(()), moves),
                Err(error) => (Err(error), Moves::default()),
            })
    }

    fn by_hand(&self, act: impl FnOnce(&mut Machine, Moment) -> Moves) {
        let now = Now::unread().moment();
        self.owner
            .shared
            .locked(|machine, _| ((), act(machine, now)));
    }

    #[inline(always)]
    fn admit_at(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        match Mode::unpack(self.owner.shared.mode.load(Ordering::Acquire)) {
            Mode::Closed(epoch) => Ok(self.permit(Ticket::call(epoch), now)),
            mode => self.admit_unclosed(mode, now),
        }
    }

    #[inline(never)]
    fn admit_unclosed(&self, mode: Mode, now: &Now) -> Result<BreakerPermit, Rejected> {
        let shared = &*self.owner.shared;
        match mode {
            Mode::Closed(epoch) => Ok(self.permit(Ticket::call(epoch), now)),
            Mode::Disabled => Ok(self.permit(Ticket::IGNORED, now)),
            Mode::Open => {
                let until = Moment::from_nanos(shared.refused_until.load(Ordering::Acquire));
                let moment = now.moment();
                if moment < until {
                    let wait = Some(until.since(moment));
                    Err(shared.reject(Reason::CircuitOpen, wait))
                } else {
                    self.ask(now)
                }
            }
            Mode::Ask => self.ask(now),
        }
    }

    #[inline(always)]
    fn permit(&self, ticket: Ticket, now: &Now) -> BreakerPermit {
        let slow = self.owner.shared.slow_call.load(Ordering::Relaxed);
        BreakerPermit {
            lane: Some(Arc::clone(self.owner.lane())),
            ticket,
            started: if slow == u64::MAX {
                NOT_ASKED
            } else {
                now.moment()
            },
        }
    }

    #[cold]
    fn ask(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        let moment = now.moment();
        let shared = &*self.owner.shared;
        let mut dry_run = false;
        let verdict = shared.with_lock(|locked, draw| {
            dry_run = locked.dry_run;
            locked.machine.admit(moment, draw)
        });
        match verdict {
            Verdict::Admit(ticket) => Ok(self.permit(ticket, now)),
            Verdict::Refuse {
                reason,
                retry_after,
            } => {
                if dry_run {
                    let rejected = shared.rejected(reason, retry_after);
                    emit(&Event::WouldReject {
                        source: &shared.source,
                        rejected: &rejected,
                    });
                    return Ok(self.permit(Ticket::IGNORED, now));
                }
                Err(shared.reject(reason, retry_after))
            }
        }
    }
}

impl Owner {
    #[inline(always)]
    fn lane(&self) -> &Arc<Lane<Shared>> {
        let slot = &self.lanes[lane_index(self.lanes.len())];
        match slot.get() {
            Some(lane) => lane,
            None => slot.get_or_init(|| self.shared.new_lane(&self.shared)),
        }
    }
}

impl Shared {
    fn new_lane(&self, this: &Arc<Self>) -> Arc<Lane<Self>> {
        let mut locked = self.locked.lock();
        let lane = Lane::new(Arc::clone(this), locked.tag());
        locked.lanes.push(Arc::downgrade(&lane));
        lane
    }

    fn locked<R>(&self, act: impl FnOnce(&mut Machine, Draw) -> (R, Moves)) -> R {
        self.with_lock(|locked, draw| act(&mut locked.machine, draw))
    }

    /// Takes the lock and the lanes' counts, lets the machine act, and publishes what calls may do without the lock.
    fn with_lock<R>(&self, act: impl FnOnce(&mut Locked, Draw) -> (R, Moves)) -> R {
        let draw = draw();
        let mut locked = self.locked.lock();
        locked.fold();
        let (answer, moves) = act(&mut locked, draw);
        self.publish(&locked);
        let dry_run = locked.dry_run;
        drop(locked);
        for (sequence, moved) in moves {
            emit(&Event::BreakerMoved {
                source: &self.source,
                sequence,
                moved,
                dry_run,
            });
            self.moved.notify_waiters();
        }
        answer
    }

    /// Under the lock. The order does not matter to those who read without it: each reads a word that was true at some
    /// moment during its call.
    fn publish(&self, locked: &Locked) {
        let machine = &locked.machine;
        let epoch = machine.epoch();
        let refused_until = machine.refused_until();
        let mode = match machine.last_state() {
            BreakerState::Disabled => Mode::Disabled,
            _ if machine.admits_without_asking() => Mode::Closed(epoch),
            BreakerState::Open if !locked.dry_run => Mode::Open,
            _ => Mode::Ask,
        };
        let slow = machine.slow_call().map_or(u64::MAX, crate::clock::nanos);
        self.slow_call.store(slow, Ordering::Relaxed);
        let until = refused_until.unwrap_or(Moment::START);
        self.refused_until
            .store(until.as_nanos(), Ordering::Release);
        let licence = machine.licence().unwrap_or(Moment::START);
        self.licence_until
            .store(licence.as_nanos(), Ordering::Release);
        self.mode.store(mode.pack(), Ordering::Release);
        let tag = locked.tag();
        for lane in locked.lanes.iter().filter_map(Weak::upgrade) {
            lane.word.store(tag, Ordering::Release);
        }
    }

    /// Counts a success past the lock, if the licence allows it.
    #[inline(always)]
    fn count(&self, lane: &Lane<Self>, epoch: Epoch, started: Moment, now: &Now) -> bool {
        if started != NOT_ASKED {
            let slow = self.slow_call.load(Ordering::Relaxed);
            if crate::clock::nanos(now.moment().since(started)) > slow {
                return false;
            }
        }
        let until = self.licence_until.load(Ordering::Acquire);
        if until != u64::MAX && now.moment().as_nanos() >= until {
            return false;
        }
        let tag = licensed(epoch);
        let mut word = lane.word.load(Ordering::Acquire);
        loop {
            if word & !COUNT != tag || word & COUNT == COUNT {
                return false;
            }
            match lane.word.compare_exchange_weak(
                word,
                word + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(changed) => word = changed,
            }
        }
    }

    fn rejected(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        Rejected::new(reason, Arc::clone(self.source.name())).retry_after(retry_after)
    }

    fn reject(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        let rejected = self.rejected(reason, retry_after);
        self.report(&rejected);
        rejected
    }

    fn report(&self, rejected: &Rejected) {
        emit(&Event::Rejected {
            source: &self.source,
            rejected,
        });
    }
}

impl Locked {
    /// Takes the lanes' counts in. Their licence ends here: a success that comes while the machine thinks waits for the
    /// lock.
    fn fold(&mut self) {
        let mut count = 0;
        self.lanes.retain(|lane| match lane.upgrade() {
            Some(lane) => {
                count += lane.word.swap(0, Ordering::AcqRel) & COUNT;
                true
            }
            None => false,
        });
        self.machine.successes(count);
    }

    /// The word of a lane that has counted nothing.
    fn tag(&self) -> u64 {
        if self.machine.licence().is_some() {
            licensed(self.machine.epoch())
        } else {
            0
        }
    }
}

/// A call that a breaker has admitted. Dropped unsettled, the call was abandoned.
#[must_use = "dropping a permit says that the call was abandoned"]
pub struct BreakerPermit {
    /// Taken when it is settled.
    lane: Option<Arc<Lane<Shared>>>,
    ticket: Ticket,
    /// When the call began, or [`NOT_ASKED`].
    started: Moment,
}

/// No rule asked for slow calls when the call began.
const NOT_ASKED: Moment = Moment::FAR;

impl BreakerPermit {
    /// The call came to this.
    pub fn settle(self, outcome: Outcome) {
        Permit::settle(self, outcome, &Now::unread());
    }
}

impl Permit for BreakerPermit {
    #[inline(always)]
    fn settle(mut self, outcome: Outcome, now: &Now) {
        let Some(lane) = self.lane.take() else { return };
        if self.ticket == Ticket::IGNORED
            || (outcome.kind == Kind::Neutral && !self.ticket.is_probe())
        {
            return;
        }
        let counted = outcome.is_good()
            && !self.ticket.is_probe()
            && lane
                .shared
                .count(&lane, self.ticket.epoch, self.started, now);
        if !counted {
            settle_locked(&lane.shared, self.ticket, self.started, &outcome, now);
        }
    }
}

#[cold]
#[inline(never)]
fn settle_locked(shared: &Shared, ticket: Ticket, started: Moment, outcome: &Outcome, now: &Now) {
    let moment = now.moment();
    let took = (started != NOT_ASKED).then(|| moment.since(started));
    shared.locked(|machine, draw| ((), machine.settle(ticket, outcome, took, moment, draw)));
}

impl Drop for BreakerPermit {
    #[inline]
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            abandon(&lane, self.ticket);
        }
    }
}

#[cold]
fn abandon(lane: &Lane<Shared>, ticket: Ticket) {
    if ticket != Ticket::IGNORED {
        let moment = Now::unread().moment();
        lane.shared
            .locked(|machine, draw| ((), machine.abandon(ticket, moment, draw)));
    }
}

impl<Req: ?Sized> Policy<Req> for Breaker {
    type Permit = BreakerPermit;

    #[inline(always)]
    fn admit(&self, _request: &Req, now: &Now) -> Result<BreakerPermit, Rejected> {
        self.admit_at(now)
    }

    #[inline(always)]
    fn refuse(&self, now: &Now) -> Option<Rejected> {
        let shared = &*self.owner.shared;
        match Mode::unpack(shared.mode.load(Ordering::Acquire)) {
            Mode::Closed(_) | Mode::Disabled => None,
            Mode::Open | Mode::Ask => shared.would_refuse(now),
        }
    }

    #[cold]
    fn refused(&self, rejected: &Rejected) {
        self.owner.shared.report(rejected);
    }
}

impl Shared {
    #[inline(never)]
    fn would_refuse(&self, now: &Now) -> Option<Rejected> {
        let moment = now.moment();
        let until = Moment::from_nanos(self.refused_until.load(Ordering::Acquire));
        let open = Mode::unpack(self.mode.load(Ordering::Acquire)) == Mode::Open;
        if open && moment < until {
            return Some(self.rejected(Reason::CircuitOpen, Some(until.since(moment))));
        }
        let locked = self.locked.lock();
        if locked.dry_run {
            return None;
        }
        let (reason, retry_after) = locked.machine.refuses(moment)?;
        drop(locked);
        Some(self.rejected(reason, retry_after))
    }
}

impl Forget for Breaker {
    fn keeps(&self, now: &Now) -> Keeps {
        let in_flight = self
            .owner
            .lanes
            .iter()
            .filter_map(OnceLock::get)
            .any(|lane| Arc::strong_count(lane) > 1);
        if in_flight {
            return Keeps::Essentials;
        }
        let now = now.moment();
        let locked = self.owner.shared.locked.lock();
        match locked.machine.state(now) {
            // Its time is over and nobody has asked: what it knew is out of date.
            BreakerState::HalfOpen => Keeps::Memory,
            BreakerState::Closed if locked.machine.remembers(now) => Keeps::Memory,
            BreakerState::Closed => Keeps::Nothing,
            _ => Keeps::Essentials,
        }
    }

    fn source(&self) -> &Source {
        &self.owner.shared.source
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("name", self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BreakerPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerPermit")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// The moves of a breaker, one after the other: [`Breaker::changes`].
#[derive(Clone, Debug)]
pub struct Changes {
    breaker: Breaker,
    seen: u64,
}

impl Changes {
    /// Waits until the circuit has moved, and says where it is then. A move before this call, but after the last one, counts;
    /// of several moves the newest state is told.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next one sees the same move.
    pub async fn changed(&mut self) -> BreakerState {
        let shared = &self.breaker.owner.shared;
        loop {
            // Registered before the look, so that a move between the two is not missed.
            let moved = shared.moved.notified();
            let (sequence, state) = {
                let machine = &shared.locked.lock().machine;
                (machine.sequence, machine.last_state())
            };
            if sequence != self.seen {
                self.seen = sequence;
                return state;
            }
            moved.await;
        }
    }
}

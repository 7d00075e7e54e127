//! The machine behind a lock, and the fast path of a healthy service that avoids the lock.
//!
//! Each core has a shard of its own. While the circuit is closed, admission reads the shard's word, and a success under the
//! machine's *grant* increments it. Everything else takes the lock and adds the counts of all shards before the machine
//! decides. Each verdict equals that of a machine without shards.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::config::BreakerConfig;
use super::machine::{Epoch, Machine, Ticket, Transitions};
use crate::chance::{Draw, draw};
use crate::clock::{Moment, Now, nanos};
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::{BreakerState, Event, Refresh, Source, emit};
use crate::outcome::Outcome;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The number of a transition, and the state after it.
pub(super) type Newest = (u64, BreakerState);

/// The state that all handles and permits of a circuit share.
pub(super) struct Inner {
    pub(super) source: Source,
    /// How the next call is admitted: [`Mode`], written under the lock only.
    mode: AtomicU64,
    /// Until when an open circuit certainly rejects, in nanoseconds; written under the lock only.
    refused_until: AtomicU64,
    /// The slow-call limit in nanoseconds, `u64::MAX` if there is none.
    slow_call: AtomicU64,
    locked: Mutex<Locked>,
    pub(super) transition: Notify,
    /// The newest transition: its number and the state after it. Created by the first call of `watch`.
    watch: OnceLock<watch::Sender<Newest>>,
}

pub(super) struct Locked {
    pub(super) machine: Machine,
    pub(super) dry_run: bool,
    shards: Vec<Weak<Shard>>,
    /// The values published last. An unchanged value is not written again, because other cores read it.
    word: u64,
    until: u64,
}

impl Inner {
    pub(super) fn new(source: Source, config: BreakerConfig) -> Result<Arc<Self>, ConfigError> {
        let dry_run = config.dry_run;
        let machine = Machine::new(config)?;
        let published = Published::of(&machine, dry_run);
        if let Some(parent) = source.parent() {
            parent.circuits().add(machine.last_state());
        }
        Ok(Arc::new(Self {
            source,
            mode: AtomicU64::new(published.mode.pack()),
            refused_until: AtomicU64::new(published.refused_until),
            slow_call: AtomicU64::new(published.slow_call),
            locked: Mutex::new(Locked {
                dry_run,
                machine,
                shards: Vec::new(),
                word: published.word,
                until: published.until,
            }),
            transition: Notify::new(),
            watch: OnceLock::new(),
        }))
    }

    #[inline]
    pub(super) fn mode(&self) -> Mode {
        Mode::unpack(self.mode.load(Ordering::Acquire))
    }

    /// Until when an open circuit certainly rejects.
    #[inline]
    pub(super) fn refused_until(&self) -> Moment {
        Moment::from_nanos(self.refused_until.load(Ordering::Acquire))
    }

    /// The slow-call limit in nanoseconds, `u64::MAX` if there is none.
    #[inline]
    pub(super) fn slow_call(&self) -> u64 {
        self.slow_call.load(Ordering::Relaxed)
    }

    /// Adds a shard. Its counts are lost if it is dropped before the next fold.
    pub(super) fn new_shard(self: &Arc<Self>) -> Arc<Shard> {
        let mut locked = self.locked.lock();
        let shard = Arc::new(Shard {
            word: AtomicU64::new(locked.word),
            until: AtomicU64::new(locked.until),
            shared: Arc::clone(self),
        });
        locked.shards.retain(|shard| shard.strong_count() > 0);
        locked.shards.reserve_exact(1);
        locked.shards.push(Arc::downgrade(&shard));
        shard
    }

    /// Reads the state, without the counts that the shards have not folded yet.
    pub(super) fn with_state<R>(&self, read: impl FnOnce(&Locked) -> R) -> R {
        read(&self.locked.lock())
    }

    /// Whether there is a permit of this circuit.
    pub(super) fn has_calls(&self) -> bool {
        self.with_state(|locked| locked.shards.iter().any(|shard| shard.strong_count() > 1))
    }

    /// Changes the state under the lock, with the counts of all shards folded in. Then publishes what calls may do without the
    /// lock, and reports the transitions.
    pub(super) fn with_state_mut<R>(
        &self,
        change: impl FnOnce(&mut Locked, Draw) -> (R, Transitions),
    ) -> R {
        let draw = draw();
        let mut locked = self.locked.lock();
        locked.fold();
        let (result, transitions) = change(&mut locked, draw);
        let late = self.publish(&mut locked);
        let further = locked.settle(late, draw);
        if !further.is_empty() {
            self.publish(&mut locked);
        }
        let dry_run = locked.dry_run;
        drop(locked);
        if !transitions.is_empty() || !further.is_empty() {
            // First, because an observer may panic.
            self.transition.notify_waiters();
            if let Some(sender) = self.watch.get() {
                self.send_newest(sender);
            }
            let parent = self.source.parent();
            let all = || transitions.into_iter().chain(further);
            if let Some(parent) = parent {
                for (_, transition) in all() {
                    parent.circuits().add(transition.to);
                    parent.circuits().remove(transition.from);
                }
            }
            for (sequence, transition) in all() {
                emit(&Event::BreakerTransition {
                    source: &self.source,
                    sequence,
                    transition,
                    dry_run,
                });
            }
            if let Some(parent) = parent {
                parent.refresh();
            }
        }
        result
    }

    pub(super) fn watch(&self) -> watch::Receiver<Newest> {
        let sender = self.watch.get_or_init(|| watch::Sender::new(self.newest()));
        // A transition while the channel was being created was not sent.
        self.send_newest(sender);
        sender.subscribe()
    }

    /// Sends the newest transition unless it was sent. It is read under the lock of the channel, so that no older one follows.
    fn send_newest(&self, sender: &watch::Sender<Newest>) {
        sender.send_if_modified(|last| {
            let newest = self.newest();
            std::mem::replace(last, newest).0 != newest.0
        });
    }

    fn newest(&self) -> Newest {
        self.with_state(|locked| (locked.machine.sequence, locked.machine.last_state()))
    }

    /// Wakes services that wait for a place of a probe: giving one back may cause no transition.
    pub(super) fn place_is_free(&self, ticket: Ticket) {
        if ticket.is_probe() {
            self.transition.notify_waiters();
        }
    }

    /// Publishes the state to the shards. Returns how many successes of the current epoch were counted under a grant that
    /// ends with this. The order of the writes does not matter: each reader gets a word that was valid at some moment during
    /// its call.
    fn publish(&self, locked: &mut Locked) -> u64 {
        let published = Published::of(&locked.machine, locked.dry_run);
        // Only this writes them, under the lock. Writing an unchanged value would still invalidate the caches of other cores.
        let publish = |field: &AtomicU64, now| {
            if field.load(Ordering::Relaxed) != now {
                field.store(now, Ordering::Release);
            }
        };
        publish(&self.slow_call, published.slow_call);
        publish(&self.refused_until, published.refused_until);
        publish(&self.mode, published.mode.pack());
        let before = std::mem::replace(&mut locked.word, published.word);
        let until = std::mem::replace(&mut locked.until, published.until);
        if (before, until) == (locked.word, locked.until) {
            return 0;
        }
        let mut late = 0;
        for shard in locked.shards.iter().filter_map(Weak::upgrade) {
            shard.until.store(published.until, Ordering::Release);
            late += shard.word.swap(published.word, Ordering::AcqRel) & COUNT;
        }
        let same_epoch = epoch(before, 33) == locked.machine.epoch();
        if same_epoch { late } else { 0 }
    }

    pub(super) fn rejected(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        Rejected::new(reason, Arc::clone(self.source.name())).retry_after(retry_after)
    }

    pub(super) fn report(&self, rejected: &Rejected) {
        emit(&Event::Rejected {
            source: &self.source,
            rejected,
        });
    }
}

impl Refresh for Inner {
    fn refresh(&self) {
        let (sequence, state) = self.newest();
        emit(&Event::BreakerState {
            source: &self.source,
            sequence,
            state,
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(parent) = self.source.parent() {
            let state = self.with_state(|locked| locked.machine.last_state());
            parent.circuits().remove(state);
        }
    }
}

impl Locked {
    /// Adds the counts of all shards to the machine. Their grants stay valid: a success that is counted while the machine
    /// decides is folded in the next time.
    fn fold(&mut self) {
        let mut count = 0;
        self.shards.retain(|shard| match shard.upgrade() {
            Some(shard) => {
                count += shard.word.fetch_and(!COUNT, Ordering::AcqRel) & COUNT;
                true
            }
            None => false,
        });
        self.machine.successes(count);
    }

    /// Settles successes that were counted after the fold. Without a grant each of them may cause a transition.
    fn settle(&mut self, late: u64, draw: Draw) -> Transitions {
        if late == 0 {
            return Transitions::default();
        }
        if self.machine.grant().is_some() {
            self.machine.successes(late);
            return Transitions::default();
        }
        let (ticket, now) = (Ticket::call(self.machine.epoch()), Now::unread().moment());
        (0..late)
            .map(|_| {
                self.machine
                    .settle(ticket, &Outcome::SUCCESS, None, now, draw)
            })
            .find(|transitions| !transitions.is_empty())
            .unwrap_or_default()
    }
}

/// The fast path of one core.
pub(super) struct Shard {
    /// The tag, the [`DECIDE`] bit, and below them how many successes were counted here since the last fold.
    word: AtomicU64,
    /// When the grant ends, in nanoseconds; `u64::MAX`: never. Written under the lock, before the word.
    until: AtomicU64,
    pub(super) shared: Arc<Inner>,
}

/// The upper half of a shard's word, its tag: the epoch and one bit for the grant. Without that bit every call takes the
/// lock.
const TAG: u64 = !0 << 32;
const GRANTED: u64 = 1 << 32;
/// Set if admission needs more than the shard: a rule measures how long calls take, or a ramp-up admits a share of them.
const DECIDE: u64 = 1 << 31;
const COUNT: u64 = DECIDE - 1;

const fn granted(epoch: Epoch) -> u64 {
    (epoch.bits() as u64) << 33 | GRANTED
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the bits above the shift are wanted, and no epoch has more"
)]
const fn epoch(word: u64, shift: u32) -> Epoch {
    Epoch::from_bits((word >> shift) as u32)
}

impl Shard {
    /// The epoch in which a call is admitted, if that takes neither clock nor lock.
    #[inline]
    pub(super) fn admits(&self) -> Option<Epoch> {
        let word = self.word.load(Ordering::Acquire);
        (word & (GRANTED | DECIDE) == GRANTED).then(|| epoch(word, 33))
    }

    /// Counts a success without the lock, if the grant of this epoch allows it now.
    #[inline]
    pub(super) fn count(&self, epoch: Epoch, now: &Now) -> bool {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & TAG != granted(epoch) || word & COUNT == COUNT {
                return false;
            }
            let until = self.until.load(Ordering::Acquire);
            if until != u64::MAX && now.moment().as_nanos() >= until {
                return false;
            }
            if self
                .word
                .compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

/// The state published to calls that avoid the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) mode: Mode,
    pub(super) refused_until: u64,
    pub(super) slow_call: u64,
    pub(super) word: u64,
    pub(super) until: u64,
}

/// How a call is admitted: the lowest two bits of the mode word. While closed, the epoch is above them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The machine decides, under the lock.
    Decide,
    /// Admit, in this epoch.
    Closed(Epoch),
    /// Admit, and ignore the result.
    Disabled,
    /// Reject until `refused_until`, then let the machine decide.
    Open,
}

impl Mode {
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Decide => 0,
            Self::Closed(epoch) => 1 | u64::from(epoch.bits()) << 32,
            Self::Disabled => 2,
            Self::Open => 3,
        }
    }

    pub(super) fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Decide,
            1 => Self::Closed(epoch(word, 32)),
            2 => Self::Disabled,
            _ => Self::Open,
        }
    }
}

impl Published {
    pub(super) fn of(machine: &Machine, dry_run: bool) -> Self {
        let mode = match machine.last_state() {
            BreakerState::Disabled => Mode::Disabled,
            _ if machine.admits_all() => Mode::Closed(machine.epoch()),
            BreakerState::Open if !dry_run => Mode::Open,
            _ => Mode::Decide,
        };
        let decide = machine.slow_call().is_some() || !machine.admits_all();
        let grant = machine.grant();
        Self {
            mode,
            // Only for an open circuit: a call that read that mode a moment ago must not find the end of another state.
            refused_until: machine
                .refused_until()
                .filter(|_| mode == Mode::Open)
                .unwrap_or(Moment::START)
                .as_nanos(),
            slow_call: machine.slow_call().map_or(u64::MAX, nanos),
            word: match grant {
                Some(_) => granted(machine.epoch()) | if decide { DECIDE } else { 0 },
                None => 0,
            },
            until: grant.unwrap_or(Moment::START).as_nanos(),
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::super::Breaker;
    use super::*;

    #[test]
    fn only_an_open_circuit_publishes_the_end_of_its_rejections() {
        // The mode is read separately: a call that still reads "open" must not find the end of another state.
        let breaker = Breaker::new("until", BreakerConfig::default()).expect("a configuration");
        for manual in [Breaker::isolate, Breaker::disable, Breaker::reset] {
            manual(&breaker);
            assert_eq!(breaker.shared().refused_until(), Moment::START);
        }
        breaker.force_open(Duration::MAX);
        assert_eq!(breaker.shared().refused_until(), Moment::START);
    }
}

/// The handle under every order of events: nothing is lost, nothing is counted twice, nothing is counted too late.
#[cfg(all(test, buttress_loom))]
mod loom {
    use std::sync::Arc;
    use std::time::Duration;

    use ::loom::thread;

    use super::super::permit::BreakerPermit;
    use super::super::{Breaker, BreakerConfig, Window};
    use crate::clock::{Moment, Now};
    use crate::event::BreakerState;
    use crate::gate::{Evict, Internal, Permit, Policy};
    use crate::outcome::Outcome;

    fn now() -> Now {
        Now::at(Moment::from_nanos(1))
    }

    /// Opens after so many failures in a row; counts the last 100 calls.
    fn breaker(consecutive_failures: u32) -> Breaker {
        let config = BreakerConfig::default()
            .consecutive_failures(Some(consecutive_failures))
            .consecutive_min_span(Duration::ZERO)
            .failure_rate(Some(1.0))
            .min_calls(100)
            .window(Window::Calls(100));
        Breaker::new("loom", config).expect("a valid configuration")
    }

    /// Admits through a shard of its own.
    fn admit(local: &Breaker) -> BreakerPermit {
        local.admit(&(), &now()).expect("closed")
    }

    fn settle(permit: BreakerPermit, outcome: Outcome) {
        Permit::settle(permit, outcome, &now());
    }

    fn counted(breaker: &Breaker) -> (u32, u32) {
        let snapshot = breaker.snapshot();
        (snapshot.total, snapshot.failed)
    }

    #[test]
    fn successes_and_a_failure_are_each_counted_once() {
        loom::model(|| {
            let breaker = breaker(5);
            let (local, other) = (breaker.local(Internal), breaker.local(Internal));
            let good = thread::spawn(move || {
                settle(admit(&local), Outcome::SUCCESS);
                settle(admit(&local), Outcome::SUCCESS);
                local
            });
            settle(admit(&other), Outcome::TRANSIENT);
            let _local = good.join().expect("a thread");
            assert_eq!(counted(&breaker), (3, 1));
        });
    }

    #[test]
    fn two_threads_of_one_shard_count_both() {
        loom::model(|| {
            let breaker = breaker(5);
            let local = Arc::new(breaker.local(Internal));
            let same = Arc::clone(&local);
            let good = thread::spawn(move || settle(admit(&same), Outcome::SUCCESS));
            settle(admit(&local), Outcome::SUCCESS);
            good.join().expect("a thread");
            assert_eq!(counted(&breaker), (2, 0));
        });
    }

    #[test]
    fn a_shard_added_late_loses_nothing() {
        loom::model(|| {
            let breaker = breaker(5);
            let late = breaker.clone();
            let good = thread::spawn(move || {
                let local = late.local(Internal);
                settle(admit(&local), Outcome::SUCCESS);
                local
            });
            let permit = breaker.local(Internal);
            settle(admit(&permit), Outcome::TRANSIENT);
            let _local = good.join().expect("a thread");
            assert_eq!(counted(&breaker), (2, 1));
        });
    }

    #[test]
    fn a_success_of_an_epoch_that_is_over_changes_nothing() {
        loom::model(|| {
            let breaker = breaker(1);
            let (local, other) = (breaker.local(Internal), breaker.local(Internal));
            let (old, bad) = (admit(&local), admit(&other));
            let good = thread::spawn(move || settle(old, Outcome::SUCCESS));
            settle(bad, Outcome::TRANSIENT);
            // Closed again, as new: the success belongs to the time before, whenever it comes.
            breaker.reset();
            good.join().expect("a thread");
            assert_eq!(counted(&breaker), (0, 0));
        });
    }

    #[test]
    fn a_success_ends_a_run_of_failures_exactly_if_it_came_between() {
        loom::model(|| {
            let breaker = breaker(2);
            let (local, other) = (breaker.local(Internal), breaker.local(Internal));
            settle(admit(&other), Outcome::TRANSIENT);
            let (old, bad) = (admit(&local), admit(&other));
            let good = thread::spawn(move || {
                settle(old, Outcome::SUCCESS);
                local
            });
            settle(bad, Outcome::TRANSIENT);
            let _local = good.join().expect("a thread");
            match breaker
                .shared()
                .with_state(|locked| locked.machine.last_state())
            {
                // It came first: one failure since.
                BreakerState::Closed => assert_eq!(counted(&breaker), (3, 2)),
                // It came too late: it belongs to an epoch that is over.
                state => assert_eq!(state, BreakerState::Open),
            }
        });
    }

    #[test]
    fn a_success_counted_as_its_grant_ends_is_still_judged() {
        loom::model(|| {
            let config = BreakerConfig::default()
                .consecutive_failures(None)
                .failure_rate(Some(0.5))
                .min_calls(2)
                .window(Window::Calls(2));
            let breaker = Breaker::new("loom", config).expect("a valid configuration");
            let (local, other) = (breaker.local(Internal), breaker.local(Internal));
            let (good, bad) = (admit(&local), admit(&other));
            let good = thread::spawn(move || settle(good, Outcome::SUCCESS));
            settle(bad, Outcome::TRANSIENT);
            good.join().expect("a thread");
            // In either order one of two has failed.
            let state = breaker
                .shared()
                .with_state(|locked| locked.machine.last_state());
            assert_eq!(state, BreakerState::Open);
        });
    }
}

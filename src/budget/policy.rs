//! The handle of a retry budget.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Weak};

use super::config::BudgetConfig;
use super::machine::{Limits, Machine, TOKEN, Taken, deposited};
use crate::allowance::SharedAllowance;
use crate::clock::{Moment, Now};
use crate::error::ConfigError;
use crate::event::{Event, Observe, Refresh, Source, emit, register_refresh};
use crate::live_names::register;
use crate::outcome::{Outcome, Unprocessed};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Pays for retries and hedges. Clones share one balance. See the [module documentation](super).
#[derive(Clone)]
pub struct RetryBudget {
    pub(super) shared: Arc<Inner>,
}

pub(super) struct Inner {
    /// Micro-tokens. Good calls change it without the lock, and at the cap only read it.
    pub(super) balance: AtomicU64,
    /// For requests that never reached the server. A good call restores some of it; a full one is only read.
    pub(super) allowance: SharedAllowance,
    /// The rules that good calls need; written under the lock only.
    cap: AtomicU64,
    ratio: AtomicU64,
    /// Whether the number of calls under way matters: 1 if it does.
    counts_calls: AtomicU64,
    /// Calls under way, as far as their number matters.
    pub(super) calls: AtomicU64,
    /// Used only by retries.
    pub(super) locked: Mutex<Locked>,
    pub(super) source: Source,
}

#[derive(Clone, Copy)]
pub(super) struct Locked {
    pub(super) machine: Machine,
    pub(super) rules: Limits,
    config: BudgetConfig,
}

impl RetryBudget {
    /// A budget with this name.
    ///
    /// # Errors
    ///
    /// The first invalid setting, or a name that is empty or has control characters.
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>, config: BudgetConfig) -> Result<Self, ConfigError> {
        let location = Location::caller();
        let budget = Self::part(name, config)?;
        register(&budget.shared.source, location, config);
        Ok(budget)
    }

    /// A budget whose name is not registered, because it is a part of a layer that is.
    pub(crate) fn part(
        name: impl Into<Arc<str>>,
        config: BudgetConfig,
    ) -> Result<Self, ConfigError> {
        let name = name.into();
        ConfigError::check_name("retry budget", &name)?;
        let budget = Self::of_source(Source::new("budget", name), config)?;
        let weak: Weak<Inner> = Arc::downgrade(&budget.shared);
        register_refresh(weak);
        Ok(budget)
    }

    pub(super) fn of_source(source: Source, config: BudgetConfig) -> Result<Self, ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("retry budget", source.name()))?;
        let rules = Limits::new(&config);
        let shared = Arc::new(Inner {
            balance: AtomicU64::new(rules.initial(&config)),
            allowance: SharedAllowance::full(),
            cap: AtomicU64::new(rules.cap),
            ratio: AtomicU64::new(rules.ratio),
            counts_calls: AtomicU64::new(rules.counts_calls().into()),
            calls: AtomicU64::new(0),
            locked: Mutex::new(Locked {
                machine: Machine::new(&rules, Now::unread().moment()),
                rules,
                config,
            }),
            source,
        });
        Ok(Self { shared })
    }

    /// Sends the events of this budget to `observer` too, for as long as the budget lives. An observer that owns the budget
    /// keeps it alive.
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.shared.source.observe_with(Arc::new(observer));
    }

    /// The name it was given.
    pub fn name(&self) -> &Arc<str> {
        self.shared.source.name()
    }

    /// Its settings.
    pub fn config(&self) -> BudgetConfig {
        self.shared.locked.lock().config
    }

    /// Changes the settings while running. The balance stays, up to the new cap; a change of the [rule](BudgetConfig::rule)
    /// resets it.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn reconfigure(&self, config: BudgetConfig) -> Result<(), ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("retry budget", self.name()))?;
        self.shared.reconfigure(config);
        self.shared.report();
        Ok(())
    }

    /// Adds tokens for a call that ended with a success, or with an error that was the request's own fault. Call it once per
    /// call, however many attempts it took.
    ///
    /// Reads no clock and takes no lock. A full budget is only read, and cores do not contend for it.
    #[inline(always)]
    pub fn deposit(&self) {
        let shared = &*self.shared;
        let balance = shared.balance.load(Ordering::Relaxed);
        // One branch for both: most calls find both full.
        let is_full = balance >= shared.cap.load(Ordering::Relaxed);
        if !(is_full & shared.allowance.is_full()) {
            shared.deposit(balance);
        }
    }

    /// Takes one unit of the allowance for a request that never reached the server; `false` if there is none left.
    pub(crate) fn take_unprocessed(&self, how: Unprocessed) -> bool {
        self.shared.allowance.take(how)
    }

    /// Counts the outcome of an attempt. Only [`Rule::Throttle`](super::Rule::Throttle) uses it, for failures. Call it for
    /// every attempt, before [`try_withdraw`](Self::try_withdraw).
    #[inline]
    pub fn failed(&self, outcome: &Outcome) {
        let shared = &*self.shared;
        if self.counts(outcome) {
            let balance = shared.balance.load(Ordering::Relaxed);
            shared.change(balance, |balance| (Limits::failed(balance), ()));
            shared.report();
        }
    }

    /// Whether [`failed`](Self::failed) counts this as a failure.
    pub(crate) fn counts(&self, outcome: &Outcome) -> bool {
        self.shared.locked.lock().rules.counts(outcome)
    }

    /// Counts a call as under way until the guard is dropped. `None`, at no cost, unless the rule is
    /// [`Rule::InFlight`](super::Rule::InFlight).
    #[inline]
    pub fn begin(&self) -> Option<CallUnderWay> {
        (self.shared.counts_calls.load(Ordering::Relaxed) != 0).then(|| {
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
            CallUnderWay::new(self.shared.clone())
        })
    }

    /// Pays for a retry, or returns `None` if the budget is exhausted. Call it when the retry is scheduled, not when it
    /// starts.
    pub fn try_withdraw(&self) -> Option<Withdrawal> {
        self.withdraw(&Now::unread())
    }

    pub(crate) fn withdraw(&self, now: &Now) -> Option<Withdrawal> {
        let shared = &*self.shared;
        let now = now.moment();
        let calls = shared.calls.load(Ordering::Relaxed);
        let (taken, counted, balance) = {
            let mut locked = shared.locked.lock();
            let Locked { machine, rules, .. } = *locked;
            let balance = shared.balance.load(Ordering::Relaxed);
            // If a deposit comes between, the machine decides again, from the same state.
            let (next, taken) = shared.change(balance, |balance| {
                let mut next = machine;
                let (balance, taken) = next.withdraw(&rules, balance, calls, now);
                (balance, (next, taken))
            });
            locked.machine = next;
            (taken, rules.counts_calls(), shared.balance(&locked, now))
        };
        let source = &shared.source;
        if let Some(taken) = taken {
            emit(&Event::Budget { source, balance });
            Some(Withdrawal::new(self.shared.clone(), taken, counted))
        } else {
            emit(&Event::BudgetExhausted { source, balance });
            None
        }
    }

    /// The tokens that a withdrawal would find now, those of the [floor](BudgetConfig::floor) included, and cut to the
    /// [reserve](BudgetConfig::reserve) after a time without withdrawals. Without tokens, under
    /// [`Rule::InFlight`](super::Rule::InFlight), the number of retries that could start now.
    pub fn balance(&self) -> f64 {
        let now = Now::unread().moment();
        let locked = *self.shared.locked.lock();
        self.shared.balance(&locked, now)
    }
}

impl Refresh for Inner {
    fn refresh(&self) {
        self.report();
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBudget")
            .field("name", self.name())
            .field("balance", &self.balance())
            .finish_non_exhaustive()
    }
}

impl Inner {
    #[cold]
    fn deposit(&self, seen: u64) {
        let ratio = self.ratio.load(Ordering::Relaxed);
        let cap = self.cap.load(Ordering::Relaxed);
        self.change(seen, |balance| (deposited(balance, ratio, cap), ()));
        self.allowance.restore();
    }

    fn reconfigure(&self, config: BudgetConfig) {
        let rules = Limits::new(&config);
        let mut locked = self.locked.lock();
        self.cap.store(rules.cap, Ordering::Relaxed);
        self.ratio.store(rules.ratio, Ordering::Relaxed);
        self.counts_calls
            .store(rules.counts_calls().into(), Ordering::Relaxed);
        let Locked {
            machine,
            rules: old,
            ..
        } = *locked;
        let balance = self.balance.load(Ordering::Relaxed);
        locked.machine = self.change(balance, |balance| {
            let mut next = machine;
            let balance = next.reconfigure(&old, &rules, &config, balance);
            (balance, next)
        });
        locked.rules = rules;
        locked.config = config;
    }

    /// Replaces the balance, last read as `seen`, by the result of `to`.
    pub(super) fn change<T>(&self, mut seen: u64, mut to: impl FnMut(u64) -> (u64, T)) -> T {
        loop {
            let (next, result) = to(seen);
            if next == seen {
                return result;
            }
            match self.balance.compare_exchange_weak(
                seen,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return result,
                Err(now) => seen = now,
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people and gauges")]
    pub(super) fn balance(&self, locked: &Locked, now: Moment) -> f64 {
        let balance = self.balance.load(Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed);
        let found = locked.machine.balance(&locked.rules, balance, calls, now);
        found as f64 / TOKEN as f64
    }

    pub(super) fn report(&self) {
        let now = Now::unread().moment();
        let locked = *self.locked.lock();
        emit(&Event::Budget {
            source: &self.source,
            balance: self.balance(&locked, now),
        });
    }
}

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
    const fn new(shared: Arc<Inner>, taken: Taken, counted: bool) -> Self {
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
    const fn new(shared: Arc<Inner>) -> Self {
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

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::thread;

    use super::*;
    use crate::event::subscribe;

    fn budget(config: BudgetConfig) -> RetryBudget {
        RetryBudget::new("test", config).expect("a good configuration")
    }

    #[test]
    fn clones_share_one_balance() {
        let one = budget(BudgetConfig::new());
        let other = one.clone();
        other.deposit();
        assert!((one.balance() - 2.2).abs() < 1e-9);
        let mut paid = other.try_withdraw().expect("two tokens");
        paid.started();
        drop(paid);
        assert!((one.balance() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn new_settings_preserve_the_balance_and_count_only_retries_begun_under_them() {
        let budget = budget(BudgetConfig::new());
        let mut before = budget.try_withdraw().expect("two tokens");
        before.started();
        let one_retry = BudgetConfig::concurrent(0.001, 1);
        budget.reconfigure(one_retry).unwrap();
        let during = budget.try_withdraw().expect("the only place");
        drop(before);
        assert!(budget.try_withdraw().is_none());
        drop(during);
        assert!((budget.balance() - 1.0).abs() < 1e-9);

        budget.reconfigure(BudgetConfig::new().initial(1)).unwrap();
        assert!((budget.balance() - 1.0).abs() < 1e-9, "another rule: anew");
        (0..50).for_each(|_| budget.deposit());
        assert!((budget.balance() - 10.0).abs() < 1e-9);
        budget.reconfigure(BudgetConfig::new().cap(4)).unwrap();
        assert!((budget.balance() - 4.0).abs() < 1e-9);
        let wrong = budget.reconfigure(BudgetConfig::new().cap(0)).unwrap_err();
        assert_eq!(wrong.field, "cap");
        assert_eq!(budget.config().cap, 4);
    }

    #[test]
    fn withdrawals_refunds_and_refusals_are_events() {
        let name: Arc<str> = "events of a budget".into();
        let budget = RetryBudget::new(name.clone(), BudgetConfig::new()).expect("defaults");
        let seen = Arc::new(StdMutex::new(Vec::new()));
        let log = seen.clone();
        let subscription = subscribe(move |event: &Event<'_>| {
            if *event.source().name() != name {
                return;
            }
            // The lock is free: an observer may read the budget.
            log.lock().expect("not poisoned").push(match event {
                Event::Budget { balance, .. } => ("budget", *balance),
                Event::BudgetExhausted { balance, .. } => ("exhausted", *balance),
                _ => ("other", f64::NAN),
            });
        });
        let first = budget.try_withdraw();
        let second = budget.try_withdraw();
        assert!(budget.try_withdraw().is_none());
        drop((first, second));
        budget.deposit();
        drop(subscription);
        let expected = [1.0, 0.0, 0.0, 1.0, 2.0];
        let kinds = ["budget", "budget", "exhausted", "budget", "budget"];
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(seen, kinds.into_iter().zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn threads_never_overdraw_it_and_lose_nothing() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 2000;
        let cap = 1_000_000;
        let budget = budget(BudgetConfig::new().cap(cap).initial(0).ratio(0.3));
        let spent: u64 = thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut spent = 0;
                        for round in 0..ROUNDS {
                            budget.deposit();
                            if let Some(mut paid) = budget.try_withdraw() {
                                // Every third one gives its token back.
                                if round % 3 != 0 {
                                    paid.started();
                                    spent += 1;
                                }
                            }
                        }
                        spent
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .sum()
        });
        let deposited = THREADS * ROUNDS * 300_000;
        let left = budget.shared.balance.load(Ordering::Relaxed);
        assert_eq!(left, deposited - spent * TOKEN);
        assert_eq!(budget.shared.locked.lock().machine.retries(), 0);
    }
}

/// Run with `RUSTFLAGS="--cfg buttress_loom" cargo test --lib --release loom`.
#[cfg(all(test, buttress_loom))]
mod loom {
    use ::loom::thread;

    use super::*;
    use crate::clock::Moment;

    fn budget(config: BudgetConfig) -> RetryBudget {
        RetryBudget::new("loom", config).expect("a good configuration")
    }

    fn take(budget: &RetryBudget) -> Option<Withdrawal> {
        budget.withdraw(&Now::at(Moment::START))
    }

    #[test]
    fn loom_two_threads_never_overdraw_it() {
        ::loom::model(|| {
            let budget = budget(BudgetConfig::new().initial(1).ratio(0.5));
            let other = budget.clone();
            let thread = thread::spawn(move || {
                other.deposit();
                take(&other).is_some_and(|mut paid| {
                    paid.started();
                    true
                })
            });
            budget.deposit();
            let mine = take(&budget).is_some_and(|mut paid| {
                paid.started();
                true
            });
            let theirs = thread.join().expect("no panic");
            let spent = u64::from(mine) + u64::from(theirs);
            let left = budget.shared.balance.load(Ordering::Relaxed);
            assert_eq!(left + spent * TOKEN, 2 * TOKEN);
        });
    }

    #[test]
    fn loom_a_refund_beside_deposits_and_withdrawals_loses_nothing() {
        ::loom::model(|| {
            let budget = budget(BudgetConfig::new().initial(1).ratio(1.0));
            let paid = take(&budget).expect("one token");
            let other = budget.clone();
            let thread = thread::spawn(move || drop(paid));
            other.deposit();
            let second = take(&other).is_some_and(|mut paid| {
                paid.started();
                true
            });
            thread.join().expect("no panic");
            assert!(second, "the deposit alone pays for it");
            assert_eq!(other.shared.balance.load(Ordering::Relaxed), TOKEN);
        });
    }

    #[test]
    fn loom_a_deposit_beside_a_smaller_cap_pays_for_no_more_than_the_cap() {
        ::loom::model(|| {
            let budget = budget(BudgetConfig::new().initial(3).ratio(1.0));
            let other = budget.clone();
            let thread = thread::spawn(move || other.deposit());
            budget
                .shared
                .reconfigure(BudgetConfig::new().cap(1).initial(0).reserve(0));
            thread.join().expect("no panic");
            let paid = take(&budget);
            assert!(paid.is_some(), "earned tokens stay");
            assert!(take(&budget).is_none());
        });
    }

    #[test]
    fn loom_only_one_of_two_gets_the_only_place() {
        ::loom::model(|| {
            let budget = budget(BudgetConfig::concurrent(0.2, 1));
            let other = budget.clone();
            let thread = thread::spawn(move || take(&other));
            let mine = take(&budget);
            let theirs = thread.join().expect("no panic");
            assert!(mine.is_some() != theirs.is_some());
            drop((mine, theirs));
            assert!(take(&budget).is_some());
        });
    }
}

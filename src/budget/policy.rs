//! The shared handle.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use super::config::BudgetConfig;
use super::machine::{Machine, Rules, TOKEN, Taken};
use crate::clock::Now;
use crate::error::ConfigError;
use crate::event::{Event, Refresh, Source, emit, keep_fresh};
use crate::gate::{Forget, Keeps, Keyed, KeyedConfig};
use crate::outcome::{Kind, Outcome};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Pays for retries and hedges. Clones share one balance; the [module's page](super) says how.
#[derive(Clone)]
pub struct RetryBudget {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    /// Micro-tokens. Good calls change it without the lock, and at the cap only read it.
    balance: AtomicU64,
    /// Calls under way, if their number matters.
    calls: AtomicU64,
    /// What only retries touch.
    machine: Mutex<Machine>,
    config: BudgetConfig,
    source: Source,
}

impl RetryBudget {
    /// A budget of this name.
    ///
    /// # Errors
    ///
    /// If a setting cannot work.
    pub fn new(name: impl Into<Arc<str>>, config: BudgetConfig) -> Result<Self, ConfigError> {
        let name = name.into();
        config
            .validate()
            .map_err(|error| error.of("retry budget", &name))?;
        let rules = Rules::new(&config);
        let shared = Arc::new(Shared {
            balance: AtomicU64::new(rules.initial(&config)),
            calls: AtomicU64::new(0),
            machine: Mutex::new(Machine::new(&rules, Now::unread().moment())),
            rules,
            config,
            source: Source::new("budget", name),
        });
        let weak: Weak<Shared> = Arc::downgrade(&shared);
        keep_fresh(weak);
        Ok(Self { shared })
    }

    /// A budget per key: the same settings for each, the key's text behind the name.
    ///
    /// # Errors
    ///
    /// If a setting cannot work.
    pub fn keyed<K, B>(
        name: &str,
        config: BudgetConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        Keyed::named(name, by, keys, move |name| Self::new(name, config))
    }

    /// The name it was given.
    pub fn name(&self) -> &Arc<str> {
        self.shared.source.name()
    }

    /// Its settings.
    pub fn config(&self) -> &BudgetConfig {
        &self.shared.config
    }

    /// A call ended well: with a success, or with an error that was the request's own fault. To be told once a call, however
    /// many attempts it took.
    ///
    /// Reads no clock and takes no lock. A full budget is only read, so that cores do not hinder one another.
    #[inline(always)]
    pub fn deposit(&self) {
        let shared = &*self.shared;
        let balance = shared.balance.load(Ordering::Relaxed);
        if !shared.rules.is_full(balance) {
            shared.deposit(balance);
        }
    }

    /// An attempt came to this. Only [`Rule::Throttle`](super::Rule::Throttle) counts it, if it is a failure; to be told of
    /// every attempt, before [`try_withdraw`](Self::try_withdraw).
    #[inline]
    pub fn failed(&self, outcome: &Outcome) {
        let shared = &*self.shared;
        if shared.rules.counts(outcome) {
            let balance = shared.balance.load(Ordering::Relaxed);
            shared.change(balance, |balance| (Rules::failed(balance), ()));
            shared.report();
        }
    }

    /// Whether [`failed`](Self::failed) counts this as a failure.
    pub(crate) fn counts(&self, outcome: &Outcome) -> bool {
        self.shared.rules.counts(outcome)
    }

    /// A call begins, and is under way until the guard is dropped. `None`, and free, unless
    /// [`in_flight`](BudgetConfig::in_flight) is set: else their number does not matter.
    #[inline]
    pub fn begin(&self) -> Option<CallUnderWay> {
        self.shared.rules.counts_calls().then(|| {
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
            CallUnderWay {
                shared: self.shared.clone(),
            }
        })
    }

    /// Pays for a retry after a failure of this kind, or returns `None` if there is nothing left to pay with. To be asked when
    /// the retry is scheduled, not when it starts.
    pub fn try_withdraw(&self, kind: Kind) -> Option<Withdrawal> {
        self.withdraw(kind, &Now::unread())
    }

    pub(crate) fn withdraw(&self, kind: Kind, now: &Now) -> Option<Withdrawal> {
        let shared = &*self.shared;
        let now = now.moment();
        let calls = shared.calls.load(Ordering::Relaxed);
        let (taken, balance) = {
            let mut machine = shared.machine.lock();
            let balance = shared.balance.load(Ordering::Relaxed);
            // A deposit may come between; then the machine is asked again, from where it stood.
            let (next, taken) = shared.change(balance, |balance| {
                let mut next = *machine;
                let (balance, taken) = next.withdraw(&shared.rules, balance, calls, kind, now);
                (balance, (next, taken))
            });
            *machine = next;
            (taken, shared.balance(&next))
        };
        let source = &shared.source;
        if let Some(taken) = taken {
            emit(&Event::Budget { source, balance });
            Some(Withdrawal {
                shared: self.shared.clone(),
                taken,
                started: false,
            })
        } else {
            emit(&Event::BudgetExhausted { source, balance });
            None
        }
    }

    /// The tokens there are now. Without tokens, under [`Rule::InFlight`](super::Rule::InFlight), the retries that could start
    /// now.
    pub fn balance(&self) -> f64 {
        let machine = *self.shared.machine.lock();
        self.shared.balance(&machine)
    }
}

impl Refresh for Shared {
    fn refresh(&self) {
        self.report();
    }
}

/// A budget can always be forgotten: calls under way keep theirs, and after a quiet time it would be cut to its reserve
/// anyway, which a new one has.
impl Forget for RetryBudget {
    fn keeps(&self, _now: &Now) -> Keeps {
        Keeps::Memory
    }

    fn source(&self) -> &Source {
        &self.shared.source
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

impl Shared {
    #[cold]
    fn deposit(&self, seen: u64) {
        self.change(seen, |balance| (self.rules.deposit(balance), ()));
    }

    /// Replaces the balance, which was `seen` a moment ago, by what `to` makes of it.
    fn change<T>(&self, mut seen: u64, mut to: impl FnMut(u64) -> (u64, T)) -> T {
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
    fn balance(&self, machine: &Machine) -> f64 {
        let balance = self.balance.load(Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed);
        machine.balance(&self.rules, balance, calls) as f64 / TOKEN as f64
    }

    fn report(&self) {
        let machine = *self.machine.lock();
        emit(&Event::Budget {
            source: &self.source,
            balance: self.balance(&machine),
        });
    }
}

/// A retry that is paid for. To be kept until the retry is over.
///
/// Dropped before it [`started`](Self::started), it gives back what it took.
#[must_use = "dropped before the retry started, it gives back what it took"]
pub struct Withdrawal {
    shared: Arc<Shared>,
    taken: Taken,
    started: bool,
}

impl Withdrawal {
    /// The retry has started: what it cost is spent.
    pub const fn started(&mut self) {
        self.started = true;
    }

    /// The retry did not reach the service after all: what it cost goes back.
    pub(crate) const fn refused(&mut self) {
        self.started = false;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let shared = &*self.shared;
        if self.started && !shared.rules.counts_calls() {
            return;
        }
        {
            let mut machine = shared.machine.lock();
            machine.end();
            if !self.started {
                machine.refund(&shared.rules, &self.taken);
                let balance = shared.balance.load(Ordering::Relaxed);
                shared.change(balance, |balance| {
                    (shared.rules.refund(balance, &self.taken), ())
                });
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
    shared: Arc<Shared>,
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
        let mut paid = other.try_withdraw(Kind::Transient).expect("two tokens");
        paid.started();
        drop(paid);
        assert!((one.balance() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn what_never_started_comes_back() {
        let budget = budget(BudgetConfig::new());
        let paid = budget.try_withdraw(Kind::Transient);
        assert!(paid.is_some() && budget.balance() < 1.5);
        drop(paid);
        assert!((budget.balance() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_retry_is_under_way_from_schedule_to_end_and_counted_once() {
        let budget = budget(BudgetConfig::concurrent(0.2, 1));
        let mut waiting = budget.try_withdraw(Kind::Transient).expect("the floor");
        assert!(budget.try_withdraw(Kind::Transient).is_none());
        waiting.started();
        assert!(budget.try_withdraw(Kind::Transient).is_none());
        drop(waiting);
        let calls: Vec<_> = (0..25).map(|_| budget.begin()).collect();
        assert!((budget.balance() - 5.0).abs() < 1e-9);
        drop(calls);
        assert!((budget.balance() - 1.0).abs() < 1e-9);
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
            // The lock is free: an observer may look.
            log.lock().expect("not poisoned").push(match event {
                Event::Budget { balance, .. } => ("budget", *balance),
                Event::BudgetExhausted { balance, .. } => ("exhausted", *balance),
                _ => ("other", f64::NAN),
            });
        });
        let first = budget.try_withdraw(Kind::Transient);
        let second = budget.try_withdraw(Kind::Overloaded);
        assert!(budget.try_withdraw(Kind::Transient).is_none());
        drop((first, second));
        budget.deposit();
        drop(subscription);
        let expected = [1.0, 0.0, 0.0, 1.0, 2.0];
        let kinds = ["budget", "budget", "exhausted", "budget", "budget"];
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(seen, kinds.into_iter().zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn any_number_of_threads_never_overdraws_it_and_loses_nothing() {
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
                            if let Some(mut paid) = budget.try_withdraw(Kind::Transient) {
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
        assert_eq!(budget.shared.machine.lock().retries(), spent);
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
        budget.withdraw(Kind::Transient, &Now::at(Moment::START))
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

//! The rules of a retry budget: integers in micro-tokens, time as an argument.
//!
//! Every good call touches one number, the *balance*. Only retries touch the [`Machine`].

use std::time::Duration;

use super::config::{BudgetConfig, Rule};
use crate::clock::{Moment, nanos};
use crate::outcome::{Kind, Outcome, RetryAdvice};

/// One token, in the unit everything is counted in.
pub(super) const TOKEN: u64 = 1_000_000;

/// The settings, in micro-tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    rule: Rule,
    /// Added by a good call.
    pub(super) ratio: u64,
    pub(super) cap: u64,
    reserve: u64,
    ttl: Duration,
    /// The gain of the floor per second, and its maximum.
    floor: (u64, u64),
    cost: u64,
}

impl Limits {
    pub(super) fn new(config: &BudgetConfig) -> Self {
        let per_second = config.floor.map_or(0, micro);
        let bucket = config.rule == Rule::Bucket;
        Self {
            rule: config.rule,
            ratio: micro(config.ratio),
            cap: match config.rule {
                Rule::InFlight { .. } => 0,
                _ => u64::from(config.cap) * TOKEN,
            },
            reserve: u64::from(config.reserve) * TOKEN,
            ttl: config.ttl,
            floor: if bucket {
                (per_second, earned(per_second, config.ttl))
            } else {
                (0, 0)
            },
            cost: u64::from(config.cost) * TOKEN,
        }
    }

    /// The balance at the start.
    pub(super) fn initial(&self, config: &BudgetConfig) -> u64 {
        match self.rule {
            Rule::Bucket => u64::from(config.initial) * TOKEN,
            Rule::Throttle | Rule::InFlight { .. } => self.cap,
        }
    }

    /// The balance after a good call.
    #[cfg(test)]
    fn deposit(&self, balance: u64) -> u64 {
        deposited(balance, self.ratio, self.cap)
    }

    /// Whether this result of an attempt takes a token by itself: gRPC's throttle counts failures that may be retried, and
    /// any error whose server forbids a retry.
    pub(super) fn counts(&self, outcome: &Outcome) -> bool {
        self.rule == Rule::Throttle
            && match outcome.kind {
                Kind::Transient | Kind::Overloaded => outcome.retry != RetryAdvice::Never,
                Kind::Permanent => outcome.retry == RetryAdvice::Vetoed,
                Kind::Success | Kind::Neutral => false,
            }
    }

    /// The balance after an attempt that [counts](Self::counts) as failed.
    pub(super) const fn failed(balance: u64) -> u64 {
        balance.saturating_sub(TOKEN)
    }

    /// The balance after `taken` came back.
    pub(super) fn refund(&self, balance: u64, taken: &Taken) -> u64 {
        balance.saturating_add(taken.balance).min(self.cap)
    }

    /// Whether calls under way need to be counted.
    pub(super) const fn counts_calls(&self) -> bool {
        matches!(self.rule, Rule::InFlight { .. })
    }
}

/// The state that only retries touch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// The last withdrawal, granted or not; at first, when the budget was built.
    last: Moment,
    /// What the floor held at `filled`.
    floor: u64,
    filled: Moment,
    /// Retries scheduled or under way.
    retries: u64,
}

/// What a granted retry was paid with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    balance: u64,
    floor: u64,
}

impl Machine {
    pub(super) const fn new(rules: &Limits, now: Moment) -> Self {
        Self {
            last: now,
            floor: rules.floor.1,
            filled: now,
            retries: 0,
        }
    }

    /// Withdraws for one retry: returns the new balance, and what was taken if the retry is granted.
    ///
    /// A denied withdrawal counts too. Otherwise, with nothing in reserve, the balance would be cut before each of them and
    /// never grow.
    pub(super) fn withdraw(
        &mut self,
        rules: &Limits,
        balance: u64,
        calls: u64,
        now: Moment,
    ) -> (u64, Option<Taken>) {
        let balance = self.cut(rules, balance, now);
        self.refill(rules, now);
        let taken = match rules.rule {
            Rule::Bucket => {
                let from_balance = balance.min(rules.cost);
                let taken = Taken {
                    balance: from_balance,
                    floor: rules.cost - from_balance,
                };
                (taken.floor <= self.floor).then_some(taken)
            }
            Rule::Throttle => (balance > rules.cap / 2).then(Taken::default),
            Rule::InFlight { ratio, floor } => {
                let free = self.retries < allowed(ratio, floor, calls);
                self.retries += u64::from(free);
                free.then(Taken::default)
            }
        };
        let Some(taken) = taken else {
            return (balance, None);
        };
        self.floor -= taken.floor;
        (balance - taken.balance, Some(taken))
    }

    /// Gives the floor's share of a retry that never started back. Such a retry [ends](Self::end) as well.
    pub(super) fn refund(&mut self, rules: &Limits, taken: &Taken) {
        self.floor = self.floor.saturating_add(taken.floor).min(rules.floor.1);
    }

    /// Changes the rules and returns the balance under them. Earned tokens stay, unless they were earned under a rule with
    /// another meaning.
    pub(super) fn reconfigure(
        &mut self,
        old: &Limits,
        new: &Limits,
        config: &BudgetConfig,
        balance: u64,
    ) -> u64 {
        self.floor = self.floor.min(new.floor.1);
        if std::mem::discriminant(&old.rule) == std::mem::discriminant(&new.rule) {
            balance.min(new.cap)
        } else {
            new.initial(config)
        }
    }

    /// Ends a granted retry that was counted.
    pub(super) const fn end(&mut self) {
        self.retries = self.retries.saturating_sub(1);
    }

    /// Retries scheduled or under way.
    #[cfg(test)]
    pub(super) const fn retries(&self) -> u64 {
        self.retries
    }

    /// Empties the floor: nothing can be withdrawn until something is earned. The caller empties the [balance](self).
    pub(super) const fn empty(&mut self, now: Moment) {
        self.floor = 0;
        self.filled = now;
    }

    /// Whether retries are counted that are scheduled or under way.
    pub(super) const fn has_retries(&self) -> bool {
        self.retries > 0
    }

    /// The balance that a withdrawal would find now, in micro-tokens; the number of retries, if only that is limited.
    pub(super) fn balance(&self, rules: &Limits, balance: u64, calls: u64, now: Moment) -> u64 {
        match rules.rule {
            Rule::Bucket => {
                let mut then = *self;
                let balance = then.cut(rules, balance, now);
                then.refill(rules, now);
                balance.saturating_add(then.floor)
            }
            Rule::Throttle => balance.min(rules.cap),
            Rule::InFlight { ratio, floor } => allowed(ratio, floor, calls)
                .saturating_sub(self.retries)
                .saturating_mul(TOKEN),
        }
    }

    /// A long healthy time must not fund a storm. (And a deposit under rules of a moment ago may be above the cap.)
    fn cut(&mut self, rules: &Limits, balance: u64, now: Moment) -> u64 {
        let balance = balance.min(rules.cap);
        let idle = now.since(self.last);
        self.last = self.last.max(now);
        if rules.rule == Rule::Bucket && idle > rules.ttl {
            balance.min(rules.reserve)
        } else {
            balance
        }
    }

    fn refill(&mut self, rules: &Limits, now: Moment) {
        let (per_second, max) = rules.floor;
        let gained = earned(per_second, now.since(self.filled));
        // Otherwise the rest below one micro-token would be lost each time, and with frequent withdrawals the floor stays empty.
        if gained > 0 {
            self.floor = self.floor.saturating_add(gained).min(max);
            self.filled = self.filled.max(now);
        }
    }
}

/// The balance after a good call that adds `ratio`.
pub(super) fn deposited(balance: u64, ratio: u64, cap: u64) -> u64 {
    balance.saturating_add(ratio).min(cap)
}

/// How many retries may be under way beside this many calls.
fn allowed(ratio: f64, floor: u32, calls: u64) -> u64 {
    let share = u128::from(calls) * u128::from(micro(ratio)) / u128::from(TOKEN);
    u64::from(floor).max(u64::try_from(share).unwrap_or(u64::MAX))
}

/// Tokens as micro-tokens.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates"
)]
fn micro(tokens: f64) -> u64 {
    (tokens * 1e6).round() as u64
}

/// What `per_second` micro-tokens a second come to over `time`.
fn earned(per_second: u64, time: Duration) -> u64 {
    let earned = u128::from(per_second) * u128::from(nanos(time)) / 1_000_000_000;
    u64::try_from(earned).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A budget as one number and one machine, driven on one thread.
    struct Budget {
        rules: Limits,
        machine: Machine,
        balance: u64,
    }

    impl Budget {
        fn new(config: BudgetConfig) -> Self {
            assert_eq!(config.validate(), Ok(()));
            let rules = Limits::new(&config);
            Self {
                machine: Machine::new(&rules, Moment::START),
                balance: rules.initial(&config),
                rules,
            }
        }

        fn deposit(&mut self) {
            self.balance = self.rules.deposit(self.balance);
        }

        fn withdraw(&mut self, calls: u64, now: Moment) -> Option<Taken> {
            let (balance, taken) = self.machine.withdraw(&self.rules, self.balance, calls, now);
            self.balance = balance;
            taken
        }

        fn take(&mut self, at: Duration) -> bool {
            self.withdraw(0, Moment::START.after(at)).is_some()
        }

        fn refund(&mut self, taken: &Taken) {
            self.balance = self.rules.refund(self.balance, taken);
            self.machine.refund(&self.rules, taken);
        }
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_floor_that_is_looked_at_often_fills_as_fast() {
        // One micro-token a millisecond.
        let config = BudgetConfig::new().floor(Some(0.001));
        let (rules, half) = (Limits::new(&config), Duration::from_micros(500));
        let mut often = Machine::new(&rules, Moment::START);
        often.empty(Moment::START);
        let mut once = often;
        let mut now = Moment::START;
        for _ in 0..2000 {
            now = now.after(half);
            often.refill(&rules, now);
        }
        once.refill(&rules, now);
        assert_eq!((often.floor, once.floor), (1000, 1000));
    }

    #[test]
    fn nothing_is_left_of_a_floor_that_was_emptied() {
        let config = BudgetConfig::new().floor(Some(1.0));
        let rules = Limits::new(&config);
        let mut machine = Machine::new(&rules, Moment::START);
        let later = Moment::START.after(Duration::from_secs(3600));
        assert!(machine.balance(&rules, 0, 0, later) > 0);
        machine.empty(later);
        assert_eq!(machine.balance(&rules, 0, 0, later), 0);
    }

    #[test]
    fn the_throttle_counts_what_grpc_counts() {
        let rules = Limits::new(&BudgetConfig::throttle(4, 0.8));
        let wait = Some(S(1));
        for (outcome, counts) in [
            (Outcome::TRANSIENT, true),
            (Outcome::PERMANENT, false),
            (Outcome::TRANSIENT.wait(wait), true),
            (Outcome::PERMANENT.wait(wait), false),
            (Outcome::TRANSIENT.retry(RetryAdvice::Never), false),
            (Outcome::TRANSIENT.retry(RetryAdvice::Vetoed), true),
            (Outcome::PERMANENT.retry(RetryAdvice::Never), false),
            (Outcome::PERMANENT.retry(RetryAdvice::Vetoed), true),
            (Outcome::NEUTRAL.retry(RetryAdvice::Vetoed), false),
            (Outcome::SUCCESS, false),
        ] {
            assert_eq!(rules.counts(&outcome), counts, "{outcome:?}");
        }
        assert!(!Limits::new(&BudgetConfig::new()).counts(&Outcome::TRANSIENT));
    }

    #[test]
    fn retries_under_way_are_a_share_of_the_calls_under_way() {
        for (config, calls, most) in [
            (BudgetConfig::concurrent(0.2, 3), 25, 5),
            (BudgetConfig::concurrent(0.2, 3), 2, 3),
            (BudgetConfig::concurrent(0.2, 5), 0, 5),
            (BudgetConfig::concurrent(10.0, 1), u64::MAX, 50),
        ] {
            let mut budget = Budget::new(config);
            let granted = (0..50).filter(|_| budget.withdraw(calls, Moment::START).is_some());
            assert_eq!(granted.count(), most);
        }
        let mut budget = Budget::new(BudgetConfig::concurrent(0.5, 1));
        let mut seen = vec![budget.take(S(0)), budget.take(S(0))];
        assert!(budget.machine.has_retries());
        budget.machine.end();
        assert!(!budget.machine.has_retries());
        seen.extend([budget.take(S(0)), budget.take(S(0))]);
        assert_eq!(seen, [true, false, true, false]);
    }

    #[test]
    fn the_largest_numbers_saturate() {
        let most = BudgetConfig::new()
            .ratio(10.0)
            .cap(u32::MAX)
            .initial(u32::MAX)
            .reserve(u32::MAX)
            .ttl(Duration::MAX)
            .floor(Some(1e6));
        let mut budget = Budget::new(most);
        budget.deposit();
        assert_eq!(budget.balance, u64::from(u32::MAX) * TOKEN);
        let taken = budget.withdraw(u64::MAX, Moment::FAR);
        budget.refund(&taken.expect("there is plenty"));
        assert_eq!(budget.balance, u64::from(u32::MAX) * TOKEN);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Deposit,
        Pass(Duration),
        Withdraw,
        Refund,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => Just(Op::Deposit),
            2 => (0_u64..3000).prop_map(|ms| Op::Pass(Duration::from_millis(ms))),
            1 => prop_oneof![Just(S(10)), Just(S(11)), Just(S(60 * 86_400))].prop_map(Op::Pass),
            4 => Just(Op::Withdraw),
            1 => Just(Op::Refund),
        ]
    }

    fn any_bucket() -> impl Strategy<Value = BudgetConfig> {
        (
            0.001..10.0_f64,
            1_u32..20,
            (0_u32..20, 0_u32..20),
            1_u64..20,
            proptest::option::of(0.001..5.0_f64),
            1_u32..4,
        )
            .prop_map(|(ratio, cap, (initial, reserve), ttl, floor, cost)| {
                BudgetConfig::new()
                    .ratio(ratio)
                    .cap(cap)
                    .initial(initial.min(cap))
                    .reserve(reserve.min(cap))
                    .ttl(S(ttl))
                    .floor(floor)
                    .cost(cost.min(cap))
            })
    }

    /// The same rules in whole tokens as fractions, everything recounted from the list of what happened.
    #[derive(Default)]
    struct Naive {
        log: Vec<(f64, Logged)>,
    }

    #[derive(Clone, Copy)]
    enum Logged {
        Deposit,
        Try,
        Paid { balance: f64, floor: f64 },
        Back { balance: f64, floor: f64 },
    }

    impl Naive {
        /// Balance and floor, as of `now`.
        fn holds(&self, config: &BudgetConfig, now: f64) -> (f64, f64) {
            let cap = f64::from(config.cap);
            let per_second = config.floor.unwrap_or(0.0);
            let max = per_second * config.ttl.as_secs_f64();
            let (mut balance, mut floor) = (f64::from(config.initial), max);
            let (mut tried, mut seen) = (0.0, 0.0);
            for &(at, what) in self.log.iter().chain([&(now, Logged::Try)]) {
                if matches!(what, Logged::Try) {
                    // Time counts only at a withdrawal.
                    floor = (floor + (at - seen) * per_second).min(max);
                    seen = at;
                    if at - tried > config.ttl.as_secs_f64() + 1e-9 {
                        balance = balance.min(f64::from(config.reserve));
                    }
                    tried = at;
                }
                match what {
                    Logged::Try => {}
                    Logged::Deposit => balance = (balance + config.ratio).min(cap),
                    Logged::Paid {
                        balance: b,
                        floor: f,
                    } => {
                        balance -= b;
                        floor -= f;
                    }
                    Logged::Back {
                        balance: b,
                        floor: f,
                    } => {
                        balance = (balance + b).min(cap);
                        floor = (floor + f).min(max);
                    }
                }
            }
            (balance, floor)
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn tokens(micro: u64) -> f64 {
        micro as f64 / TOKEN as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_agrees_with_a_model_that_recounts_everything(
            config in any_bucket(),
            ops in proptest::collection::vec(any_op(), 0..24),
        ) {
            let mut budget = Budget::new(config);
            let mut naive = Naive::default();
            let (mut now, mut open) = (Duration::ZERO, Vec::<Taken>::new());
            for op in ops {
                let at = now.as_secs_f64();
                match op {
                    Op::Pass(time) => now += time,
                    Op::Deposit => {
                        budget.deposit();
                        naive.log.push((at, Logged::Deposit));
                    }
                    Op::Withdraw => {
                        let cost = f64::from(config.cost);
                        let (balance, floor) = naive.holds(&config, at);
                        naive.log.push((at, Logged::Try));
                        let taken = budget.withdraw(0, Moment::START.after(now));
                        // Within a rounding of the ratio and of the clock either result is right.
                        let close = (balance + floor - cost).abs() < 1e-3;
                        prop_assert!(taken.is_some() == (balance + floor >= cost) || close);
                        let paid = taken.map_or(0, |taken| taken.balance);
                        prop_assert!((tokens(budget.balance + paid) - balance).abs() < 1e-3);
                        if let Some(taken) = taken {
                            naive.log.push((at, Logged::Paid {
                                balance: tokens(taken.balance),
                                floor: tokens(taken.floor),
                            }));
                            prop_assert!((tokens(taken.balance + taken.floor) - cost).abs() < 1e-9);
                            open.push(taken);
                        }
                    }
                    Op::Refund => if let Some(taken) = open.pop() {
                        budget.refund(&taken);
                        naive.log.push((at, Logged::Back {
                            balance: tokens(taken.balance),
                            floor: tokens(taken.floor),
                        }));
                    },
                }
                prop_assert!(budget.balance <= u64::from(config.cap) * TOKEN);
            }
        }

        #[test]
        fn in_no_interval_is_more_granted_than_cap_ratio_and_floor_allow(
            config in any_bucket(),
            ops in proptest::collection::vec(any_op(), 0..24),
        ) {
            let mut budget = Budget::new(config);
            let mut now = Duration::ZERO;
            // When, what was deposited, what was granted.
            let mut log: Vec<(Duration, f64, f64)> = Vec::new();
            for op in ops {
                match op {
                    Op::Pass(time) => now += time,
                    Op::Deposit => {
                        budget.deposit();
                        log.push((now, config.ratio, 0.0));
                    }
                    Op::Withdraw => {
                        if let Some(taken) = budget.withdraw(0, Moment::START.after(now)) {
                            log.push((now, 0.0, tokens(taken.balance + taken.floor)));
                        }
                    }
                    Op::Refund => {}
                }
            }
            let per_second = config.floor.unwrap_or(0.0);
            for (i, &(from, ..)) in log.iter().enumerate() {
                let (mut deposited, mut granted) = (0.0, 0.0);
                for &(to, deposit, grant) in &log[i..] {
                    deposited += deposit;
                    granted += grant;
                    let floor = per_second * (config.ttl + to.saturating_sub(from)).as_secs_f64();
                    let most = f64::from(config.cap) + deposited + floor;
                    prop_assert!(granted <= most + 1e-3, "{granted} of {most}");
                }
            }
        }
    }
}

//! Rows about retry budgets.

use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::{Kind, Outcome, RetryAdvice};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::advance;

use crate::words::{duration, words};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    budget: BudgetConfig,
    run: Vec<(String, String)>,
}

#[derive(Default)]
struct Seen {
    granted: u32,
    /// The results of the withdrawals.
    withdrawals: Vec<&'static str>,
    /// Withdrawals, each of which is given back when it is dropped.
    held: Vec<Box<dyn std::any::Any>>,
    calls: Vec<Box<dyn std::any::Any>>,
}

pub(crate) async fn drive(at: &str, case: Case) {
    let budget =
        RetryBudget::new("row", case.budget).unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut seen = Seen::default();
    for (number, (events, expected)) in case.run.iter().enumerate() {
        let step = format!("{at}, step {number}: {events}");
        seen.granted = 0;
        seen.withdrawals.clear();
        for word in words(events) {
            seen.act(&budget, &word);
            if let Some(time) = word.strip_prefix('+') {
                advance(duration(time)).await;
            }
        }
        for fact in expected.split(", ").filter(|fact| !fact.is_empty()) {
            seen.check(&step, &budget, fact);
        }
    }
}

impl Seen {
    fn act(&mut self, budget: &RetryBudget, word: &str) {
        let mut withdraw = || {
            let withdrawal = budget.try_withdraw();
            self.granted += u32::from(withdrawal.is_some());
            self.withdrawals
                .push(if withdrawal.is_some() { "ok" } else { "no" });
            withdrawal
        };
        match word {
            // A successful call.
            "S" => budget.deposit(),
            // A retry that runs and is over.
            "try" => {
                if let Some(mut withdrawal) = withdraw() {
                    withdrawal.started();
                }
            }
            // One that stays under way.
            "hold" => {
                if let Some(mut withdrawal) = withdraw() {
                    withdrawal.started();
                    self.held.push(Box::new(withdrawal));
                }
            }
            // One that is scheduled, and waits.
            "schedule" => {
                let withdrawal = withdraw();
                self.held.extend(withdrawal.map(|held| Box::new(held) as _));
            }
            "end" => drop(self.held.remove(0)),
            "call" => self.calls.push(Box::new(budget.begin())),
            "hang_up" => drop(self.calls.pop()),
            _ if word.starts_with('+') => {}
            failed => budget.failed(&outcome(failed)),
        }
    }

    fn check(&self, at: &str, budget: &RetryBudget, fact: &str) {
        let (what, value) = fact.split_once(' ').unwrap_or((fact, ""));
        let balance = budget.balance();
        let number = || value.parse::<f64>().expect("a number");
        let holds = match what {
            "granted" => self.granted.to_string() == value,
            "about" => (f64::from(self.granted) - number()).abs() <= 1.0,
            "withdrawals" => self.withdrawals.join(" ") == value,
            "balance" => (balance - number()).abs() < 1e-6,
            "held" => self.held.len().to_string() == value,
            other => panic!("{at}: nothing is known of `{other}`"),
        };
        assert!(
            holds,
            "{at}: not {fact}, but {} granted, {balance} left",
            self.granted
        );
    }
}

/// A failed attempt: `F` may be retried, `P` may not; `w`: the server names a wait, `!`: it forbids a retry.
fn outcome(word: &str) -> Outcome {
    let kind = match &word[..1] {
        "F" => Kind::Transient,
        "P" => Kind::Permanent,
        other => panic!("no outcome `{other}`"),
    };
    let outcome = Outcome::of(kind);
    match &word[1..] {
        "" => outcome,
        "w" => outcome.wait(Some(Duration::from_millis(1))),
        "!" => outcome.retry(RetryAdvice::Vetoed),
        other => panic!("no outcome `{other}`"),
    }
}

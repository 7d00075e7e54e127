//! Checks random histories.

use std::time::Duration;

use super::new_key::new_key;
use super::step::{Answer, HOUR, Holders, OVER, Request, Seen, Step};
use crate::chance::Draw;
use crate::idempotency::store::{RecordKey, Store};

const HISTORIES: u64 = 12;
const STEPS: usize = 100;

/// Compares the store with the rules, step by step. With look-ups, `find` and `resolve` are among the steps.
pub(super) async fn check(store: &dyn Store, with_lookups: bool) {
    for seed in 0..HISTORIES {
        let mut dice = Dice(seed);
        let keys: Vec<RecordKey> = (0..3).map(|_| new_key()).collect();
        let mut places = vec![None; keys.len()];
        let holders = Holders::new(3);
        let mut before = Vec::new();
        for _ in 0..STEPS {
            let number = dice.below(keys.len());
            let step = if with_lookups && dice.below(3) == 0 {
                dice.lookup()
            } else {
                dice.step()
            };
            let rule = holders.rule(&mut places[number], step.clone());
            let outcome = holders.execute(store, &keys[number], step.clone()).await;
            before.push(format!("  key {number}: {step:?}: {rule:?}\n"));
            assert!(
                outcome.as_ref().is_ok_and(|outcome| *outcome == rule),
                "the store violates its contract: the last of these steps gave {outcome:?} (history {seed}).\n{}",
                before.concat()
            );
        }
    }
}

/// A splitmix64 generator with a fixed seed, so every run checks the same histories.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = Draw::new(mixed ^ (mixed >> 31)).below(bound as u64);
        usize::try_from(drawn).unwrap_or(0)
    }

    fn step(&mut self) -> Step {
        let who = self.below(3);
        match self.below(10) {
            0..=4 => Step::Begin(who, self.request(), self.time(2), self.time(4)),
            5 => Step::Renew(who, self.time(2), self.time(4)),
            6 | 7 => Step::Complete(who, self.answer(), self.time(4)),
            _ => Step::Abandon(who),
        }
    }

    fn lookup(&mut self) -> Step {
        let run = u32::try_from(self.below(3)).unwrap_or(0) + 1;
        let seen = match self.below(6) {
            0 => Seen::Open(self.below(3), run),
            1 => Seen::Done(self.below(3), run),
            2 | 3 => Seen::Current,
            _ => return Step::Find,
        };
        let end = if self.below(2) == 0 {
            None
        } else {
            Some((self.answer(), self.time(4)))
        };
        Step::Resolve(seen, self.time(4), end)
    }

    /// Zero in one of `of` cases, otherwise an hour.
    fn time(&mut self, of: usize) -> Duration {
        if self.below(of) == 0 { OVER } else { HOUR }
    }

    fn request(&mut self) -> Request {
        if self.below(5) == 0 {
            Request::Other
        } else {
            Request::This
        }
    }

    fn answer(&mut self) -> Answer {
        let length = self.below(6);
        let bytes = (0..length).map(|_| u8::try_from(self.below(256)).unwrap_or(0));
        Answer(bytes.collect())
    }
}

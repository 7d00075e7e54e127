//! The handle under every order of events: nothing is lost, nothing is counted twice, nothing is counted too late.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::permit::BreakerPermit;
use super::{Breaker, BreakerConfig, Window};
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

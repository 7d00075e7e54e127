//! Checks look-up.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::cases::check_each;
use super::new_key::new_key;
use super::promises::{FIRST, Promise, SECOND, promise};
use super::step::FoundState::{Done, Running, Stopped};
use super::step::Outcome::{Nothing, Renewed, Started, Taken};
use super::step::Request::This;
use super::step::Step::{Abandon, Begin, Complete, Find, Renew, Resolve};
use super::step::{Answer, HOUR, Holders, OVER, Seen, found};
use crate::idempotency::store::{Entry, EntryState, RecordKey, Store};

/// How many records a scan must find, and how many a page has.
const RECORDS: usize = 120;
const PAGE: usize = 50;

/// Longer than a test takes. The clock of a store may be as coarse as a second.
const SLACK: Duration = Duration::from_secs(600);

pub(super) async fn check(store: &dyn Store) {
    check_each(store, finds()).await;
    times_are_right(store).await;
    the_age_counts_from_the_first_claim(store).await;
    a_scan_finds_every_record(store).await;
}

fn finds() -> Vec<Promise> {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let large = Answer(every_byte.repeat(4096).into());
    vec![
        promise(
            "a record is found in its present state",
            [
                (Find, Nothing),
                (Begin(0, This, HOUR, HOUR), Started(1)),
                (Find, found(1, Some(0), Running)),
                (Renew(0, OVER, HOUR), Renewed(true)),
                (Find, found(1, Some(0), Stopped)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Find, found(2, Some(1), Running)),
                (Complete(1, large.clone(), HOUR), Taken),
                (Find, found(2, Some(1), Done(large))),
            ],
        ),
        promise(
            "a record that was abandoned in a later run is found stopped, without a holder",
            [
                (Begin(0, This, OVER, HOUR), Started(1)),
                (Begin(1, This, HOUR, HOUR), Started(2)),
                (Abandon(1), Taken),
                (Find, found(2, None, Stopped)),
            ],
        ),
        promise(
            "an expired record is not found",
            [(Begin(0, This, OVER, OVER), Started(1)), (Find, Nothing)],
        ),
    ]
}

async fn entry(store: &dyn Store, key: &RecordKey) -> Entry {
    match store.find(key).await {
        Ok(Some(entry)) => entry,
        other => panic!("the store violates its contract: a record is found: {other:?}"),
    }
}

fn is_about(time: Duration, expected: Duration) -> bool {
    let rounded_up = Duration::from_secs(1);
    time <= expected + rounded_up && expected.saturating_sub(time) < SLACK
}

async fn times_are_right(store: &dyn Store) {
    let (key, holders) = (new_key(), Holders::new(2));
    let twice = 2 * HOUR;
    for (step, lease, left) in [
        (Begin(0, This, HOUR, HOUR), Some(HOUR), twice),
        (Renew(0, twice, HOUR), Some(twice), 3 * HOUR),
        (Renew(0, OVER, twice), None, twice),
        (Begin(1, This, HOUR, twice), Some(HOUR), 3 * HOUR),
        (Complete(1, FIRST, HOUR), None, HOUR),
        (
            Resolve(Seen::Current, OVER, Some((SECOND, twice))),
            None,
            twice,
        ),
        (
            Resolve(Seen::Current, OVER, Some((SECOND, HOUR))),
            None,
            HOUR,
        ),
    ] {
        let outcome = holders.execute(store, &key, step.clone()).await;
        let entry = entry(store, &key).await;
        let state_is_right = match entry.state {
            EntryState::Running { lease: left } => {
                lease.is_some_and(|expected| is_about(left, expected))
            }
            EntryState::Stopped { since } => since < SLACK,
            EntryState::Done { .. } => true,
        };
        assert!(
            state_is_right && is_about(entry.expires_in, left) && entry.age < SLACK,
            "the store violates its contract: an entry has the times of its record; after {step:?}, which gave {outcome:?}, \
             {entry:?}, but its lease must be {lease:?} and it must expire in {left:?}"
        );
    }
}

/// A record that was claimed before another one is at least as old, however often it was taken over since.
async fn the_age_counts_from_the_first_claim(store: &dyn Store) {
    let ([first, second], holders) = ([new_key(), new_key()], Holders::new(20));
    for key in [&first, &second] {
        let begun = holders
            .execute(store, key, Begin(0, This, OVER, HOUR))
            .await;
        assert!(begun.is_ok(), "the store fails: {begun:?}");
    }
    for who in 1..20 {
        let taken_over = holders
            .execute(store, &first, Begin(who, This, OVER, HOUR))
            .await;
        assert!(taken_over.is_ok(), "the store fails: {taken_over:?}");
    }
    is_at_least_as_old(store, &first, &second, "a takeover").await;
    for (step, what) in [
        (Renew(19, OVER, HOUR), "a renewal"),
        (Complete(19, FIRST, HOUR), "a completion"),
        (
            Resolve(Seen::Current, OVER, Some((SECOND, HOUR))),
            "a recorded response",
        ),
    ] {
        let outcome = holders.execute(store, &first, step).await;
        assert!(outcome.is_ok(), "the store fails: {outcome:?}");
        is_at_least_as_old(store, &first, &second, what).await;
    }
}

async fn is_at_least_as_old(store: &dyn Store, first: &RecordKey, second: &RecordKey, what: &str) {
    let younger = entry(store, second).await.age;
    let older = entry(store, first).await.age;
    assert!(
        older >= younger,
        "the store violates its contract: the age of a record counts from its first claim, and {what} does not reset it: {older:?}, but a \
         record that was claimed later is {younger:?} old"
    );
}

async fn a_scan_finds_every_record(store: &dyn Store) {
    let holders = Holders::new(2);
    let mut expected = HashMap::new();
    for number in 0..RECORDS {
        let key = new_key();
        let long = Bytes::from(format!("{number:04}, and more than is listed"));
        let lease = if number % 3 == 0 { OVER } else { HOUR };
        let claim = Begin(0, This, lease, HOUR);
        let mut outcome = holders.execute(store, &key, claim).await;
        let mut state = if number % 3 == 0 { Stopped } else { Running };
        if number % 3 == 2 {
            outcome = holders
                .execute(store, &key, Complete(0, Answer(long.clone()), HOUR))
                .await;
            state = Done(Answer(long.slice(..16)));
        }
        assert!(outcome.is_ok(), "the store fails: {outcome:?}");
        expected.insert(key, found(1, Some(0), state));
    }
    let before_the_scan = expected.clone();
    let mut left = expected;
    let (mut scan, mut is_first) = (Scan::default(), true);
    while let Some(entries) = scan.page(store).await {
        for entry in entries {
            let key = entry.key;
            if let Some(expected) = left.remove(&key) {
                let outcome = holders.found(&key, Some(entry));
                assert!(
                    outcome == expected,
                    "the store violates its contract: a scan shows each record as it is, with the first 16 bytes of its response: \
                     {outcome:?}, but it must be {expected:?}"
                );
            }
        }
        // Records that change during the scan are not skipped.
        if std::mem::take(&mut is_first) {
            for (key, expected) in &mut left {
                if *expected == found(1, Some(0), Stopped) {
                    let claim = Begin(1, This, HOUR, 2 * HOUR);
                    let outcome = holders.execute(store, key, claim).await;
                    assert!(outcome.is_ok(), "the store fails: {outcome:?}");
                    *expected = found(2, Some(1), Running);
                }
            }
        }
    }
    let missing = left.len();
    assert!(
        missing == 0,
        "the store violates its contract: each record that exists during the whole scan appears at least once: of {RECORDS}, {missing} \
         are missing"
    );
    // Scans again, after some records were deleted.
    for (key, expected) in &before_the_scan {
        if *expected == found(1, Some(0), Running) {
            let outcome = holders.execute(store, key, Abandon(0)).await;
            assert!(outcome.is_ok(), "the store fails: {outcome:?}");
        }
    }
    let mut scan = Scan::default();
    while let Some(entries) = scan.page(store).await {
        for entry in entries {
            assert!(
                before_the_scan.get(&entry.key) != Some(&found(1, Some(0), Running)),
                "the store violates its contract: a record that was deleted before a scan does not appear: {entry:?}"
            );
        }
    }
}

/// A scan of all records, page by page.
#[derive(Debug, Default)]
struct Scan {
    after: Option<String>,
    has_ended: bool,
}

impl Scan {
    async fn page(&mut self, store: &dyn Store) -> Option<Vec<Entry>> {
        if self.has_ended {
            return None;
        }
        let page = match store.list(self.after.as_deref(), PAGE).await {
            Ok(page) => page,
            Err(error) => panic!("the store fails: {error}"),
        };
        let next = page.next;
        assert!(
            next.is_none() || next != self.after,
            "the store violates its contract: a scan ends, but the cursor `{next:?}` leads to itself"
        );
        self.has_ended = next.is_none();
        self.after = next;
        Some(page.entries)
    }
}

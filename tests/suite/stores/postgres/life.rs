//! The life of a record, and many who want the same one.

use std::collections::BTreeSet;
use std::time::Duration;

use buttress::idempotency::store::{Begun, Claim, Ended, Fingerprint, RecordKey, Token};
use buttress::idempotency::store::{PostgresStore, Store};
use buttress::testing::{check_lookup, check_store};
use bytes::Bytes;

use super::{FINGERPRINT, KEY, MINUTE, Table, begin, brief, claim, config, pool};

const ANSWER: Bytes = Bytes::from_static(b"\0paid\xff");

async fn complete(store: &PostgresStore, token: Token) -> Ended {
    store
        .complete(&KEY, token, ANSWER, MINUTE)
        .await
        .expect("completed")
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (table, store) = Table::made().await;
    check_store(&store).await;
    check_lookup(&store).await;
    let mut config = config();
    config.options("-c default_transaction_isolation=serializable");
    let store = table.with(pool(config));
    check_store(&store).await;
    check_lookup(&store).await;
}

#[tokio::test]
async fn a_record_is_held_then_done_and_its_answer_is_told_byte_for_byte() {
    let (_table, store) = Table::made().await;
    let first = claim();
    assert_eq!(begin(&store, &first).await, Begun::Started { run: 1 });
    assert_eq!(begin(&store, &first).await, Begun::Started { run: 1 });
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    let other = Claim::new(Fingerprint([2; 32]), MINUTE, MINUTE);
    assert_eq!(begin(&store, &other).await, Begun::Mismatch);

    assert_eq!(complete(&store, Token::new()).await, Ended::Lost);
    assert_eq!(complete(&store, first.token).await, Ended::Taken);
    let again = store
        .complete(&KEY, first.token, Bytes::new(), MINUTE)
        .await
        .expect("an answer");
    assert_eq!(again, Ended::Already(ANSWER));
    assert_eq!(
        store.abandon(&KEY, first.token).await.expect("an answer"),
        Ended::Already(ANSWER)
    );
    assert_eq!(begin(&store, &claim()).await, Begun::Done(ANSWER));
    assert_eq!(begin(&store, &first).await, Begun::Done(ANSWER));
    assert_eq!(begin(&store, &other).await, Begun::Mismatch);
}

#[tokio::test]
async fn a_lease_that_is_over_passes_the_record_on_and_its_holder_has_lost_it() {
    let (_table, store) = Table::made().await;
    let (first, second, third) = (brief(), brief(), claim());
    assert_eq!(begin(&store, &first).await, Begun::Started { run: 1 });
    assert!(
        store
            .renew(&KEY, first.token, Duration::ZERO, MINUTE)
            .await
            .expect("renewed")
    );
    assert_eq!(begin(&store, &second).await, Begun::Started { run: 2 });
    assert_eq!(begin(&store, &second).await, Begun::Started { run: 2 });
    assert!(
        !store
            .renew(&KEY, first.token, MINUTE, MINUTE)
            .await
            .expect("asked")
    );
    assert_eq!(complete(&store, first.token).await, Ended::Lost);
    assert_eq!(
        store.abandon(&KEY, first.token).await.expect("asked"),
        Ended::Lost
    );
    // With its lease over it is still the holder's.
    assert!(
        store
            .renew(&KEY, second.token, MINUTE, MINUTE)
            .await
            .expect("renewed")
    );
    assert_eq!(begin(&store, &third).await, Begun::Running);
    assert_eq!(complete(&store, second.token).await, Ended::Taken);
    assert!(
        !store
            .renew(&KEY, second.token, MINUTE, MINUTE)
            .await
            .expect("asked")
    );
}

#[tokio::test]
async fn what_is_abandoned_or_over_begins_anew_in_run_1() {
    let (table, store) = Table::made().await;
    let second = claim();
    assert_eq!(begin(&store, &second).await, Begun::Started { run: 1 });
    assert_eq!(
        store.abandon(&KEY, second.token).await.expect("abandoned"),
        Ended::Taken
    );
    assert_eq!(table.rows().await, 0);
    let third = Claim::new(Fingerprint([3; 32]), Duration::ZERO, Duration::ZERO);
    assert_eq!(begin(&store, &third).await, Begun::Started { run: 1 });
    assert_eq!(complete(&store, third.token).await, Ended::Lost);
    assert!(
        !store
            .renew(&KEY, third.token, MINUTE, MINUTE)
            .await
            .expect("asked")
    );
    // A record whose time is over is as none: its fingerprint too.
    let fourth = claim();
    assert_eq!(begin(&store, &fourth).await, Begun::Started { run: 1 });
    let done = store
        .complete(&KEY, fourth.token, ANSWER, Duration::ZERO)
        .await;
    assert_eq!(done.expect("completed"), Ended::Taken);
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn the_longest_and_the_shortest_times_are_ordinary_ones() {
    let (table, store) = Table::made().await;
    let forever = Claim::new(FINGERPRINT, Duration::MAX, Duration::MAX);
    assert_eq!(begin(&store, &forever).await, Begun::Started { run: 1 });
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    assert!(
        store
            .renew(&KEY, forever.token, Duration::MAX, Duration::MAX)
            .await
            .expect("renewed")
    );
    let done = store
        .complete(&KEY, forever.token, ANSWER, Duration::MAX)
        .await;
    assert_eq!(done.expect("completed"), Ended::Taken);
    assert_eq!(begin(&store, &claim()).await, Begun::Done(ANSWER));

    let key = RecordKey([8; 32]);
    let instant = Claim::new(FINGERPRINT, Duration::from_nanos(1), Duration::ZERO);
    store.begin(&key, &instant).await.expect("begun");
    let lasts: bool = table
        .client
        .query_one(
            &format!(
                "SELECT gone_at > '-infinity' AND lease_until <= gone_at FROM {} WHERE key = $1",
                table.name
            ),
            &[&key.0.as_slice()],
        )
        .await
        .expect("a row")
        .get(0);
    assert!(lasts);
}

/// All claims at once, of two stores with connections of their own.
async fn all_at_once(stores: [PostgresStore; 2], key: RecordKey, claims: Vec<Claim>) -> Vec<Begun> {
    let mut calls = Vec::new();
    for (index, claim) in claims.into_iter().enumerate() {
        let store = stores[index % 2].clone();
        calls.push(tokio::spawn(async move { store.begin(&key, &claim).await }));
    }
    let mut all = Vec::new();
    for call in calls {
        all.push(call.await.expect("no panic").expect("begun"));
    }
    all
}

fn started(all: &[Begun]) -> Vec<u32> {
    let runs = all.iter().filter_map(|begun| match begun {
        Begun::Started { run } => Some(*run),
        _ => None,
    });
    runs.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_starts_in_whatever_process() {
    let (table, store) = Table::made().await;
    for round in 0..20 {
        let stores = [store.clone(), table.with(pool(config()))];
        let claims = (0..32).map(|_| claim()).collect();
        let all = all_at_once(stores, RecordKey([round; 32]), claims).await;
        assert_eq!(started(&all), [1]);
        let running = all.iter().filter(|begun| **begun == Begun::Running).count();
        assert_eq!(running, 31);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_no_two_are_in_the_same_run() {
    let (table, store) = Table::made().await;
    for round in 0..20 {
        let stores = [store.clone(), table.with(pool(config()))];
        let claims = (0..8).map(|_| brief()).collect();
        let all = all_at_once(stores, RecordKey([round; 32]), claims).await;
        let runs: BTreeSet<u32> = started(&all).into_iter().collect();
        assert_eq!(
            runs.into_iter().collect::<Vec<_>>(),
            (1..=8).collect::<Vec<_>>()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_whose_default_is_serializable_gives_the_same_answers() {
    for isolation in ["serializable", r"repeatable\ read"] {
        let (table, _) = Table::made().await;
        let mut config = config();
        config.options(format!("-c default_transaction_isolation={isolation}"));
        let stores = [
            table.with(pool(config.clone())),
            table.with(pool(config.clone())),
        ];
        for round in 0..10 {
            let key = RecordKey([round; 32]);
            let mut claims: Vec<Claim> = (0..8).map(|_| claim()).collect();
            let all = all_at_once(stores.clone(), key, claims.clone()).await;
            assert_eq!(started(&all), [1], "{isolation}");
            let holder = claims.swap_remove(
                all.iter()
                    .position(|begun| matches!(begun, Begun::Started { .. }))
                    .expect("one"),
            );
            let done = stores[1].complete(&key, holder.token, ANSWER, MINUTE).await;
            assert_eq!(done.expect("completed"), Ended::Taken);
        }
    }
}

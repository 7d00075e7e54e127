//! The contract, and concurrent claims of the same record.

use std::collections::BTreeSet;

use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Store};
use buttress::testing::{check_lookup, check_store};
use buttress_postgres::PostgresStore;

use super::{MINUTE, Table, brief, claim, config, pool};

#[tokio::test]
async fn it_fulfills_the_contract() {
    let (table, store) = Table::made().await;
    check_store(&store).await;
    check_lookup(&store).await;
    let mut config = config();
    config.options("-c default_transaction_isolation=serializable");
    let store = table.with(pool(config));
    check_store(&store).await;
    check_lookup(&store).await;
}

/// Concurrent claims of two stores with separate connections.
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
async fn concurrent_claims_are_in_different_runs() {
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
async fn one_of_many_concurrent_claims_starts_at_any_default_isolation() {
    for isolation in [r"read\ committed", r"repeatable\ read", "serializable"] {
        let (table, _) = Table::made().await;
        let mut config = config();
        config.options(format!("-c default_transaction_isolation={isolation}"));
        let stores = [table.with(pool(config.clone())), table.with(pool(config))];
        for round in 0..20 {
            let key = RecordKey([round; 32]);
            let claims: Vec<Claim> = (0..32).map(|_| claim()).collect();
            let all = all_at_once(stores.clone(), key, claims.clone()).await;
            assert_eq!(started(&all), [1], "{isolation}");
            let running = all.iter().filter(|begun| **begun == Begun::Running);
            assert_eq!(running.count(), 31, "{isolation}");
            let holder = all.iter().position(|begun| *begun != Begun::Running);
            let token = claims[holder.expect("one")].token;
            let done = stores[1].complete(&key, token, "paid".into(), MINUTE).await;
            assert_eq!(done.expect("completed"), Ended::Taken);
        }
    }
}

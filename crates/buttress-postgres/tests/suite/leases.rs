//! Renewals and concurrent takeovers of leases.

use std::time::Duration;

use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Store};
use buttress_postgres::PostgresStore;
use bytes::Bytes;

use super::{FINGERPRINT, KEY, MINUTE, Table, begin, brief, claim, config, pool};

const ANSWER: Bytes = Bytes::from_static(b"paid");

async fn renew(store: &PostgresStore, claim: &Claim, lease: Duration) -> bool {
    let renewed = store.renew(&KEY, claim.token, lease, MINUTE).await;
    renewed.expect("renewed")
}

/// Where the record's row is, who locks it, and how many leases were renewed.
async fn place(table: &Table) -> (String, i64) {
    let sql = format!(
        "SELECT ctid::text, (SELECT count(*) FROM {0}_leases) FROM {0}",
        table.name
    );
    let row = table.client.query_one(&sql, &[]).await.expect("a row");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_renewal_leaves_the_record_where_it_is_unless_it_ends_the_lease() {
    let (table, store) = Table::made().await;
    let holder = claim();
    begin(&store, &holder).await;
    let (before, _) = place(&table).await;
    assert!(renew(&store, &holder, 2 * MINUTE).await);
    assert!(renew(&store, &holder, 3 * MINUTE).await);
    assert_eq!(place(&table).await, (before.clone(), 1));
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    // Shorter than the remaining time.
    assert!(renew(&store, &holder, MINUTE / 2).await);
    assert!(renew(&store, &holder, Duration::ZERO).await);
    let (after, leases) = place(&table).await;
    assert!(after != before && leases == 0);
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 2 });
}

#[tokio::test]
async fn a_renewed_lease_holds_when_the_first_one_is_over() {
    let (table, store) = Table::made().await;
    let first = brief();
    begin(&store, &first).await;
    assert!(renew(&store, &first, MINUTE).await);
    assert_eq!(place(&table).await.1, 1);
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    // Nor has the record expired with the time to live of its claim.
    table
        .execute("UPDATE {} SET gone_at = now(), reap_at = now()")
        .await;
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    assert_eq!(store.reap().await.expect("reaped"), 0);
    assert!(renew(&store, &first, 2 * MINUTE).await);
    let done = store.complete(&KEY, first.token, ANSWER, MINUTE).await;
    assert_eq!(done.expect("completed"), Ended::Taken);
    assert_eq!(begin(&store, &claim()).await, Begun::Done(ANSWER));
    // After completion its own time to live counts.
    table
        .execute("UPDATE {} SET gone_at = now(), reap_at = now()")
        .await;
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn a_lease_counts_for_the_holder_who_renewed_it_only() {
    let (table, store) = Table::made().await;
    let (first, second) = (brief(), brief());
    begin(&store, &first).await;
    assert!(renew(&store, &first, MINUTE).await);
    table
        .execute("UPDATE {}_leases SET lease_until = now()")
        .await;
    assert_eq!(begin(&store, &second).await, Begun::Started { run: 2 });
    assert!(!renew(&store, &first, MINUTE).await);
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 3 });
    // A repeated claim counts from now, and has no renewed lease.
    assert_eq!(begin(&store, &second).await, Begun::Running);
}

#[tokio::test]
async fn an_operation_that_is_given_up_leaves_no_lease_behind() {
    let (table, store) = Table::made().await;
    let first = claim();
    begin(&store, &first).await;
    assert!(renew(&store, &first, 2 * MINUTE).await);
    let given_up = store.abandon(&KEY, first.token).await;
    assert_eq!(given_up.expect("given up"), Ended::Taken);
    let leases = format!("SELECT FROM {}_leases", table.name);
    let leases = || table.client.query(&leases, &[]);
    assert!(leases().await.expect("leases").is_empty());

    let again = Claim::new(FINGERPRINT, MINUTE, Duration::ZERO);
    begin(&store, &again).await;
    assert!(renew(&store, &again, 2 * MINUTE).await);
    let done = store.complete(&KEY, again.token, ANSWER, Duration::ZERO);
    assert_eq!(done.await.expect("completed"), Ended::Taken);
    table
        .execute(
            "UPDATE {} SET reap_at = now(); UPDATE {}_leases SET reap_at = now(), gone_at = now()",
        )
        .await;
    assert_eq!(store.reap().await.expect("reaped"), 1);
    assert!(leases().await.expect("leases").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_concurrent_renewal_and_takeover_one_sees_the_other() {
    let (table, store) = Table::made().await;
    let mut serializable = config();
    serializable.options("-c default_transaction_isolation=serializable");
    let other = table.with(pool(serializable));
    for (holders, others) in [(&store, &store), (&store, &other), (&other, &store)] {
        for round in 0..100_u8 {
            table.execute("DELETE FROM {}; DELETE FROM {}_leases").await;
            let key = RecordKey([round; 32]);
            let (first, second) = (brief(), claim());
            store.begin(&key, &first).await.expect("begun");
            if round % 2 == 0 {
                // An ended lease that was renewed before.
                let over = Duration::from_micros(1);
                store
                    .renew(&key, first.token, over, MINUTE)
                    .await
                    .expect("renewed");
            }
            let renewing = {
                let store = holders.clone();
                tokio::spawn(async move { store.renew(&key, first.token, MINUTE, MINUTE).await })
            };
            let taking = {
                let store = others.clone();
                tokio::spawn(async move { store.begin(&key, &second).await })
            };
            let renewed = renewing.await.expect("no panic").expect("renewed");
            let begun = taking.await.expect("no panic").expect("begun");
            let expected = if renewed {
                Begun::Running
            } else {
                Begun::Started { run: 2 }
            };
            assert_eq!(begun, expected, "renewed: {renewed}");
        }
    }
}

/// The share of updates of a table that changed no index, once the server has counted this many.
async fn hot(table: &Table, suffix: &str, updates: i64) -> f64 {
    let name = format!("{}{suffix}", table.name);
    let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1";
    loop {
        let row = table.client.query_one(sql, &[&name]).await.expect("a row");
        let (all, hot): (i64, i64) = (row.get(0), row.get(1));
        if all >= updates {
            #[expect(clippy::cast_precision_loss, reason = "a few thousands")]
            return hot as f64 / all as f64;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn renewals_and_repeated_claims_change_no_index() {
    let (table, store) = Table::made().await;
    let key = |number: u64| {
        let mut key = RecordKey([0; 32]);
        key.0[..8].copy_from_slice(&number.to_be_bytes());
        key
    };
    for number in 0..300 {
        let (key, mut holder) = (key(number), brief());
        store.begin(&key, &holder).await.expect("begun");
        for run in 2..=4 {
            holder = brief();
            let begun = store.begin(&key, &holder).await;
            assert_eq!(begun.expect("begun"), Begun::Started { run });
        }
        for _ in 0..4 {
            let renewed = store.renew(&key, holder.token, MINUTE, MINUTE).await;
            assert!(renewed.expect("renewed"));
        }
        let done = store.complete(&key, holder.token, ANSWER, MINUTE);
        assert_eq!(done.await.expect("completed"), Ended::Taken);
    }
    // The server counts what a connection has done when the connection is idle for a while, or ends.
    drop(store);
    let records = hot(&table, "", 4 * 300).await;
    let leases = hot(&table, "_leases", 3 * 300).await;
    println!("HOT: {records:.3} of the records' updates, {leases:.3} of the leases'");
    assert!(records >= 0.9 && leases >= 0.9, "{records} {leases}");
}

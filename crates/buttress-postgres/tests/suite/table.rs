//! Creating, reading and reaping the table.

use std::time::Duration;

use buttress::idempotency::store::Store;
use buttress::idempotency::store::{Begun, Claim, Ended, Fingerprint, Token};
use bytes::Bytes;

use super::{
    FINGERPRINT, KEY, MINUTE, Table, begin, brief, claim, config, pool, unavailable, unreadable,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_concurrent_migrations_create_one_table() {
    let table = Table::named().await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        let store = table.store();
        calls.push(tokio::spawn(async move { store.migrate().await }));
    }
    for call in calls {
        call.await.expect("no panic").expect("migrated");
    }
    assert_eq!(
        begin(&table.store(), &claim()).await,
        Begun::Started { run: 1 }
    );
    table.store().migrate().await.expect("once more");
    assert_eq!(table.rows().await, 1);
}

#[tokio::test]
async fn a_manual_migration_creates_the_same_table() {
    let table = Table::named().await;
    let store = table.store();
    table.execute(&store.migration()).await;
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
    store.migrate().await.expect("there already");
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
}

#[tokio::test]
async fn the_error_of_a_missing_table_names_migrate() {
    let table = Table::named().await;
    let message = unavailable(table.store().begin(&KEY, &claim())).await;
    assert!(message.contains("42P01"), "{message}");
    assert!(message.contains("PostgresStore::migrate"), "{message}");
}

#[tokio::test]
async fn a_newer_or_foreign_table_is_left_unchanged() {
    let (table, store) = Table::made().await;
    for version in [1, 3] {
        table
            .execute(&format!(
                "COMMENT ON TABLE {{}} IS 'buttress idempotency, version {version}'"
            ))
            .await;
        let message = unreadable(store.migrate()).await;
        assert!(
            message.contains(&format!("has version {version}")),
            "{message}"
        );
    }

    table
        .execute("DROP TABLE {}; CREATE TABLE {} (id int); COMMENT ON TABLE {} IS 'orders'")
        .await;
    let message = unreadable(store.migrate()).await;
    assert!(message.contains("comment is not"), "{message}");
    unavailable(store.begin(&KEY, &claim())).await;
}

/// A row as this version writes it: later versions must still read it.
const GOLDEN: &str = r"INSERT INTO {} (key, version, fingerprint, token, run, claimed_at, lease_until, gone_at, reap_at, answer)
    VALUES (decode(repeat('07', 32), 'hex'), 1, decode(repeat('01', 32), 'hex'), decode(repeat('09', 16), 'hex'), 3,
    '2001-01-01 00:00:00Z', '2001-01-01 00:00:00Z', 'infinity', 'infinity', '\x00706169640aff')";

#[tokio::test]
async fn rows_of_this_version_are_read() {
    let (table, store) = Table::made().await;
    table.execute(GOLDEN).await;
    let answer = Bytes::from_static(b"\0paid\n\xff");
    assert_eq!(begin(&store, &claim()).await, Begun::Done(answer.clone()));
    let other = Claim::new(Fingerprint([2; 32]), MINUTE, MINUTE);
    assert_eq!(begin(&store, &other).await, Begun::Mismatch);
    let ended = store.abandon(&KEY, Token([9; 16])).await.expect("a result");
    assert_eq!(ended, Ended::Already(answer));
    assert_eq!(store.reap().await.expect("reaped"), 0);
    table.execute("UPDATE {} SET answer = NULL").await;
    let renewed = store.renew(&KEY, Token([9; 16]), Duration::ZERO, MINUTE);
    assert!(renewed.await.expect("a result"));
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 4 });
}

#[tokio::test]
async fn an_unreadable_row_is_an_error_and_never_run_again() {
    for (change, text) in [
        ("version = 2", "version is 2"),
        ("version = 0, token = ''", "version is 0"),
        (r"fingerprint = '\x01'", "fingerprint has 1 bytes"),
    ] {
        let (table, store) = Table::made().await;
        let holder = brief();
        begin(&store, &holder).await;
        table.execute(&format!("UPDATE {{}} SET {change}")).await;
        let message = unreadable(store.begin(&KEY, &claim())).await;
        assert!(message.contains(text), "{message}");
        assert!(
            !matches!(
                store
                    .complete(&KEY, holder.token, Bytes::new(), MINUTE)
                    .await,
                Ok(Ended::Taken)
            ) || change.starts_with("fingerprint")
        );
        assert_eq!(table.rows().await, 1);
    }
}

#[tokio::test]
async fn the_largest_run_number_stays() {
    let (table, store) = Table::made().await;
    begin(&store, &brief()).await;
    table.execute("UPDATE {} SET run = 2147483647").await;
    assert_eq!(
        begin(&store, &brief()).await,
        Begun::Started { run: 2_147_483_647 }
    );
}

const GONE: &str = "INSERT INTO {} (key, version, fingerprint, token, run, claimed_at, lease_until, gone_at, reap_at)
    SELECT decode(md5(n::text) || md5(n::text), 'hex'), 1, '', '', 1, now(), now(), now() - n * interval '1 second',
        now() - n * interval '1 second'
    FROM generate_series(1, 2500) AS n";

#[tokio::test]
async fn expired_rows_are_deleted_in_batches_and_locked_rows_are_left() {
    let (table, store) = Table::made().await;
    begin(&store, &claim()).await;
    table.execute(GONE).await;
    table
        .execute("BEGIN; SELECT FROM {} WHERE reap_at < now() ORDER BY reap_at LIMIT 7 FOR UPDATE")
        .await;
    assert_eq!(store.reap().await.expect("reaped"), 2493);
    table.execute("COMMIT").await;
    assert_eq!(store.reap().await.expect("reaped"), 7);
    assert_eq!(store.reap().await.expect("reaped"), 0);
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
}

#[tokio::test]
async fn reaping_looks_into_the_index() {
    let (table, store) = Table::made().await;
    table.execute("SET enable_seqscan = off").await;
    table.execute(GONE).await;
    let plan: Vec<String> = table
        .client
        .query(
            &format!(
                "EXPLAIN SELECT key FROM {} WHERE reap_at <= now() ORDER BY reap_at LIMIT 1000 FOR UPDATE SKIP LOCKED",
                table.name
            ),
            &[],
        )
        .await
        .expect("a plan")
        .iter()
        .map(|row| row.get(0))
        .collect();
    let index = format!("{}_reap_at", table.name);
    assert!(plan.iter().any(|line| line.contains(&index)), "{plan:?}");
    drop(store);
}

#[tokio::test]
async fn the_task_that_reaps_ends_with_the_last_clone() {
    let (table, _) = Table::made().await;
    table.execute(GONE).await;
    let pool = pool(config());
    let weak = pool.weak();
    let store = table.with(pool).reap_every(Some(Duration::ZERO));
    let clone = store.clone();
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
    drop(store);
    while table.rows().await > 1 {
        tokio::task::yield_now().await;
    }
    assert!(weak.upgrade().is_some());
    drop(clone);
    while weak.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_duplicate_only_reads() {
    let (table, store) = Table::made().await;
    let holder = claim();
    begin(&store, &holder).await;
    // It works with a lock on the row and on a read-only server.
    table.execute("BEGIN; SELECT FROM {} FOR UPDATE").await;
    let row = format!(
        "SELECT xmin::text, xmax::text, ctid::text FROM {}",
        table.name
    );
    let before = table.client.query_one(&row, &[]).await.expect("a row");
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    let other = Claim::new(Fingerprint([5; 32]), MINUTE, MINUTE);
    assert_eq!(begin(&store, &other).await, Begun::Mismatch);
    let after = table.client.query_one(&row, &[]).await.expect("a row");
    for column in 0..3 {
        assert_eq!(
            before.get::<_, String>(column),
            after.get::<_, String>(column)
        );
    }
    table.execute("COMMIT").await;
    assert_eq!(holder.fingerprint, FINGERPRINT);
}

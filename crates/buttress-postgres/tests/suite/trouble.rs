//! A server that is down, slow, full, read-only, or no PostgreSQL.

use std::time::Duration;

use buttress::idempotency::store::{Begun, Ended};
use buttress::idempotency::store::{Store, StoreError};
use buttress_postgres::PostgresStore;
use bytes::Bytes;
use deadpool_postgres::Pool;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::proxy::{Mode, Proxy, nowhere};
use super::{KEY, MINUTE, Table, begin, brief, claim, config, pool, unavailable};

const ANSWER: Bytes = Bytes::from_static(b"paid");
const SOON: Duration = Duration::from_millis(200);

/// A store behind a proxy, with a record.
async fn proxied() -> (Table, Proxy, Pool, PostgresStore) {
    let (table, _) = Table::made().await;
    let proxy = Proxy::new().await;
    let pool = pool(proxy.url().parse().expect("an address"));
    let store = table.with(pool.clone());
    begin(&store, &claim()).await;
    (table, proxy, pool, store)
}

#[tokio::test]
async fn each_method_is_one_round_trip_a_duplicate_two_and_a_takeover_three() {
    let (table, _) = Table::made().await;
    let proxy = Proxy::new().await;
    let config = proxy.url().parse().expect("an address");
    for store in [table.at(&proxy.url()), table.with(pool(config))] {
        // The first time, each statement is prepared.
        for expected in [[2, 4, 2, 2, 2, 2], [3, 3, 2, 1, 1, 1]] {
            let mut last = proxy.asked();
            let mut trips = Vec::new();
            let mut count = || {
                let asked = proxy.asked();
                trips.push(asked - std::mem::replace(&mut last, asked));
            };
            let (first, second) = (brief(), claim());
            assert_eq!(begin(&store, &first).await, Begun::Started { run: 1 });
            count();
            assert_eq!(begin(&store, &second).await, Begun::Started { run: 2 });
            count();
            assert_eq!(begin(&store, &claim()).await, Begun::Running);
            count();
            let renewed = store.renew(&KEY, second.token, MINUTE, MINUTE).await;
            assert!(renewed.expect("renewed"));
            count();
            let done = store
                .complete(&KEY, second.token, ANSWER, Duration::ZERO)
                .await;
            assert_eq!(done.expect("completed"), Ended::Taken);
            count();
            let lost = store.abandon(&KEY, second.token).await;
            assert_eq!(lost.expect("a result"), Ended::Lost);
            count();
            assert_eq!(trips, expected);
        }
        table.execute("DELETE FROM {}").await;
    }
    assert_eq!(proxy.connected(), 2);
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_and_is_used_again_once_it_is_back() {
    let (table, _) = Table::made().await;
    let proxy = Proxy::new().await;
    let store = table.at(&proxy.url());
    let holder = claim();
    assert_eq!(begin(&store, &holder).await, Begun::Started { run: 1 });
    proxy.set(Mode::Closes);
    unavailable(store.begin(&KEY, &claim())).await;
    unavailable(store.complete(&KEY, holder.token, ANSWER, MINUTE)).await;
    unavailable(store.renew(&KEY, holder.token, MINUTE, MINUTE)).await;
    unavailable(store.abandon(&KEY, holder.token)).await;
    unavailable(store.reap()).await;
    unavailable(store.migrate()).await;
    proxy.set(Mode::Forwards);
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    let done = store.complete(&KEY, holder.token, ANSWER, MINUTE).await;
    assert_eq!(done.expect("completed"), Ended::Taken);
}

#[tokio::test]
async fn connections_that_a_restart_has_ended_are_no_error() {
    let (table, _) = Table::made().await;
    let mut config = config();
    config.application_name(&table.name);
    let store = table.with(pool(config));
    let holder = claim();
    begin(&store, &holder).await;
    for _ in 0..10 {
        // The last message of the server: terminated by an administrator.
        let ended = table
            .client
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
                &[&table.name],
            )
            .await
            .expect("ended");
        assert_eq!(ended.len(), 1);
        assert_eq!(begin(&store, &claim()).await, Begun::Running);
    }
    assert_eq!(begin(&store, &holder).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn a_statement_that_is_ended_while_it_waits_is_executed_again() {
    let (table, store) = Table::made().await;
    let holder = claim();
    begin(&store, &holder).await;
    table.execute("BEGIN; SELECT FROM {} FOR UPDATE").await;
    let waiting = {
        let (store, token) = (store.clone(), holder.token);
        tokio::spawn(async move { store.complete(&KEY, token, ANSWER, MINUTE).await })
    };
    table.somebody_waits().await;
    table
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND position('{}' IN query) > 0; COMMIT",
        )
        .await;
    assert_eq!(
        waiting.await.expect("no panic").expect("completed"),
        Ended::Taken
    );
}

#[tokio::test]
async fn a_server_that_is_slow_is_an_error_in_time_and_its_connection_is_not_used_again() {
    let (_table, proxy, pool, store) = proxied().await;
    assert_eq!(pool.status().size, 1);
    proxy.set(Mode::Stalls);
    let late = store.clone().timeout(SOON);
    let message = unavailable(late.begin(&KEY, &claim())).await;
    assert!(message.contains("within 200ms"), "{message}");
    assert_eq!(pool.status().size, 0);
    // The limit includes connecting.
    unavailable(late.begin(&KEY, &claim())).await;
    proxy.set(Mode::Forwards);
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
}

#[tokio::test]
async fn a_row_that_is_locked_for_too_long_is_an_error_in_time() {
    let (table, store) = Table::made().await;
    let holder = claim();
    begin(&store, &holder).await;
    table.execute("BEGIN; SELECT FROM {} FOR UPDATE").await;
    let late = store.clone().timeout(SOON);
    let message = unavailable(late.complete(&KEY, holder.token, ANSWER, MINUTE)).await;
    assert!(message.contains("within 200ms"), "{message}");
    table.execute("COMMIT").await;
    // The server may have executed the first statement nevertheless, once the lock was released.
    let done = store.complete(&KEY, holder.token, ANSWER, MINUTE).await;
    let done = done.expect("completed");
    assert!(
        [Ended::Taken, Ended::Already(ANSWER)].contains(&done),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_pool_that_has_no_connection_left_is_an_error_in_time() {
    let (table, _) = Table::made().await;
    let pool = pool(config());
    let store = table.with(pool.clone()).timeout(SOON);
    let mut held = Vec::new();
    for _ in 0..pool.status().max_size {
        held.push(pool.get().await.expect("a connection"));
    }
    unavailable(store.begin(&KEY, &claim())).await;
    drop(held);
    let store = store.timeout(MINUTE);
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_connection_behind() {
    let (_table, proxy, pool, store) = proxied().await;
    proxy.set(Mode::Stalls);
    let asked = proxy.asked();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.begin(&KEY, &claim()).await })
    };
    while proxy.asked() == asked {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    assert!(waiting.await.expect_err("dropped").is_cancelled());
    assert_eq!(pool.status().size, 0);
}

#[tokio::test]
async fn a_read_only_server_is_an_error_for_writes() {
    let (table, store) = Table::made().await;
    let mut config = config();
    config.options("-c default_transaction_read_only=on");
    let pool = pool(config);
    let standby = table.with(pool.clone());
    let message = unavailable(standby.begin(&KEY, &claim())).await;
    assert!(message.contains("25006"), "{message}");
    // The next call may find another server.
    assert_eq!(pool.status().size, 0);
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn a_disk_that_is_full_is_a_full_store() {
    let (table, store) = Table::made().await;
    table
        .execute(
            "CREATE FUNCTION {}_fails() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER fails BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION {}_fails()",
        )
        .await;
    let error = store.begin(&KEY, &claim()).await.expect_err("full");
    assert!(matches!(&error, StoreError::Full(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "idempotency store full: could not extend file (53100)"
    );
    table
        .execute("DROP TRIGGER fails ON {}; DROP FUNCTION {}_fails")
        .await;
    assert_eq!(begin(&store, &claim()).await, Begun::Started { run: 1 });
}

#[tokio::test]
async fn another_or_no_server_is_an_error() {
    let nowhere = PostgresStore::with(pool(nowhere().await));
    unavailable(nowhere.begin(&KEY, &claim())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let url = format!("postgres://nobody@{address}/none");
    let store = PostgresStore::connect(&url).expect("an address");
    unavailable(store.begin(&KEY, &claim())).await;
}

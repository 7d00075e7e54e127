//! The completion of a record in a transaction of another client.

use std::time::Duration;

use http::Response;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Transaction};

use super::payments::{AGAIN, Body, FAILED, Handler, PAID, Payments, end, is_in_progress, paid};
use super::{MINUTE, connect};
use buttress::idempotency::store::Store;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn act(payments: &Payments, transaction: &Transaction<'_>, handler: &Handler) {
    let acted = transaction.batch_execute(&payments.effect(handler)).await;
    acted.expect("acted");
}

/// The completion in a transaction that is not committed yet, as another client would do it. Returns the step after the commit.
async fn written(
    payments: &Payments,
    transaction: &Transaction<'_>,
    handler: &Handler,
) -> impl FnOnce() -> Response<Body> + use<> {
    let completion = payments.store.completion(&handler.operation, paid()).await;
    let completion = completion.expect("a completion");
    let token = completion.token();
    let parameters: [&(dyn ToSql + Sync); 4] = [
        &completion.key(),
        &token.as_slice(),
        &completion.answer(),
        &completion.ttl(),
    ];
    let rows = transaction
        .execute(completion.statement(), &parameters)
        .await;
    let written = completion
        .written(rows.expect("executed"))
        .expect("one row");
    || written.committed()
}

#[tokio::test]
async fn any_client_completes_the_record_in_its_transaction_and_duplicates_do_not_wait_for_it() {
    let (payments, call, handler) = Payments::called().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    act(&payments, &transaction, &handler).await;
    let written = written(&payments, &transaction, &handler).await;
    let duplicate = end(payments.call()).await;
    assert!(is_in_progress(&duplicate), "{duplicate:?}");
    assert!(payments.effects().await.is_empty());
    transaction.commit().await.expect("committed");
    handler.ends(written());
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [1]);
    assert_eq!(end(payments.call()).await, AGAIN);
}

#[tokio::test]
async fn a_completion_without_committed_is_looked_up() {
    for commits in [true, false] {
        let (payments, call, handler) = Payments::called().await;
        let mut client = connect().await;
        let transaction = client.transaction().await.expect("a transaction");
        act(&payments, &transaction, &handler).await;
        drop(written(&payments, &transaction, &handler).await);
        handler.fails();
        // The layer reads the record, which waits for the transaction.
        payments.table.somebody_waits().await;
        if commits {
            transaction.commit().await.expect("committed");
            assert_eq!(end(call).await, PAID);
            assert_eq!(payments.effects().await, [1]);
        } else {
            transaction.rollback().await.expect("rolled back");
            assert_eq!(end(call).await, FAILED);
            assert!(payments.effects().await.is_empty());
            assert_eq!(payments.table.rows().await, 0);
        }
    }
}

#[tokio::test]
async fn a_takeover_waits_for_a_holder_that_is_about_to_commit() {
    for commits in [true, false] {
        let mut payments = Payments::new().await;
        let first = payments.call();
        let handler = payments.handler().await;
        let mut client = connect().await;
        payments.expire().await;
        let transaction = client.transaction().await.expect("a transaction");
        act(&payments, &transaction, &handler).await;
        let written = written(&payments, &transaction, &handler).await;
        let second = payments.call();
        payments.table.somebody_waits().await;
        if commits {
            transaction.commit().await.expect("committed");
            assert_eq!(end(second).await, AGAIN);
            handler.ends(written());
            assert_eq!(end(first).await, PAID);
            assert_eq!(payments.effects().await, [1]);
        } else {
            transaction.rollback().await.expect("rolled back");
            let next = payments.handler().await;
            assert_eq!(next.operation.run(), 2);
            handler.fails();
            next.fails();
            assert_eq!(end(first).await, FAILED);
            assert_eq!(end(second).await, FAILED);
            assert!(payments.effects().await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_renewal_is_no_conflict_at_any_isolation() {
    for isolation in [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ] {
        let (payments, call, handler) = Payments::called().await;
        let (key, token) = payments.holder().await;
        let mut client = connect().await;
        let builder = client.build_transaction().isolation_level(isolation);
        let transaction = builder.start().await.expect("a transaction");
        act(&payments, &transaction, &handler).await;
        for _ in 0..3 {
            let renewed = payments.store.renew(&key, token, 2 * MINUTE, DAY);
            assert!(renewed.await.expect("renewed"));
        }
        let written = written(&payments, &transaction, &handler).await;
        // Not even while the transaction has written the record.
        let renewed = payments.store.renew(&key, token, 3 * MINUTE, DAY);
        assert!(renewed.await.expect("renewed"));
        transaction.commit().await.expect("committed");
        handler.ends(written());
        assert_eq!(end(call).await, PAID);
        assert_eq!(payments.effects().await, [1]);
    }
}

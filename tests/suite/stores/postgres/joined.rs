//! The record and what it stands for are committed together.

use buttress::idempotency::store::{PostgresStore, Store};
use buttress::idempotency::{Begun, Ended, Token};
use bytes::Bytes;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{KEY, MINUTE, Table, begin, brief, claim, connect, unavailable};

const ANSWER: Bytes = Bytes::from_static(b"paid");

impl Table {
    async fn with_effects() -> (Self, PostgresStore, Client) {
        let (table, store) = Self::made().await;
        table
            .execute("CREATE TABLE {}_effects (holder bytea)")
            .await;
        (table, store, connect().await)
    }

    async fn act(&self, transaction: &Transaction<'_>, token: Token) {
        transaction
            .execute(
                &format!("INSERT INTO {}_effects VALUES ($1)", self.name),
                &[&token.0.as_slice()],
            )
            .await
            .expect("acted");
    }

    async fn effects(&self) -> Vec<Vec<u8>> {
        self.client
            .query(&format!("SELECT holder FROM {}_effects", self.name), &[])
            .await
            .expect("effects")
            .iter()
            .map(|row| row.get(0))
            .collect()
    }
}

#[tokio::test]
async fn effect_and_record_are_seen_together_and_duplicates_do_not_wait() {
    let (table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    let transaction = client.transaction().await.expect("a transaction");
    table.act(&transaction, holder.token).await;
    let ended = store
        .complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)
        .await;
    assert_eq!(ended.expect("completed"), Ended::Taken);
    // Not committed yet: another one only reads what was there before.
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    assert!(table.effects().await.is_empty());
    transaction.commit().await.expect("committed");
    assert_eq!(begin(&store, &claim()).await, Begun::Done(ANSWER));
    assert_eq!(table.effects().await, [holder.token.0]);
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_leaves_the_record_with_its_holder() {
    let (table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    let transaction = client.transaction().await.expect("a transaction");
    table.act(&transaction, holder.token).await;
    store
        .complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)
        .await
        .expect("completed");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    assert!(table.effects().await.is_empty());
    assert_eq!(
        store.abandon(&KEY, holder.token).await.expect("abandoned"),
        Ended::Taken
    );
}

#[tokio::test]
async fn of_two_holders_the_stale_one_has_lost_its_effect() {
    let (table, store, mut client) = Table::with_effects().await;
    let mut other = connect().await;
    let (stale, holder) = (brief(), brief());
    assert_eq!(begin(&store, &stale).await, Begun::Started { run: 1 });
    let first = client.transaction().await.expect("a transaction");
    table.act(&first, stale.token).await;
    assert_eq!(begin(&store, &holder).await, Begun::Started { run: 2 });
    let second = other.transaction().await.expect("a transaction");
    table.act(&second, holder.token).await;

    let ended = store
        .complete_in(&first, &KEY, stale.token, b"stale", MINUTE)
        .await;
    assert_eq!(ended.expect("asked"), Ended::Lost);
    first.rollback().await.expect("rolled back");
    let ended = store
        .complete_in(&second, &KEY, holder.token, &ANSWER, MINUTE)
        .await;
    assert_eq!(ended.expect("completed"), Ended::Taken);
    second.commit().await.expect("committed");
    assert_eq!(table.effects().await, [holder.token.0]);
    assert_eq!(begin(&store, &claim()).await, Begun::Done(ANSWER));
}

/// The lease is over, and the holder's transaction is about to be committed, or rolled back.
async fn a_claim_while_the_holder_commits(commits: bool) -> (Begun, usize) {
    let (table, store, mut client) = Table::with_effects().await;
    let holder = brief();
    begin(&store, &holder).await;
    let transaction = client.transaction().await.expect("a transaction");
    table.act(&transaction, holder.token).await;
    store
        .complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)
        .await
        .expect("completed");
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { begin(&store, &claim()).await })
    };
    table.somebody_waits().await;
    if commits {
        transaction.commit().await.expect("committed");
    } else {
        transaction.rollback().await.expect("rolled back");
    }
    let begun = waiting.await.expect("no panic");
    (begun, table.effects().await.len())
}

#[tokio::test]
async fn a_claim_waits_for_a_holder_whose_lease_is_over_while_it_commits() {
    assert_eq!(
        a_claim_while_the_holder_commits(true).await,
        (Begun::Done(ANSWER), 1)
    );
    assert_eq!(
        a_claim_while_the_holder_commits(false).await,
        (Begun::Started { run: 2 }, 0)
    );
}

/// The holder does not know what became of its transaction, and asks by abandoning the record.
async fn an_end_while_the_outcome_is_open(commits: bool) -> (Ended, usize) {
    let (table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    let transaction = client.transaction().await.expect("a transaction");
    table.act(&transaction, holder.token).await;
    store
        .complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)
        .await
        .expect("completed");
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.abandon(&KEY, holder.token).await.expect("asked") })
    };
    table.somebody_waits().await;
    if commits {
        transaction.commit().await.expect("committed");
    } else {
        transaction.rollback().await.expect("rolled back");
    }
    let ended = waiting.await.expect("no panic");
    (ended, table.effects().await.len())
}

#[tokio::test]
async fn who_does_not_know_whether_it_committed_is_told_by_abandoning() {
    assert_eq!(
        an_end_while_the_outcome_is_open(true).await,
        (Ended::Already(ANSWER), 1)
    );
    assert_eq!(
        an_end_while_the_outcome_is_open(false).await,
        (Ended::Taken, 0)
    );
}

#[tokio::test]
async fn a_record_that_is_done_is_not_done_again_in_a_transaction() {
    let (_table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    store
        .complete(&KEY, holder.token, ANSWER, MINUTE)
        .await
        .expect("completed");
    let transaction = client.transaction().await.expect("a transaction");
    let ended = store
        .complete_in(&transaction, &KEY, holder.token, b"again", MINUTE)
        .await;
    assert_eq!(ended.expect("asked"), Ended::Already(ANSWER));
}

#[tokio::test]
async fn a_savepoint_is_refused_because_its_end_commits_nothing() {
    let (_table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    let mut transaction = client.transaction().await.expect("a transaction");
    let savepoint = transaction.transaction().await.expect("a savepoint");
    let message =
        unavailable(store.complete_in(&savepoint, &KEY, holder.token, &ANSWER, MINUTE)).await;
    assert!(message.contains("savepoint"), "{message}");
    drop(savepoint);
    let ended = store
        .complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)
        .await;
    assert_eq!(ended.expect("completed"), Ended::Taken);
}

#[tokio::test]
async fn above_read_committed_a_renewal_in_between_is_a_conflict_that_rolls_back() {
    let (table, store, mut client) = Table::with_effects().await;
    let holder = claim();
    begin(&store, &holder).await;
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .start()
        .await
        .expect("a transaction");
    table.act(&transaction, holder.token).await;
    let renewed = store.renew(&KEY, holder.token, MINUTE, MINUTE).await;
    assert!(renewed.expect("renewed"));
    let message =
        unavailable(store.complete_in(&transaction, &KEY, holder.token, &ANSWER, MINUTE)).await;
    assert!(message.contains("40001"), "{message}");
    drop(transaction);
    assert_eq!(begin(&store, &claim()).await, Begun::Running);
    assert!(table.effects().await.is_empty());
}

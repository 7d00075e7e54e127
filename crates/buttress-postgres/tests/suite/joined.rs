//! Effect and record are committed together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::idempotency::Operation;
use buttress::{BoxError, Deadline};
use buttress_postgres::{CommitError, PostgresStore};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::sync::Notify;

use super::payments::{AGAIN, Body, FAILED, Handler, PAID, Payments, end, paid};
use super::proxy::{Cut, Proxy, nowhere};
use super::{config, pool};

#[tokio::test]
async fn the_caller_gets_what_was_committed_whatever_the_handler_returns() {
    let (payments, call, handler) = Payments::called().await;
    let response = payments.pay(&handler).await;
    assert_eq!(response.expect("committed").status(), 201);
    handler.fails();
    assert_eq!(end(call).await, PAID);
    assert_eq!(end(payments.call()).await, AGAIN);
    assert_eq!(payments.effects().await, [1]);
}

/// Begins, executes the effect, and commits. It waits for the test after the snapshot and after the effect.
async fn pay_around(
    payments: &Payments,
    handler: &Handler,
    isolation: &str,
    first: impl Future<Output = ()>,
    then: impl Future<Output = ()>,
) -> Result<Response<Body>, CommitError> {
    let (waits, resume) = (&Notify::new(), &Notify::new());
    let begin = &format!("SET TRANSACTION ISOLATION LEVEL {isolation}; SELECT 1");
    let effect = &payments.effect(handler);
    let joined = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            for sql in [begin, effect] {
                transaction.batch_execute(sql).await?;
                waits.notify_one();
                resume.notified().await;
            }
            Ok(paid())
        });
    let between = async {
        waits.notified().await;
        first.await;
        resume.notify_one();
        waits.notified().await;
        then.await;
        resume.notify_one();
        // The test does not wait for a retry.
        loop {
            waits.notified().await;
            resume.notify_one();
        }
    };
    tokio::select! {
        result = joined => result,
        never = between => never,
    }
}

const ISOLATIONS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

#[tokio::test]
async fn a_takeover_before_the_transaction_ends_rolls_it_back() {
    for isolation in ISOLATIONS {
        for point in ["before it begins", "before the effect", "after the effect"] {
            let mut payments = Payments::new().await;
            let first = payments.call();
            let stale = payments.handler().await;
            let mut second = None;
            let client = super::connect().await;
            let sql = taking_over(&payments);
            let others = async { client.batch_execute(&sql).await.expect("taken over") };
            let lost = match point {
                "before it begins" => {
                    second = Some(take_over(&mut payments).await);
                    pay_around(&payments, &stale, isolation, async {}, async {}).await
                }
                "before the effect" => {
                    pay_around(&payments, &stale, isolation, others, async {}).await
                }
                _ => pay_around(&payments, &stale, isolation, async {}, others).await,
            };
            assert!(
                matches!(lost, Err(CommitError::Lost | CommitError::RolledBack(_))),
                "{isolation}, {point}: {lost:?}"
            );
            assert!(payments.effects().await.is_empty(), "{isolation}, {point}");
            if let Some((call, holder)) = second {
                payments.succeeds(call, holder).await;
                assert_eq!(payments.effects().await, [2]);
                assert_eq!(end(payments.call()).await, AGAIN);
            }
            stale.fails();
            assert_eq!(end(first).await, FAILED);
        }
    }
}

type Second = (tokio::task::JoinHandle<super::payments::Reported>, Handler);

async fn take_over(payments: &mut Payments) -> Second {
    payments.expire().await;
    let second = payments.call();
    let holder = payments.handler().await;
    assert_eq!(holder.operation.run(), 2);
    (second, holder)
}

/// The takeover by another process.
fn taking_over(payments: &Payments) -> String {
    let table = &payments.table.name;
    format!("UPDATE {table} SET run = run + 1, token = decode(repeat('22', 16), 'hex')")
}

#[tokio::test]
async fn a_claim_that_the_server_has_lost_commits_nothing() {
    for point in ["before it begins", "after the effect"] {
        let (mut payments, call, handler) = Payments::called().await;
        let delete = format!("DELETE FROM {}", payments.table.name);
        let client = super::connect().await;
        let lose = async { client.batch_execute(&delete).await.expect("deleted") };
        let lost = if point == "before it begins" {
            lose.await;
            payments.pay(&handler).await
        } else {
            pay_around(&payments, &handler, "READ COMMITTED", async {}, lose).await
        };
        assert!(matches!(lost, Err(CommitError::Lost)), "{point}: {lost:?}");
        assert!(payments.effects().await.is_empty(), "{point}");

        // Another request has claimed the key since, in run 1 too.
        let second = payments.call();
        let holder = payments.handler().await;
        assert_eq!(holder.operation.run(), 1);
        payments.succeeds(second, holder).await;
        let lost = payments.pay(&handler).await;
        assert!(matches!(lost, Err(CommitError::Lost)), "{point}: {lost:?}");
        handler.fails();
        assert_eq!(end(call).await, FAILED);
        assert_eq!(payments.effects().await, [1]);
        assert_eq!(end(payments.call()).await, AGAIN);
    }
}

#[tokio::test]
async fn an_error_of_the_closure_rolls_back_and_frees_the_key() {
    let (mut payments, call, handler) = Payments::called().await;
    let effect = &payments.effect(&handler);
    let failed = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            Err::<Response<Full<Bytes>>, BoxError>("no money".into())
        });
    let Err(CommitError::Work(why)) = failed.await else {
        panic!("it is the closure's error")
    };
    assert_eq!(why.to_string(), "no money");
    payments.fails(call, handler).await;

    let call = payments.call();
    let handler = payments.handler().await;
    payments.succeeds(call, handler).await;
    assert_eq!(payments.effects().await, [1]);
}

#[tokio::test]
async fn a_commit_that_the_server_rejects_is_rolled_back_and_not_retried() {
    let (payments, call, handler) = Payments::called().await;
    // The same payment twice: the commit checks the constraint.
    let effect = &payments.effect(&handler);
    let joined = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            transaction.batch_execute(effect).await?;
            Ok(paid())
        });
    let refused = joined.await;
    let Err(CommitError::RolledBack(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.to_string().contains("23505"), "{why}");
    payments.succeeds(call, handler).await;
    assert_eq!(payments.effects().await, [1]);
}

/// Calls a closure that fails with this state this many times, and counts the calls.
async fn pay_failing(
    payments: &Payments,
    operation: &Operation,
    state: &str,
    failures: usize,
) -> (Result<Response<Body>, CommitError>, usize) {
    let calls = &AtomicUsize::new(0);
    let effects = &format!("INSERT INTO {}_effects VALUES (1, 10)", payments.table.name);
    let fail = &format!("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$");
    let joined = payments.store.joined(operation, |transaction| async move {
        transaction.batch_execute(effects).await?;
        if calls.fetch_add(1, Ordering::Relaxed) < failures {
            transaction.batch_execute(fail).await?;
        }
        Ok(paid())
    });
    (joined.await, calls.load(Ordering::Relaxed))
}

#[tokio::test]
async fn only_a_conflict_is_retried_five_times() {
    for (state, failures, calls) in [
        ("40001", 1, 2),
        ("40P01", 5, 6),
        ("40001", 6, 6),
        ("23505", 1, 1),
    ] {
        let (payments, call, handler) = Payments::called().await;
        let (paid, called) = pay_failing(&payments, &handler.operation, state, failures).await;
        assert_eq!(called, calls, "{state}");
        if failures < calls {
            handler.ends(paid.expect("committed"));
            assert_eq!(end(call).await, PAID);
            assert_eq!(payments.effects().await, [1]);
        } else {
            assert!(matches!(paid, Err(CommitError::Work(_))), "{paid:?}");
            payments.fails(call, handler).await;
        }
    }
}

#[tokio::test]
async fn after_the_deadline_a_conflict_is_not_retried() {
    let (payments, call, handler) = Payments::called().await;
    let failing = pay_failing(&payments, &handler.operation, "40001", 1);
    let (paid, calls) = Deadline::after(Duration::ZERO).scope(failing).await;
    assert!(matches!(paid, Err(CommitError::Work(_))), "{paid:?}");
    assert_eq!(calls, 1);
    handler.fails();
    assert_eq!(end(call).await, FAILED);
}

#[tokio::test]
async fn of_two_transactions_in_conflict_both_commit_in_the_end() {
    let (payments, call, handler) = Payments::called().await;
    payments
        .table
        .execute("INSERT INTO {}_effects VALUES (0, 0)")
        .await;
    let table = &payments.table.name;
    let calls = &AtomicUsize::new(0);
    let other = super::connect().await;
    let other = &other;
    let joined = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            let start = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
            transaction.batch_execute(start).await?;
            let read = format!("SELECT run FROM {table}_effects");
            transaction.query(&read, &[]).await?;
            let add = format!("UPDATE {table}_effects SET run = run + 1");
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                other.batch_execute(&add).await?;
            }
            transaction.batch_execute(&add).await?;
            Ok(paid())
        });
    let response = joined.await.expect("committed");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    handler.ends(response);
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [2]);
}

#[tokio::test]
async fn a_commit_that_was_not_acknowledged_is_looked_up() {
    for (cut, committed) in [
        (Cut::Before as fn(usize) -> Cut, false),
        (Cut::Behind, true),
    ] {
        let mut payments = Payments::new().await;
        let proxy = Proxy::new().await;
        let pool = pool(proxy.url().parse().expect("an address"));
        payments.use_pool(&pool);
        // The connection has prepared its statements.
        let call = payments.call();
        let handler = payments.handler().await;
        payments.succeeds(call, handler).await;
        payments
            .table
            .execute("DELETE FROM {}; DELETE FROM {}_effects")
            .await;

        let call = payments.call();
        let handler = payments.handler().await;
        // BEGIN, the effect, the record, and COMMIT.
        proxy.cut(cut(proxy.asked() + 4));
        let result = payments.pay(&handler).await;
        if committed {
            handler.ends(result.expect("found to be committed"));
            assert_eq!(end(call).await, PAID);
            assert_eq!(payments.effects().await, [1]);
            assert_eq!(end(payments.call()).await, AGAIN);
        } else {
            assert!(
                matches!(result, Err(CommitError::RolledBack(_))),
                "{result:?}"
            );
            payments.fails(call, handler).await;
        }
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_looked_up_stays_unknown_and_releases_nothing() {
    let (mut payments, call, handler) = Payments::called().await;
    let proxy = Proxy::new().await;
    let through = pool(proxy.url().parse().expect("an address"));
    let store = payments.store.clone().timeout(Duration::from_millis(300));
    // This store cannot read: nobody listens at its address any more.
    let nowhere = pool(nowhere().await);
    let blind = PostgresStore::with(nowhere)
        .table(&payments.table.name)
        .expect("a name")
        .timeout(Duration::from_secs(1))
        .transaction_pool(through);
    payments.store = blind;
    // The first time, the completion is prepared.
    proxy.cut(Cut::Behind(proxy.asked() + 5));
    let result = payments.pay(&handler).await;
    assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
    payments.store = store;
    assert_eq!(payments.table.rows().await, 1);
    handler.fails();
    // The layer reads the record and returns the committed response.
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [1]);
    assert_eq!(end(payments.call()).await, AGAIN);
}

#[tokio::test]
async fn a_response_that_cannot_be_recorded_commits_nothing() {
    let (payments, call, handler) = Payments::called().await;
    let effect = &payments.effect(&handler);
    let joined = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            Ok(Response::new(Full::<Bytes>::from(vec![0; (1 << 20) + 1])))
        });
    let refused = joined.await;
    let Err(CommitError::Response(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.to_string().contains("max_response_body"), "{why}");
    payments.fails(call, handler).await;
}

#[tokio::test]
async fn a_dropped_or_leaked_transaction_leaves_no_connection_behind() {
    let (mut payments, call, handler) = Payments::called().await;
    let pool = pool(config());
    payments.use_pool(&pool);
    let effect = &payments.effect(&handler);

    let executed = &Notify::new();
    let endless = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            executed.notify_one();
            std::future::pending::<Result<Response<Body>, BoxError>>().await
        });
    tokio::select! {
        _ = endless => panic!("it does not end"),
        () = executed.notified() => {}
    }
    assert_eq!(pool.status().size, 0);

    let leaked = &std::sync::Mutex::new(None);
    let joined = payments
        .store
        .joined(&handler.operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            *leaked.lock().expect("a lock") = Some(transaction);
            Ok(paid())
        });
    let refused = joined.await;
    assert!(matches!(refused, Err(CommitError::Work(_))), "{refused:?}");
    drop(leaked.lock().expect("a lock").take());
    assert_eq!(pool.status().size, 0);

    payments.fails(call, handler).await;
}

#[tokio::test]
async fn a_panic_of_the_closure_rolls_back_and_frees_the_key() {
    let (mut payments, call, handler) = Payments::called().await;
    let pool = pool(config());
    payments.use_pool(&pool);
    let (store, operation, effect) = (
        payments.store.clone(),
        handler.operation.clone(),
        payments.effect(&handler),
    );
    let panicked = tokio::spawn(async move {
        let effect = &effect;
        let joined = store.joined(&operation, |transaction| async move {
            transaction.batch_execute(effect).await?;
            if !effect.is_empty() {
                std::panic::resume_unwind(Box::new("planned"));
            }
            Ok(paid())
        });
        joined.await.map(drop)
    });
    assert!(panicked.await.expect_err("a panic").is_panic());
    assert_eq!(pool.status().size, 0);
    payments.fails(call, handler).await;
}

/// Compiled only: the future is `Send` even if its closure borrows.
#[allow(dead_code, reason = "it is compiled")]
fn the_future_is_send(store: PostgresStore, operation: Operation, amount: String) {
    fn send<F: Future + Send>(future: F) -> F {
        future
    }
    drop(send(async move {
        let (amount, store) = (&amount, &store);
        let joined = store.joined(&operation, |transaction| async move {
            let insert = transaction
                .prepare_cached("INSERT INTO payments VALUES ($1)")
                .await?;
            transaction.execute(&insert, &[amount]).await?;
            Ok(Response::new(Full::<Bytes>::from(amount.clone())))
        });
        send(joined).await.map(drop)
    }));
}

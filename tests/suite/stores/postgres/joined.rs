//! The record and what it stands for are committed together.

use std::convert::Infallible;

use buttress::idempotency::store::{CommitError, PostgresStore};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, KeptBody, Operation, Scope};
use buttress::{Error, Reason};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, GenericClient, IsolationLevel, NoTls, Transaction};
use tower::{Layer, ServiceExt, service_fn};

use super::proxy::{Cut, Proxy};
use super::{Table, config, connect, pool};

type Body = KeptBody<Full<Bytes>>;

/// An operation whose handler waits for the test.
struct Handler {
    operation: Operation,
    end: oneshot::Sender<Response<Body>>,
}

impl Handler {
    fn ends(self, response: Response<Body>) {
        self.end.send(response).expect("somebody waits");
    }

    /// What a handler makes of a failed commit.
    fn fails(self) {
        let mut response = Response::new(Body::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        self.ends(response);
    }
}

/// What a caller was told: status, body, and whether it is said to be a repetition.
type Told = Result<(u16, Bytes, bool), Reason>;

/// A layer over a store, over handlers that wait for the test.
struct Payments {
    table: Table,
    store: PostgresStore,
    layer: IdempotencyLayer,
    handlers: mpsc::Receiver<Handler>,
    handle: mpsc::Sender<Handler>,
}

impl Payments {
    async fn new() -> Self {
        let (table, store) = Table::made().await;
        table
            .execute("CREATE TABLE {}_effects (run int, paid int, UNIQUE (paid) DEFERRABLE INITIALLY DEFERRED)")
            .await;
        let config = IdempotencyConfig::default();
        let layer =
            IdempotencyLayer::new("payments", store.clone(), Scope::Global, config).expect("valid");
        let (handle, handlers) = mpsc::channel(8);
        Self {
            table,
            store,
            layer,
            handlers,
            handle,
        }
    }

    fn call(&self) -> JoinHandle<Told> {
        let handle = self.handle.clone();
        let service = self.layer.layer(service_fn(
            move |request: Request<KeptBody<Full<Bytes>>>| {
                let handle = handle.clone();
                async move {
                    let operation = Operation::take(request.extensions()).unwrap();
                    let operation = operation.expect("a guarded request");
                    let (end, ended) = oneshot::channel();
                    let handler = Handler { operation, end };
                    assert!(handle.send(handler).await.is_ok(), "the test is gone");
                    Ok::<_, Error<Infallible>>(ended.await.expect("an end"))
                }
            },
        ));
        let request = Request::post("/payments")
            .header("idempotency-key", "\"0123456789abcdef\"")
            .body(Full::from("10 euros"))
            .expect("a request");
        tokio::spawn(async move {
            match service.oneshot(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let again = head.headers.contains_key("idempotent-replayed");
                    Ok((head.status.as_u16(), body, again))
                }
                Err(Error::Rejected(rejected)) => Err(rejected.reason),
                Err(Error::Inner(never)) => match never {},
            }
        })
    }

    async fn handler(&mut self) -> Handler {
        self.handlers.recv().await.expect("a handler")
    }

    async fn act(&self, transaction: &impl GenericClient, handler: &Handler) {
        let (table, run) = (&self.table.name, handler.operation.run());
        // Not prepared: what is prepared is closed later, which is counted as a request.
        let sql = format!("INSERT INTO {table}_effects VALUES ({run}, 10)");
        transaction.batch_execute(&sql).await.expect("acted");
    }

    /// The runs that have had their effect.
    async fn effects(&self) -> Vec<i32> {
        let sql = format!("SELECT run FROM {}_effects", self.table.name);
        let rows = self.table.client.query(&sql, &[]).await.expect("effects");
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn commit(
        &self,
        transaction: Transaction<'_>,
        handler: &Handler,
    ) -> Result<Response<Body>, CommitError> {
        self.store
            .commit(transaction, &handler.operation, paid())
            .await
    }
}

fn paid() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("paid"));
    *response.status_mut() = http::StatusCode::CREATED;
    response
}

const PAID: Told = Ok((201, Bytes::from_static(b"paid"), false));
const AGAIN: Told = Ok((201, Bytes::from_static(b"paid"), true));
const FAILED: Told = Ok((503, Bytes::new(), false));

async fn end(call: JoinHandle<Told>) -> Told {
    call.await.expect("no panic")
}

fn is_in_progress(told: &Told) -> bool {
    matches!(told, Err(Reason::Key(problem)) if format!("{problem:?}") == "InProgress")
}

#[tokio::test]
async fn the_caller_gets_what_was_committed_whatever_the_handler_returns() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &handler).await;
    let response = payments.commit(transaction, &handler).await;
    assert_eq!(response.expect("committed").status(), 201);
    handler.fails();
    assert_eq!(end(call).await, PAID);
    assert_eq!(end(payments.call()).await, AGAIN);
    assert_eq!(payments.effects().await, [1]);
}

#[tokio::test]
async fn a_transaction_of_the_pool_serves_as_well() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = pool(config()).get().await.expect("a connection");
    let transaction = client.transaction().await.expect("a transaction");
    let response = payments
        .store
        .commit(transaction, &handler.operation, paid())
        .await;
    handler.ends(response.expect("committed"));
    assert_eq!(end(call).await, PAID);
}

/// The completion in a transaction that is not committed yet, as another client would do it.
async fn written(
    payments: &Payments,
    transaction: &Transaction<'_>,
    handler: &Handler,
) -> buttress::idempotency::store::Written<Full<Bytes>> {
    let completion = payments
        .store
        .completion(&handler.operation, paid())
        .await
        .expect("a completion");
    let rows = transaction
        .execute(
            completion.statement(),
            &[
                &completion.key(),
                &completion.token().as_slice(),
                &completion.answer(),
                &completion.ttl(),
            ],
        )
        .await
        .expect("executed");
    completion.written(rows).expect("one row")
}

#[tokio::test]
async fn any_client_completes_the_record_in_its_transaction_and_duplicates_do_not_wait_for_it() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &handler).await;
    let written = written(&payments, &transaction, &handler).await;
    let duplicate = end(payments.call()).await;
    assert!(is_in_progress(&duplicate), "{duplicate:?}");
    assert!(payments.effects().await.is_empty());
    transaction.commit().await.expect("committed");
    handler.ends(written.committed());
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [1]);
    assert_eq!(end(payments.call()).await, AGAIN);
}

#[tokio::test]
async fn a_completion_that_is_not_said_to_be_committed_is_looked_up() {
    for commits in [true, false] {
        let mut payments = Payments::new().await;
        let call = payments.call();
        let handler = payments.handler().await;
        let mut client = connect().await;
        let transaction = client.transaction().await.expect("a transaction");
        payments.act(&transaction, &handler).await;
        drop(written(&payments, &transaction, &handler).await);
        handler.fails();
        // The layer asks, and the answer waits for the transaction.
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
async fn of_two_holders_the_stale_one_is_rolled_back() {
    let mut payments = Payments::new().await;
    let first = payments.call();
    let stale = payments.handler().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &stale).await;

    // Its process seems to be gone.
    payments
        .table
        .execute("UPDATE {} SET lease_until = now()")
        .await;
    let second = payments.call();
    let holder = payments.handler().await;
    assert_eq!(holder.operation.run(), 2);
    let lost = payments.commit(transaction, &stale).await;
    assert!(matches!(lost, Err(CommitError::Lost)), "{lost:?}");

    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &holder).await;
    let response = payments.commit(transaction, &holder).await;
    holder.ends(response.expect("committed"));
    assert_eq!(end(second).await, PAID);
    stale.fails();
    assert_eq!(end(first).await, FAILED);
    assert_eq!(payments.effects().await, [2]);
    assert_eq!(end(payments.call()).await, AGAIN);
}

#[tokio::test]
async fn who_would_take_over_waits_for_a_holder_that_is_about_to_commit() {
    for commits in [true, false] {
        let mut payments = Payments::new().await;
        let first = payments.call();
        let handler = payments.handler().await;
        let mut client = connect().await;
        payments
            .table
            .execute("UPDATE {} SET lease_until = now()")
            .await;
        let transaction = client.transaction().await.expect("a transaction");
        payments.act(&transaction, &handler).await;
        let written = written(&payments, &transaction, &handler).await;
        let second = payments.call();
        payments.table.somebody_waits().await;
        if commits {
            transaction.commit().await.expect("committed");
            assert_eq!(end(second).await, AGAIN);
            handler.ends(written.committed());
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
async fn what_the_server_refuses_to_commit_did_not_happen_and_may_be_done_again() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    // Twice the same payment: the constraint is checked by the commit.
    payments.act(&transaction, &handler).await;
    payments.act(&transaction, &handler).await;
    let refused = payments.commit(transaction, &handler).await;
    let Err(CommitError::RolledBack(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.to_string().contains("23505"), "{why}");

    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &handler).await;
    let response = payments.commit(transaction, &handler).await;
    handler.ends(response.expect("committed"));
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [1]);
}

#[tokio::test]
async fn what_was_rolled_back_frees_the_key() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .start()
        .await
        .expect("a transaction");
    payments.act(&transaction, &handler).await;
    // A renewal.
    payments
        .table
        .execute("UPDATE {} SET lease_until = lease_until + interval '1 minute'")
        .await;
    let refused = payments.commit(transaction, &handler).await;
    let Err(CommitError::RolledBack(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.to_string().contains("40001"), "{why}");
    handler.fails();
    assert_eq!(end(call).await, FAILED);
    assert_eq!(payments.table.rows().await, 0);
}

async fn connect_through(proxy: &Proxy) -> Client {
    let config: tokio_postgres::Config = proxy.url().parse().expect("an address");
    let (client, connection) = config.connect(NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_commit_that_nobody_heard_of_is_found_out() {
    for (cut, committed) in [
        (Cut::Before as fn(usize) -> Cut, false),
        (Cut::Behind, true),
    ] {
        let mut payments = Payments::new().await;
        let call = payments.call();
        let handler = payments.handler().await;
        let proxy = Proxy::new().await;
        let mut client = connect_through(&proxy).await;
        let transaction = client.transaction().await.expect("a transaction");
        payments.act(&transaction, &handler).await;
        // The record, and then the commit.
        proxy.cut(cut(proxy.asked() + 2));
        let lost = payments.commit(transaction, &handler).await;
        assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
        handler.fails();
        if committed {
            assert_eq!(end(call).await, PAID);
            assert_eq!(payments.effects().await, [1]);
            assert_eq!(end(payments.call()).await, AGAIN);
        } else {
            assert_eq!(end(call).await, FAILED);
            assert!(payments.effects().await.is_empty());
            assert_eq!(payments.table.rows().await, 0);
        }
    }
}

#[tokio::test]
async fn the_record_is_one_round_trip_and_the_commit_another() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let proxy = Proxy::new().await;
    let mut client = connect_through(&proxy).await;
    let transaction = client.transaction().await.expect("a transaction");
    let before = proxy.asked();
    let response = payments.commit(transaction, &handler).await;
    assert_eq!(proxy.asked() - before, 2);
    handler.ends(response.expect("committed"));
    assert_eq!(end(call).await, PAID);
}

#[tokio::test]
async fn a_savepoint_that_was_rolled_back_is_no_obstacle() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let mut transaction = client.transaction().await.expect("a transaction");
    let savepoint = transaction.transaction().await.expect("a savepoint");
    payments.act(&savepoint, &handler).await;
    savepoint.rollback().await.expect("rolled back");
    payments.act(&transaction, &handler).await;
    let response = payments.commit(transaction, &handler).await;
    handler.ends(response.expect("committed"));
    assert_eq!(end(call).await, PAID);
    assert_eq!(payments.effects().await, [1]);
}

#[tokio::test]
async fn a_savepoint_in_the_place_of_a_transaction_is_not_taken_for_committed() {
    for commits in [true, false] {
        let mut payments = Payments::new().await;
        let call = payments.call();
        let handler = payments.handler().await;
        let mut client = connect().await;
        let mut transaction = client.transaction().await.expect("a transaction");
        let savepoint = transaction.transaction().await.expect("a savepoint");
        payments.act(&savepoint, &handler).await;
        let released = payments.commit(savepoint, &handler).await;
        assert!(
            matches!(released, Err(CommitError::Unknown(_))),
            "{released:?}"
        );
        handler.fails();
        payments.table.somebody_waits().await;
        if commits {
            transaction.commit().await.expect("committed");
            assert_eq!(end(call).await, PAID);
        } else {
            transaction.rollback().await.expect("rolled back");
            assert_eq!(end(call).await, FAILED);
            assert!(payments.effects().await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_response_that_cannot_be_recorded_commits_nothing() {
    let mut payments = Payments::new().await;
    let call = payments.call();
    let handler = payments.handler().await;
    let mut client = connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    payments.act(&transaction, &handler).await;
    let large = Response::new(Full::from(vec![0; (1 << 20) + 1]));
    let refused = payments
        .store
        .commit(transaction, &handler.operation, large)
        .await;
    let Err(CommitError::Response(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.to_string().contains("max_response_body"), "{why}");
    handler.fails();
    assert_eq!(end(call).await, FAILED);
    assert!(payments.effects().await.is_empty());
}

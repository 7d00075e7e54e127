//! A layer with a store, and handlers that wait for the test.

use std::convert::Infallible;

use buttress::idempotency::store::{RecordKey, Token};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope, StoredBody};
use buttress::{Error, Reason};
use buttress_postgres::{CommitError, PostgresStore};
use bytes::Bytes;
use deadpool_postgres::Pool;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tower::{Layer, ServiceExt, service_fn};

use super::Table;

pub(super) type Body = StoredBody<Full<Bytes>>;

/// An operation whose handler waits for the test.
pub(super) struct Handler {
    pub(super) operation: Operation,
    end: oneshot::Sender<Response<Body>>,
}

impl Handler {
    pub(super) fn ends(self, response: Response<Body>) {
        self.end.send(response).expect("somebody waits");
    }

    /// The response of a handler after a failed commit.
    pub(super) fn fails(self) {
        let mut response = Response::new(Body::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        self.ends(response);
    }
}

/// The response of a caller: status, body, and whether it is marked as replayed.
pub(super) type Reported = Result<(u16, Bytes, bool), Reason>;

/// A layer with a store, around handlers that wait for the test.
pub(super) struct Payments {
    pub(super) table: Table,
    pub(super) store: PostgresStore,
    layer: IdempotencyLayer,
    handlers: mpsc::Receiver<Handler>,
    handle: mpsc::Sender<Handler>,
}

impl Payments {
    pub(super) async fn new() -> Self {
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

    /// Starts a call whose handler waits.
    pub(super) async fn called() -> (Self, JoinHandle<Reported>, Handler) {
        let mut payments = Self::new().await;
        let call = payments.call();
        let handler = payments.handler().await;
        (payments, call, handler)
    }

    /// Transactions take their connections from this pool.
    pub(super) fn use_pool(&mut self, pool: &Pool) {
        self.store = self.store.clone().transaction_pool(pool.clone());
    }

    /// The handler pays, and its caller gets its response.
    pub(super) async fn succeeds(&self, call: JoinHandle<Reported>, handler: Handler) {
        let response = self.pay(&handler).await;
        handler.ends(response.expect("committed"));
        assert_eq!(end(call).await, PAID);
    }

    /// The handler fails, and there is neither an effect nor a record.
    pub(super) async fn fails(&self, call: JoinHandle<Reported>, handler: Handler) {
        handler.fails();
        assert_eq!(end(call).await, FAILED);
        assert!(self.effects().await.is_empty());
        assert_eq!(self.table.rows().await, 0);
    }

    pub(super) fn call(&self) -> JoinHandle<Reported> {
        let handle = self.handle.clone();
        let service = self.layer.layer(service_fn(
            move |request: Request<StoredBody<Full<Bytes>>>| {
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

    pub(super) async fn handler(&mut self) -> Handler {
        self.handlers.recv().await.expect("a handler")
    }

    /// The statements of a handler's transaction.
    pub(super) fn effect(&self, handler: &Handler) -> String {
        let (table, run) = (&self.table.name, handler.operation.run());
        format!("INSERT INTO {table}_effects VALUES ({run}, 10)")
    }

    /// The runs that have had their effect.
    pub(super) async fn effects(&self) -> Vec<i32> {
        let sql = format!("SELECT run FROM {}_effects", self.table.name);
        let rows = self.table.client.query(&sql, &[]).await.expect("effects");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Executes the effect and commits, through the store.
    pub(super) async fn pay(&self, handler: &Handler) -> Result<Response<Body>, CommitError> {
        let effect = &self.effect(handler);
        let joined = self
            .store
            .joined(&handler.operation, |transaction| async move {
                // Not prepared, because closing a prepared statement counts as a request.
                transaction.batch_execute(effect).await?;
                Ok(paid())
            });
        joined.await
    }

    /// The holder in the record.
    pub(super) async fn holder(&self) -> (RecordKey, Token) {
        let sql = format!("SELECT key, token FROM {}", self.table.name);
        let row = self.table.client.query_one(&sql, &[]).await.expect("a row");
        let key: &[u8] = row.get(0);
        let token: &[u8] = row.get(1);
        (
            RecordKey(key.try_into().expect("a key")),
            Token(token.try_into().expect("a token")),
        )
    }

    /// Ends the lease of the record, as if its process had crashed.
    pub(super) async fn expire(&self) {
        self.table
            .execute("UPDATE {} SET lease_until = now(); DELETE FROM {}_leases")
            .await;
    }
}

pub(super) fn paid() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("paid"));
    *response.status_mut() = http::StatusCode::CREATED;
    response
}

pub(super) const PAID: Reported = Ok((201, Bytes::from_static(b"paid"), false));
pub(super) const AGAIN: Reported = Ok((201, Bytes::from_static(b"paid"), true));
pub(super) const FAILED: Reported = Ok((503, Bytes::new(), false));

pub(super) async fn end(call: JoinHandle<Reported>) -> Reported {
    call.await.expect("no panic")
}

pub(super) fn is_in_progress(reported: &Reported) -> bool {
    matches!(reported, Err(Reason::Key(problem)) if format!("{problem:?}") == "InProgress")
}

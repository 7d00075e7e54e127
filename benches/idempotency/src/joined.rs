//! Whole operations in PostgreSQL: key, effect and response in one transaction, in plain SQL and with `PostgresStore::joined`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use buttress::{BoxError, Error};
use buttress_postgres::PostgresStore;
use bytes::Bytes;
use deadpool_postgres::{Manager, Pool, Runtime};
use http::{Request, Response};
use http_body_util::Full;
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::Effort;

/// The number of concurrent operations.
const AT_ONCE: usize = 64;
/// As many connections as a store has: 10 for claims, 10 for transactions.
const CONNECTIONS: usize = 20;

type Body = Full<Bytes>;
type Payments = BoxCloneSyncService<Request<Body>, (), BoxError>;

/// Measures each way in turn, round by round, so that all of them see the same server. The lines for the file.
pub(crate) async fn measure(effort: Effort) -> Vec<String> {
    println!(
        "\n{:44} {:>9} {:>9}",
        "payments with their key, 64 concurrent", "ops/s", "of it"
    );
    match measured(effort).await {
        Ok(rows) => rows,
        Err(error) => {
            println!("postgres, joined: not measured: {error}");
            Vec::new()
        }
    }
}

async fn measured(effort: Effort) -> Result<Vec<String>, BoxError> {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    let table = format!("buttress_bench_{:016x}", rand::random::<u64>());
    let pool = Pool::builder(Manager::new(url.parse()?, tokio_postgres::NoTls))
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .build()?;
    let client = pool.get().await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE {table}_keys (key text PRIMARY KEY, fingerprint bytea NOT NULL,
                created_at timestamptz NOT NULL DEFAULT now(), response bytea);
             CREATE INDEX ON {table}_keys (created_at);
             CREATE TABLE {table}_payments (id bigserial PRIMARY KEY, amount text NOT NULL)"
        ))
        .await?;
    let store = || PostgresStore::connect(&url)?.table(&table);
    store()?.migrate().await?;
    let ways = [
        ("plain SQL", manual(&pool, &table)),
        ("joined", joined(store()?, &table)?),
    ];
    let mut rates = ways.each_ref().map(|_| Vec::new());
    for (_, payments) in &ways {
        rate(payments, effort.round / 2).await?;
    }
    for _ in 0..effort.rounds {
        for ((_, payments), rates) in ways.iter().zip(&mut rates) {
            rates.push(rate(payments, effort.round).await?);
        }
    }
    client
        .batch_execute(&format!(
            "DROP TABLE {table}, {table}_leases, {table}_keys, {table}_payments"
        ))
        .await?;
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let rows = ways.iter().zip(medians).map(|((name, _), rate)| {
        let share = rate / medians[0];
        println!("{name:44} {rate:9.0} {share:9.2}");
        format!(r#"{{"payments":"{name}","ops_per_s":{rate:.0},"share":{share:.3}}}"#)
    });
    Ok(rows.collect())
}

fn request() -> Request<Body> {
    Request::post("/payments")
        .header("content-type", "application/json")
        .header(
            "idempotency-key",
            format!("\"{:032x}\"", rand::random::<u128>()),
        )
        .body(Body::from(r#"{"amount":1000,"currency":"EUR"}"#))
        .expect("a request")
}

/// How many a second.
async fn rate(payments: &Payments, round: Duration) -> Result<f64, BoxError> {
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut payments, done) = (payments.clone(), Arc::clone(&done));
        tasks.spawn(async move {
            while started.elapsed() < round {
                payments.ready().await?.call(request()).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, BoxError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let done = done.load(Ordering::Relaxed) as f64;
    Ok(done / started.elapsed().as_secs_f64())
}

/// The same without this crate.
fn manual(pool: &Pool, table: &str) -> Payments {
    let pool = pool.clone();
    let sql = Arc::new([
        format!(
            "INSERT INTO {table}_keys (key, fingerprint) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
        ),
        format!("INSERT INTO {table}_payments (amount) VALUES ($1)"),
        format!("UPDATE {table}_keys SET response = $2 WHERE key = $1"),
    ]);
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let (pool, sql) = (pool.clone(), Arc::clone(&sql));
        async move {
            let [claim, pay, record] = &*sql;
            let key = request.headers()["idempotency-key"].to_str()?.to_owned();
            let mut client = pool.get().await?;
            let (claim, pay) = (
                client.prepare_cached(claim).await?,
                client.prepare_cached(pay).await?,
            );
            let record = client.prepare_cached(record).await?;
            let transaction = client.transaction().await?;
            let print: &[u8] = &[7; 32];
            let claimed = transaction.execute(&claim, &[&key, &print]).await?;
            assert_eq!(claimed, 1);
            transaction.execute(&pay, &[&"1000"]).await?;
            let response: &[u8] = &[b'x'; 64];
            transaction.execute(&record, &[&key, &response]).await?;
            transaction.commit().await?;
            Ok(())
        }
    }))
}

fn joined(store: PostgresStore, table: &str) -> Result<Payments, BoxError> {
    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("bench", store.clone(), Scope::Global, config)?;
    let pay = Arc::new(format!("INSERT INTO {table}_payments (amount) VALUES ($1)"));
    let handler = service_fn(move |request: Request<_>| {
        let (store, pay) = (store.clone(), Arc::clone(&pay));
        async move {
            let operation = Operation::take(request.extensions()).expect("it is in time");
            let operation = &operation.expect("it is guarded");
            let pay = &*pay;
            let paid = store.joined(operation, |transaction| async move {
                let pay = transaction.prepare_cached(pay).await?;
                transaction.execute(&pay, &[&"1000"]).await?;
                Ok(Response::new(Body::from("paid")))
            });
            let response = paid.await.expect("a server that works");
            Ok::<_, Error<Infallible>>(response)
        }
    });
    let service = layer.layer(handler);
    Ok(BoxCloneSyncService::new(service_fn(move |request| {
        let service = service.clone();
        async move {
            let response: Response<_> = service.oneshot(request).await?;
            assert_eq!(response.status(), 200);
            Ok(())
        }
    })))
}

//! Payments by sqlx: effect and idempotency record in one transaction.
//!
//! Each payment is sent three times concurrently, with the same key, and once more afterwards. All of them get the same receipt, and
//! the table has one row for each key.
//!
//! ```text
//! DATABASE_URL=postgres://postgres@127.0.0.1:5432/postgres cargo run -p sqlx_payment -- --quick
//! ```
//!
//! The store has connections of its own, by tokio-postgres. It needs no more from sqlx than one `UPDATE`, whose text and four
//! parameters [`PostgresStore::completion`] returns.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use buttress::BoxError;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use buttress_postgres::PostgresStore;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceExt;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS sqlx_payments (receipt bigserial PRIMARY KEY, cents bigint NOT NULL);
    TRUNCATE sqlx_payments";

#[derive(Clone)]
struct App {
    store: PostgresStore,
    pool: PgPool,
}

async fn pay(
    State(app): State<App>,
    operation: Operation,
    cents: String,
) -> Result<Response, StatusCode> {
    let cents = cents.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    commit(&app, &operation, cents).await.map_err(|error| {
        eprintln!("{error}");
        // The transaction was dropped, which rolls back, so the key is released.
        operation.did_not_happen();
        StatusCode::SERVICE_UNAVAILABLE
    })
}

async fn commit(app: &App, operation: &Operation, cents: i64) -> Result<Response, BoxError> {
    let mut transaction = app.pool.begin().await?;
    let insert = "INSERT INTO sqlx_payments (cents) VALUES ($1) RETURNING receipt";
    let receipt: i64 = sqlx::query_scalar(insert)
        .bind(cents)
        .fetch_one(&mut *transaction)
        .await?;
    let response = (StatusCode::CREATED, format!("receipt {receipt}")).into_response();
    let completion = app.store.completion(operation, response).await?;
    let rows = sqlx::query(completion.statement())
        .bind(completion.key())
        .bind(&completion.token()[..])
        .bind(completion.answer())
        .bind(completion.ttl())
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    // If the record belongs to another run by now, the transaction is dropped here.
    let written = completion.written(rows)?;
    transaction.commit().await?;
    Ok(written.committed().into_response())
}

/// Sends a payment until it has its receipt: while it is running, duplicates get 409.
async fn receipt(app: Router, key: usize) -> Result<String, BoxError> {
    loop {
        let request = Request::post("/payments")
            .header(
                "idempotency-key",
                format!("\"payment-{key:08}-{}\"", std::process::id()),
            )
            .body(Body::from("1000"))?;
        let response = app.clone().oneshot(request).await?;
        if response.status() == StatusCode::CREATED {
            let body = to_bytes(response.into_body(), 1024).await?;
            return Ok(String::from_utf8(body.to_vec())?);
        }
        if response.status() != StatusCode::CONFLICT {
            return Err(format!("payment {key} got {}", response.status()).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let payments = if std::env::args().any(|argument| argument == "--quick") {
        20
    } else {
        500
    };
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
    let store = PostgresStore::connect(&url)?.table("sqlx_records")?;
    store.migrate().await?;
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(&url)
        .await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;

    let config = IdempotencyConfig::default();
    let layer = IdempotencyLayer::new("payments", store.clone(), Scope::Global, config)?;
    let app = Router::new()
        .route("/payments", post(pay))
        .with_state(App {
            store,
            pool: pool.clone(),
        })
        .layer(buttress::http::handle_rejections(layer));

    for key in 0..payments {
        let (first, second, third) = tokio::try_join!(
            receipt(app.clone(), key),
            receipt(app.clone(), key),
            receipt(app.clone(), key)
        )?;
        let fourth = receipt(app.clone(), key).await?;
        assert!(first == second && second == third && third == fourth);
    }
    let count = "SELECT count(*) FROM sqlx_payments";
    let paid: i64 = sqlx::query_scalar(count).fetch_one(&pool).await?;
    println!("{payments} payments, each sent four times: {paid} rows");
    assert_eq!(usize::try_from(paid)?, payments);
    sqlx::raw_sql("DROP TABLE sqlx_payments, sqlx_records, sqlx_records_leases")
        .execute(&pool)
        .await?;
    Ok(())
}

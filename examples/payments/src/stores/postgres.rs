//! Records in a table of PostgreSQL, and the payments in another: one transaction writes both.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use buttress::idempotency::Operation;
use buttress_postgres::PostgresStore;
use deadpool_postgres::{Manager, Pool, Runtime};
use tokio::time::sleep;
use tokio_postgres::{Config, NoTls, Row};

use super::{Opened, unreachable, url};
use crate::Error;
use crate::args::Args;
use crate::ledger::{Ledger, WORK, receipt};
use crate::order::Receipt;

pub(super) async fn open(args: &Args, run: &str) -> Result<Opened, Error> {
    let usual = "postgres://postgres@127.0.0.1:5432/postgres";
    let url = url(args, "DATABASE_URL", usual);
    let records = format!("buttress_payments_{run}");
    let store = PostgresStore::connect(&url)?.table(&records)?;
    let migrated = store.migrate().await;
    migrated.map_err(|error| unreachable("PostgreSQL", "DATABASE_URL", &error))?;
    let table = Table::make(&url, format!("{records}_ledger"), store).await?;
    let (pool, store) = (table.pool.clone(), table.store.clone());
    // In the order in which the transactions of handlers that still run use them: else both would wait for each other.
    let tables = format!("{}, {records}, {records}_leases", table.name);
    Ok(Opened {
        store: Arc::new(store),
        ledger: Ledger::Table(table),
        clear: Box::pin(async move {
            let client = pool.get().await?;
            Ok(client
                .batch_execute(&format!("DROP TABLE {tables}"))
                .await?)
        }),
    })
}

/// The ledger as a table beside the store's.
#[derive(Clone)]
pub(crate) struct Table {
    pool: Pool,
    store: PostgresStore,
    name: String,
}

impl Table {
    async fn make(url: &str, name: String, store: PostgresStore) -> Result<Self, Error> {
        let mut config: Config = url.parse()?;
        config.connect_timeout(Duration::from_secs(2));
        let pool = Pool::builder(Manager::new(config, NoTls))
            .max_size(10)
            .runtime(Runtime::Tokio1)
            .build()?;
        let client = pool.get().await?;
        client
            .batch_execute(&format!(
                "CREATE TABLE {name} (receipt bigserial PRIMARY KEY, order_number bigint NOT NULL, cents bigint NOT NULL)"
            ))
            .await?;
        let store = store.transaction_pool(pool.clone());
        Ok(Self { pool, store, name })
    }

    pub(crate) async fn pay(
        &self,
        operation: Option<&Operation>,
        order: u32,
        cents: u64,
    ) -> Result<Response<Body>, Error> {
        let insert = &format!(
            "INSERT INTO {} (order_number, cents) VALUES ($1, $2) RETURNING receipt",
            self.name
        );
        let number = &i64::from(order);
        let amount = &i64::try_from(cents)?;
        let Some(operation) = operation else {
            let client = self.pool.get().await?;
            return paid(
                client.query_one(insert, &[number, amount]).await?,
                order,
                cents,
            )
            .await;
        };
        // Payment and record are both there after this, or neither is.
        let joined = self.store.joined(operation, |transaction| async move {
            let row = transaction.query_one(insert, &[number, amount]).await?;
            paid(row, order, cents).await
        });
        Ok(joined.await?.into_response())
    }

    pub(crate) async fn payments(&self) -> Result<Vec<Receipt>, Error> {
        let select = format!("SELECT receipt, order_number, cents FROM {}", self.name);
        let rows = self.pool.get().await?.query(&select, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Receipt {
                    number: row.try_get(0)?,
                    order: row.try_get::<_, i64>(1)?.try_into()?,
                    cents: row.try_get::<_, i64>(2)?.try_into()?,
                })
            })
            .collect()
    }
}

async fn paid(row: Row, order: u32, cents: u64) -> Result<Response<Body>, Error> {
    sleep(WORK).await;
    receipt(&Receipt {
        number: row.try_get(0)?,
        order,
        cents,
    })
}

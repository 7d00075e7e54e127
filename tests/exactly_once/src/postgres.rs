//! Records and effects in PostgreSQL, each pair in one transaction.

#[path = "../../../crates/buttress-postgres/tests/suite/server.rs"]
mod server;

use std::collections::HashSet;
use std::error::Error;
use std::panic::panic_any;
use std::sync::Mutex;
use std::time::Instant;

use axum::body::Body;
use axum::http::Response;
use buttress::idempotency::Operation;
use buttress_postgres::PostgresStore;
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Client, NoTls};

use crate::ledger::Effect;
use crate::plan::{End, Fate};
use crate::shop::{Planned, Shop, paid};

type Failure = Box<dyn Error + Send + Sync>;

/// The tables of one trial: `name` of its records, and `name_effects`.
pub(crate) struct Tables {
    pub(crate) url: String,
    pub(crate) name: String,
    client: Client,
}

impl Tables {
    pub(crate) async fn create() -> Result<Self, Failure> {
        let url = server::url();
        let (client, connection) = server::reached(tokio_postgres::connect(&url, NoTls).await);
        tokio::spawn(connection);
        let name = format!("torture_{:016x}", rand::random::<u64>());
        let make = format!(
            "CREATE TABLE {name}_effects (key bigint NOT NULL, run bigint NOT NULL, id text NOT NULL)"
        );
        client.batch_execute(&make).await?;
        PostgresStore::connect(&url)?
            .table(&name)?
            .migrate()
            .await?;
        Ok(Self { url, name, client })
    }

    pub(crate) async fn effects(&self) -> Result<Vec<Effect>, Failure> {
        let select = format!("SELECT key, run, id FROM {}_effects", self.name);
        let rows = self.client.query(&select, &[]).await?;
        let read = |row: tokio_postgres::Row| {
            Ok(Effect {
                key: u64::try_from(row.try_get::<_, i64>(0)?)?,
                run: u32::try_from(row.try_get::<_, i64>(1)?)?,
                id: row.try_get(2)?,
                at: Instant::now(),
            })
        };
        rows.into_iter().map(read).collect()
    }

    pub(crate) async fn drop(self) -> Result<(), Failure> {
        let name = &self.name;
        let drop = format!("DROP TABLE {name}, {name}_leases, {name}_effects");
        Ok(self.client.batch_execute(&drop).await?)
    }
}

/// The server's side.
pub(crate) struct Till {
    store: PostgresStore,
    insert: String,
    /// The keys whose transaction has panicked in this process.
    panicked: Mutex<HashSet<u64>>,
}

impl Till {
    pub(crate) fn open(url: &str, name: &str) -> Result<Self, Failure> {
        let pool = Pool::builder(Manager::new(url.parse()?, NoTls))
            .max_size(8)
            .build()?;
        Ok(Self {
            store: PostgresStore::connect(url)?
                .table(name)?
                .transaction_pool(pool),
            insert: format!("INSERT INTO {name}_effects VALUES ($1, $2, $3)"),
            panicked: Mutex::default(),
        })
    }

    pub(crate) fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    /// Pays and records in one transaction.
    pub(crate) async fn pay(
        &self,
        shop: &Shop,
        operation: &Operation,
        key: u64,
        id: &str,
        fate: &Fate,
    ) -> Result<Response<Body>, Failure> {
        let number = &i64::try_from(key)?;
        let run = &i64::from(operation.run());
        let joined = self.store.joined(operation, |transaction| async move {
            let insert = transaction.prepare_cached(&self.insert).await?;
            transaction.execute(&insert, &[number, run, &id]).await?;
            tokio::time::sleep(fate.after).await;
            if fate.end == End::PanicsAfter && crate::locked(&self.panicked).insert(key) {
                panic_any(Planned);
            }
            Ok(paid(shop, key, operation.run(), id, fate))
        });
        let response = joined.await?;
        if fate.end == End::PanicsAtLast {
            panic_any(Planned);
        }
        Ok(response.map(Body::new))
    }
}

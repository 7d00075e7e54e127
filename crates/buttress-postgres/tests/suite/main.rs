//! Records in `PostgreSQL`, on a real server.

mod completion;
mod joined;
mod leases;
mod life;
mod payments;
mod proxy;
mod server;
mod table;
mod tls;
mod trouble;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::idempotency::store::{Begun, Claim, Fingerprint, RecordKey};
use buttress::idempotency::store::{Store, StoreError};
use buttress_postgres::PostgresStore;
use deadpool_postgres::{Manager, Pool, Runtime};
use tokio_postgres::{Client, Config, NoTls};

const KEY: RecordKey = RecordKey([7; 32]);
const FINGERPRINT: Fingerprint = Fingerprint([1; 32]);
const MINUTE: Duration = Duration::from_secs(60);

fn url() -> String {
    server::url()
}

fn config() -> Config {
    url().parse().expect("DATABASE_URL is an address")
}

/// A connection without a store.
async fn connect() -> Client {
    let (client, connection) = server::reached(config().connect(NoTls).await);
    tokio::spawn(connection);
    client
}

/// A pool supplied by a user.
fn pool(config: Config) -> Pool {
    Pool::builder(Manager::new(config, NoTls))
        .max_size(8)
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a pool")
}

/// A table that is dropped when the test ends.
struct Table {
    name: String,
    /// A connection in addition to those of the store.
    client: Client,
}

impl Table {
    /// A name without a table yet.
    async fn named() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("buttress_test_{process}_{next}");
        let client = connect().await;
        client
            .batch_execute(&format!("DROP TABLE IF EXISTS {name}, {name}_leases"))
            .await
            .expect("dropped");
        Self { name, client }
    }

    /// A table, and a store in it.
    async fn made() -> (Self, PostgresStore) {
        let table = Self::named().await;
        let store = table.store();
        store.migrate().await.expect("migrated");
        (table, store)
    }

    fn store(&self) -> PostgresStore {
        self.at(&url())
    }

    /// A store that opens its own connections.
    fn at(&self, url: &str) -> PostgresStore {
        PostgresStore::connect(url)
            .expect("an address")
            .table(&self.name)
            .expect("a name")
            .reap_every(None)
    }

    /// A store with connections supplied by the user.
    fn with(&self, pool: Pool) -> PostgresStore {
        PostgresStore::with(pool)
            .table(&self.name)
            .expect("a name")
            .reap_every(None)
    }

    /// Executes statements in which `{}` is the table.
    async fn execute(&self, sql: &str) {
        self.client
            .batch_execute(&sql.replace("{}", &self.name))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn rows(&self) -> i64 {
        self.client
            .query_one(&format!("SELECT count(*) FROM {}", self.name), &[])
            .await
            .expect("a count")
            .get(0)
    }

    /// Until another connection waits for a lock on this table.
    async fn somebody_waits(&self) {
        loop {
            let waiting: bool = self
                .client
                .query_one(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock' AND position($1 IN query) > 0)",
                    &[&self.name],
                )
                .await
                .expect("an answer")
                .get(0);
            if waiting {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let name = self.name.clone();
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let dropping = format!(
                    "SET lock_timeout = '5s'; DROP TABLE IF EXISTS {name} CASCADE;
                     DROP TABLE IF EXISTS {name}_leases; DROP TABLE IF EXISTS {name}_effects; DROP FUNCTION IF EXISTS {name}_fails"
                );
                let _ = connect().await.batch_execute(&dropping).await;
            });
        });
        let _ = dropped.join();
    }
}

fn claim() -> Claim {
    Claim::new(FINGERPRINT, MINUTE, MINUTE)
}

/// A claim whose lease ends at once.
fn brief() -> Claim {
    Claim::new(FINGERPRINT, Duration::ZERO, MINUTE)
}

async fn begin(store: &PostgresStore, claim: &Claim) -> Begun {
    store.begin(&KEY, claim).await.expect("begun")
}

/// The message of an error of this kind.
async fn unavailable<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> String {
    match call.await {
        Err(error @ StoreError::Unavailable(_)) => error.to_string(),
        other => panic!("not unavailable, but {other:?}"),
    }
}

async fn unreadable<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> String {
    match call.await {
        Err(error @ StoreError::Unreadable(_)) => error.to_string(),
        other => panic!("not unreadable, but {other:?}"),
    }
}

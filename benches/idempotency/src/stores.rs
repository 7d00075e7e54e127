//! The stores.

use std::sync::Arc;
use std::time::Duration;

use buttress::BoxError;
use buttress::idempotency::store::{MemoryStore, Store};

use crate::Effort;
use crate::measure::{Figures, figures};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Measures every available store. The lines for the file.
pub(crate) async fn measure(effort: Effort) -> Vec<String> {
    println!(
        "{:10} {:>12} {:>12} {:>12} {:>14}",
        "store", "ops/s", "begin p50", "begin p99", "complete p99"
    );
    let mut rows = Vec::new();
    let mut report = |name: &str, measured: Result<Figures, BoxError>| match measured {
        Ok(figures) => rows.push(row(name, &figures)),
        Err(error) => println!("{name:10} not measured: {error}"),
    };
    // Records with a time to live of a day would fill the memory within a round, so these expire at once.
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
    report(
        "memory",
        Ok(figures(memory, Duration::from_millis(50), effort.in_slices()).await),
    );
    report("file", file(effort).await);
    report("redis", redis(effort).await);
    report("postgres", postgres(effort).await);
    rows
}

fn row(name: &str, figures: &Figures) -> String {
    let Figures {
        ops_per_s,
        begin_p50,
        begin_p99,
        complete_p99,
    } = figures;
    let micros = |time: &Duration| time.as_secs_f64() * 1e6;
    let (p50, p99, complete) = (micros(begin_p50), micros(begin_p99), micros(complete_p99));
    println!("{name:10} {ops_per_s:12.0} {p50:9.1} µs {p99:9.1} µs {complete:11.1} µs");
    format!(
        r#"{{"store":"{name}","ops_per_s":{ops_per_s:.0},"begin_p50_us":{p50:.2},"begin_p99_us":{p99:.2},"complete_p99_us":{complete:.2}}}"#
    )
}

async fn redis(effort: Effort) -> Result<Figures, BoxError> {
    use buttress_redis::RedisStore;

    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let prefix = format!("buttress-bench-{:016x}:", rand::random::<u64>());
    let store = RedisStore::connect(&url).await?.prefix(&prefix)?;
    let figures = figures(Arc::new(store), DAY, effort).await;
    let client = ::redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut cursor = 0_u64;
    loop {
        let mut scan = ::redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*"));
        let (next, keys): (u64, Vec<String>) = scan
            .arg("COUNT")
            .arg(5000)
            .query_async(&mut connection)
            .await?;
        if !keys.is_empty() {
            let mut unlink = ::redis::cmd("UNLINK");
            unlink.arg(&keys).exec_async(&mut connection).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(figures);
        }
    }
}

async fn postgres(effort: Effort) -> Result<Figures, BoxError> {
    use buttress_postgres::PostgresStore;

    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    let table = format!("buttress_bench_{:016x}", rand::random::<u64>());
    let store = PostgresStore::connect(&url)?.table(&table)?;
    store.migrate().await?;
    let figures = figures(Arc::new(store), DAY, effort).await;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute(&format!("DROP TABLE {table}, {table}_leases"))
        .await?;
    Ok(figures)
}

async fn file(effort: Effort) -> Result<Figures, BoxError> {
    use buttress::idempotency::store::FileStore;

    // The folder of build results is on a disk, a folder for temporary files may be in memory.
    let path = crate::support::target().join(format!("bench-{:016x}.redb", rand::random::<u64>()));
    let figures = figures(Arc::new(FileStore::open(&path)?), DAY, effort).await;
    std::fs::remove_file(path)?;
    Ok(figures)
}

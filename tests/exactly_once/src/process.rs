//! This program as a server process.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::store::Store;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::ledger::Pen;
use crate::shop::{Shop, Till};

/// The variable that makes a server of this program.
pub(crate) const SPEC: &str = "EXACTLY_ONCE_SERVER";

/// The configuration of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) seed: u64,
    pub(crate) name: String,
    pub(crate) ledger: SocketAddr,
    pub(crate) records: Records,
}

/// The store of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Records {
    /// Lost with the process.
    Memory,
    File(std::path::PathBuf),
    Redis {
        url: String,
        prefix: String,
    },
    RedisCluster {
        urls: Vec<String>,
    },
    Postgres {
        url: String,
        name: String,
    },
}

/// Serves until it is killed, or until its input is closed and its handlers have ended. The input closes when the parent waits for
/// this process, or is killed.
pub(crate) fn serve(spec: &str) -> io::Result<()> {
    let spec: Spec = serde_json::from_str(spec)?;
    let (close, closed) = oneshot::channel();
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        close.send(())
    });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let (store, till) = opened(&spec).await.map_err(io::Error::other)?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            io::stdout().flush()?;
            let shop = Shop::new(spec.seed, spec.name, till);
            let served = shop.clone().serve(store, listener);
            tokio::select! {
                served = served => return served,
                _ = closed => {}
            }
            drop(shop.running.write().await);
            Ok(())
        })
}

async fn opened(
    spec: &Spec,
) -> Result<(Arc<dyn Store>, Till), Box<dyn std::error::Error + Send + Sync>> {
    let ledger = Till::Ledger(Pen::new(spec.ledger));
    Ok(match &spec.records {
        Records::Memory => (Arc::new(MemoryStore::new()), ledger),
        Records::File(path) => {
            let store = buttress::idempotency::store::FileStore::open(path)?;
            (Arc::new(store), ledger)
        }
        Records::Redis { url, prefix } => {
            let store = buttress_redis::RedisStore::connect(url).await?;
            (Arc::new(store.prefix(prefix)?), ledger)
        }
        Records::RedisCluster { urls } => {
            let urls = urls.iter().map(String::as_str);
            let store = buttress_redis::RedisStore::cluster(urls).await?;
            (Arc::new(store), ledger)
        }
        Records::Postgres { url, name } => {
            let till = crate::postgres::Till::open(url, name)?;
            (Arc::new(till.store()), Till::Transaction(till))
        }
    })
}

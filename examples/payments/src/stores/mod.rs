//! The selected store and its ledger, and how both are removed.

mod file;
pub(crate) mod postgres;
mod redis;

use std::pin::Pin;
use std::sync::Arc;

use buttress::idempotency::store::StoreError;
use buttress::idempotency::store::{MemoryStore, Store};

use crate::Error;
use crate::args::{Args, Kind};
use crate::ledger::{Bank, Ledger};

/// A store with nothing in it that is of this run.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledger: Ledger,
    /// Removes the data of this run from the servers.
    pub(crate) clear: Clear,
}

type Clear = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

impl Opened {
    fn beside_a_bank(
        store: impl Store,
        clear: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Self {
        Self {
            store: Arc::new(store),
            ledger: Ledger::Bank(Bank::default()),
            clear: Box::pin(clear),
        }
    }
}

/// Opens the store; `run` is part of all names of this run.
pub(crate) async fn open(args: &Args, run: &str) -> Result<Opened, Error> {
    match args.store {
        Kind::Memory => Ok(Opened::beside_a_bank(MemoryStore::new(), async { Ok(()) })),
        Kind::File => file::open(args, run),
        Kind::Redis => redis::open(args, run).await,
        Kind::Postgres => postgres::open(args, run).await,
    }
}

/// The address that was given, or the one that is usual.
fn url(args: &Args, variable: &str, usual: &str) -> String {
    let given = args.url.clone().or_else(|| std::env::var(variable).ok());
    given.unwrap_or_else(|| usual.to_owned())
}

fn unreachable(server: &str, variable: &str, error: &StoreError) -> Error {
    let mut why = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let suffix = format!(": {error}");
        if !why.ends_with(&suffix) {
            why += &suffix;
        }
        source = error.source();
    }
    format!(
        "{server} cannot be used{why}\nStart one (`scripts/services.sh <this command>` does, for as long as the command runs), or \
         name another by --url or {variable}."
    )
    .into()
}

//! The store that was asked for, and what has to be cleared away afterwards.

use std::sync::Arc;

use buttress::idempotency::MemoryStore;
use buttress::idempotency::store::Store;

use crate::Error;
use crate::args::{Args, Kind};
use crate::ledger::{Bank, Ledger};

/// A store with nothing in it that is of this run, and the ledger that goes with it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledger: Ledger,
    place: Place,
}

/// What is left behind outside of the process.
enum Place {
    Nowhere,
}

impl Opened {
    fn beside_a_bank(store: impl Store, place: Place) -> Self {
        Self {
            store: Arc::new(store),
            ledger: Ledger::Bank(Bank::default()),
            place,
        }
    }

    /// Clears away what this run has left.
    pub(crate) async fn clear(self) -> Result<(), Error> {
        match self.place {
            Place::Nowhere => Ok(()),
        }
    }
}

/// Opens the store; `run` names what is of this run only.
pub(crate) async fn open(args: &Args, run: &str) -> Result<Opened, Error> {
    match args.store {
        Kind::Memory => Ok(Opened::beside_a_bank(MemoryStore::new(), Place::Nowhere)),
        kind => Err(missing(kind)),
    }
}

/// The crate was built without it.
fn missing(kind: Kind) -> Error {
    let name = kind.name();
    format!(
        "the store `{name}` is in the feature `{name}`:\n  cargo run --release --features {name} --example payments -- \
         --store {name}\nWithout a feature there is `--store memory`."
    )
    .into()
}

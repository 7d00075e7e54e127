//! Records in a file.

use std::fs;

use buttress::idempotency::store::FileStore;

use super::Opened;
use crate::Error;
use crate::args::Args;

pub(super) fn open(args: &Args, run: &str) -> Result<Opened, Error> {
    if let Some(path) = &args.path {
        let store = FileStore::open(path)
            .map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
        return Ok(Opened::beside_a_bank(store, async { Ok(()) }));
    }
    let folder = std::env::temp_dir().join(format!("buttress-payments-{run}"));
    fs::create_dir(&folder)
        .map_err(|error| format!("{} cannot be created: {error}", folder.display()))?;
    let store = FileStore::open(folder.join("records"))?;
    Ok(Opened::beside_a_bank(store, async move {
        Ok(fs::remove_dir_all(folder)?)
    }))
}

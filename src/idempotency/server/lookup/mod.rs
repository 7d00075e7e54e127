//! Look-up and repair of operations, for operators and support tools.
//!
//! An operation with an *unknown* outcome, or a process that died in its handler, leaves a record that somebody has to decide
//! about: did the operation happen or not? [`IdempotencyLayer::find`] and [`IdempotencyLayer::list`] show records, and [`IdempotencyLayer::repair`] either
//! releases the key, so that the next request runs the operation, or records the response that the next request gets.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use buttress::idempotency::lookup::{ListFilter, OperationState, RecordOf, Repair};
//! use buttress::idempotency::store::MemoryStore;
//! use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
//!
//! # let store = MemoryStore::new();
//! let layer = IdempotencyLayer::new("payments", store, Scope::Global, IdempotencyConfig::default())?;
//!
//! // One operation, by the request that a client reports …
//! let record = layer.record(&RecordOf::post("/payments", "8e03978e-40d5-43dd-bc93-6894a57f9324").tenant("acme"));
//! if let Some(found) = layer.find(&record).await? {
//!     println!("{}: run {}, {}", found.operation_id(), found.run(), found.state());
//!     // … which did not happen, as the payment provider's records show.
//!     layer.repair(&found, Repair::release()).await?;
//! }
//!
//! // … or all that need a decision.
//! let filter = ListFilter::new().state(OperationState::Unknown);
//! let mut after: Option<String> = None;
//! loop {
//!     let page = layer.list(&filter, after.as_deref(), 100).await?;
//!     for found in page.operations {
//!         println!("{} {:?}", found.record().to_hex(), found.age());
//!     }
//!     after = page.next;
//!     if after.is_none() {
//!         break;
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! `examples/repair` is a command-line tool for this.

mod found;
mod record_of;
mod repair;
mod state;

use self::found::FoundPage;
pub use self::found::{Found, ListFilter};
pub use self::record_of::RecordOf;
pub(super) use self::record_of::{Route, record_key};
pub use self::repair::{Repair, RepairError};
pub use self::state::OperationState;

use super::layer::IdempotencyLayer;
use crate::idempotency::record::RecordKey;
use crate::idempotency::server::execution::claim::limited;
use crate::idempotency::store::StoreError;

/// Look-up and repair: see [`lookup`](self).
impl IdempotencyLayer {
    /// The key of the record of this request.
    ///
    /// If the layer has a [`route`](Self::route) function, set [`RecordOf::route`] to the value that it returns.
    pub fn record(&self, of: &RecordOf) -> RecordKey {
        of.key(self.engine.source.name(), self.engine.route.is_some())
    }

    /// Looks up an operation, with its stored response. `None` if the store has no such record.
    ///
    /// # Errors
    ///
    /// The store cannot be reached within `store_timeout`, cannot look up records, or cannot read this one.
    pub async fn find(&self, record: &RecordKey) -> Result<Option<Found>, StoreError> {
        let found = limited(&self.engine, self.engine.store.find(record)).await?;
        Ok(found.map(Found::whole))
    }

    /// Lists the operations that match the filter on one page of about `limit` records. An empty page may still have a next
    /// one.
    ///
    /// The page has three fields: `operations`, a `Vec` of [`Found`]; `unreadable`, the number of its records that this version cannot
    /// read at all; and `next`, where the next page starts, or `None` after the last page.
    ///
    /// This scans the whole store, including records of other layers that share it. Keep it off the request path. Each record that
    /// exists during the whole scan appears at least once. Stored responses are not read: [`Found::response`] is `None`.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, cannot look up records, or the cursor is not from this store.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing. There is no time limit: add one if you need it.
    pub async fn list(
        &self,
        filter: &ListFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FoundPage, StoreError> {
        let page = self.engine.store.list(after, limit).await?;
        let found = page.entries.into_iter().map(Found::listed);
        Ok(FoundPage {
            operations: found.filter(|found| filter.matches(found)).collect(),
            unreadable: page.unreadable,
            next: page.next,
        })
    }
}

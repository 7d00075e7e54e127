//! The lease of an operation, for as long as its handler runs.

use std::convert::Infallible;
use std::future::pending;

use tokio::time::sleep;

use super::claim::limited;
use super::operation::Operation;
use crate::idempotency::record::{Begun, Claim};

/// Renews the lease. Never ready: the handler ends, not this.
pub(super) async fn hold(operation: &Operation, claim: &Claim) -> Infallible {
    let shared = operation.shared();
    let (store, record, lease) = (&shared.store, operation.record(), claim.lease);
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        if operation.committed().is_some() {
            return pending().await;
        }
        let held = match limited(shared, store.renew(record, claim.token, lease, claim.ttl)).await {
            // A record that is gone before its time is claimed anew, before anybody else does.
            Ok(false) => limited(shared, store.begin(record, claim))
                .await
                .map(|begun| matches!(begun, Begun::Started { .. })),
            held => held,
        };
        pause = match held {
            Ok(true) => lease / 3,
            // What it has begun goes on: to stop half-way would be worse. It can record nothing any more.
            Ok(false) => {
                if operation.committed().is_none() {
                    operation.lost();
                }
                return pending().await;
            }
            Err(error) => {
                shared.store_failed(&error);
                lease / 10
            }
        };
    }
}

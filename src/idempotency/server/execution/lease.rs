//! The renewal of the lease of an operation that is running.

use std::convert::Infallible;
use std::future::pending;

use tokio::time::sleep;

use crate::idempotency::record::{Begun, Claim};
use crate::idempotency::server::execution::claim::limited;
use crate::idempotency::server::operation::Operation;

/// Renews the lease until this future is dropped.
pub(super) async fn renew(operation: &Operation, claim: &Claim) -> Infallible {
    let engine = operation.engine();
    let (store, record, lease) = (&engine.store, operation.record(), claim.lease);
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        if operation.committed().is_some() {
            return pending().await;
        }
        let held = match limited(engine, store.renew(record, claim.token, lease, claim.ttl)).await {
            // A record that was deleted too early is claimed again, before another request claims it.
            Ok(false) => limited(engine, store.begin(record, claim))
                .await
                .map(|begun| matches!(begun, Begun::Started { .. })),
            held => held,
        };
        pause = match held {
            Ok(true) => lease / 3,
            // The handler continues, because stopping it halfway would be worse. Its result cannot be recorded.
            Ok(false) => {
                if operation.committed().is_none() {
                    operation.lost();
                }
                return pending().await;
            }
            Err(error) => {
                engine.store_failed(&error);
                lease / 10
            }
        };
    }
}

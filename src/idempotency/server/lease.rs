//! The lease of an operation, for as long as its handler runs.

use std::convert::Infallible;
use std::future::pending;

use tokio::time::sleep;

use super::claim::limited;
use super::operation::Operation;
use crate::event::OperationStep;

/// Renews the lease. Never ready: the handler ends, not this.
pub(super) async fn hold(operation: &Operation) -> Infallible {
    let shared = operation.shared();
    let (lease, ttl) = (shared.config.lease, shared.config.ttl);
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        if operation.committed().is_some() {
            return pending().await;
        }
        let renewal = shared
            .store
            .renew(operation.record(), operation.token(), lease, ttl);
        pause = match limited(shared, renewal).await {
            Ok(true) => lease / 3,
            // What it has begun goes on: to stop half-way would be worse. It can record nothing any more.
            Ok(false) => {
                if operation.committed().is_none() {
                    shared.report(OperationStep::LeaseLost);
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

//! Claims that wait until they are replicated.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value, pipe};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connections::Connections;
use super::script::{RENEW, Reply, failed, is_unknown, micros};
use buttress::idempotency::store::{Claim, Ended, StoreError};

/// How long replicas have to acknowledge a claim.
const ACKNOWLEDGE: Duration = Duration::from_millis(500);
/// How many claims wait at the same time. `WAIT` blocks its connection, so each claim has its own.
const AT_ONCE: usize = 16;

pub(super) struct Replicas {
    needed: u8,
    connections: Connections,
    idle: Mutex<Vec<Connections>>,
    places: Semaphore,
}

impl Replicas {
    /// `None` if no further connections can be made.
    pub(super) fn new(needed: u8, connections: &Connections) -> Option<Self> {
        Some(Self {
            needed,
            connections: connections.another()?,
            idle: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        })
    }

    /// Renews the claim that was just made, and waits until enough replicas have it.
    ///
    /// `WAIT` counts writes of its own connection. The renewal is such a write, and confirms that the claim is on this server,
    /// because a failover may have happened in between.
    pub(super) async fn acknowledge(&self, name: &str, claim: &Claim) -> Result<(), StoreError> {
        if claim.lease.is_zero() && claim.ttl.is_zero() {
            // The record has already expired, so there is nothing to replicate.
            return Ok(());
        }
        let _place = match timeout(ACKNOWLEDGE, self.places.acquire()).await {
            Ok(place) => place.ok(),
            Err(_) => {
                return Err(
                    self.missing(&format!("{AT_ONCE} other claims are waiting for replicas"))
                );
            }
        };
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let free = idle().pop();
        let Some(connections) = free.or_else(|| self.connections.another()) else {
            return Err(self.missing("no connection is free to wait on"));
        };
        let acknowledged = self.renewed(&connections, name, claim).await;
        // Not reached if this call is cancelled: then the connection may still be blocked.
        idle().push(connections);
        match acknowledged? {
            count if count >= i64::from(self.needed) => Ok(()),
            count => Err(self.missing(&format!("it reached {count} within {ACKNOWLEDGE:?}"))),
        }
    }

    async fn renewed(
        &self,
        connections: &Connections,
        name: &str,
        claim: &Claim,
    ) -> Result<i64, StoreError> {
        let (lease, ttl) = (micros(claim.lease), micros(claim.ttl));
        let arguments: [&[u8]; 3] = [&claim.token.0, lease.as_bytes(), ttl.as_bytes()];
        let by_hash = self.commands(RENEW.by_hash(name, &arguments));
        let mut responses = connections.pipeline(name, &by_hash).await;
        let first = responses
            .as_ref()
            .ok()
            .and_then(|responses| responses.first());
        let error = first.and_then(|response| response.clone().extract_error().err());
        if error.is_some_and(|error| is_unknown(&error)) {
            let by_code = self.commands(RENEW.by_code(name, &arguments));
            responses = connections.pipeline(name, &by_code).await;
        }
        let mut responses = responses.map_err(failed)?.into_iter();
        let mut next = || {
            let response = responses.next().unwrap_or(Value::Nil);
            response.extract_error().map_err(failed)
        };
        match Reply::read(next()?)?.ended()? {
            Ended::Taken => {}
            _ => return Err(self.missing("the claim was lost, probably in a failover")),
        }
        match next()? {
            Value::Int(count) => Ok(count),
            _ => Err(self.missing("the server does not know the command WAIT")),
        }
    }

    fn commands(&self, renew: Cmd) -> Pipeline {
        let mut commands = pipe();
        commands.add_command(renew);
        let millis = u64::try_from(ACKNOWLEDGE.as_millis()).unwrap_or(u64::MAX);
        commands.cmd("WAIT").arg(self.needed).arg(millis);
        commands
    }

    fn missing(&self, why: &str) -> StoreError {
        let needed = self.needed;
        let replicas = if needed == 1 { "replica" } else { "replicas" };
        StoreError::unavailable(format!("a claim must reach {needed} {replicas}: {why}"))
    }
}

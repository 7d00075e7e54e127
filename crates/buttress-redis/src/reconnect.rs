//! The connection of a store, and its replacement.
//!
//! An open connection can be useless: its server was demoted, is cut off or does not respond, and the address already leads to
//! another server. Only a new connection reaches that one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{RedisError, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{Connection, Request, Target, too_slow};
use super::eviction_policy::Policies;
use buttress::clock::{Moment, Now};

/// A connection is replaced if it has received nothing for this time although a command was sent.
const SILENCE: Duration = Duration::from_secs(1);
/// The shortest time between two connections. Without it, each call would connect anew to a server that stays read-only.
const PACE: Duration = Duration::from_millis(100);

/// How long an attempt to connect may take. It never ends if its runtime has stopped.
const ATTEMPT: Duration = Duration::from_secs(6);

/// Errors of a server that cannot run scripts now, while another one at the same address could.
const MISPLACED: &[&str] = &[
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "LOADING",
    "MISCONF",
    "UNBLOCKED",
    "NOAUTH",
    "WRONGPASS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
];

/// One connection for all calls, which is replaced when it is useless.
pub(super) struct Reconnecting {
    target: Arc<Target>,
    policies: Arc<Policies>,
    current: Mutex<Current>,
}

/// The result of connecting, once there is one.
type Attempt = watch::Receiver<Option<RedisResult<Connection>>>;

#[derive(Default)]
struct Current {
    /// Counts the connections.
    number: u64,
    attempt: Option<Attempt>,
    started: Moment,
    /// When the first command was sent after which nothing was received.
    waiting_since: Option<Moment>,
}

impl Current {
    fn replace(&mut self) {
        self.number += 1;
        self.attempt = None;
        self.waiting_since = None;
    }

    fn is_older_than(&self, age: Duration) -> bool {
        Now::unread().moment().since(self.started) >= age
    }

    /// Whether the attempt failed while nobody waited for it. Such a failure is out of date, so the next call connects again.
    fn has_failed(&self) -> bool {
        let attempt = self.attempt.as_ref();
        attempt.is_some_and(|attempt| matches!(&*attempt.borrow(), Some(Err(_))))
    }

    fn is_silent(&self) -> bool {
        self.waiting_since
            .is_some_and(|since| Now::unread().moment().since(since) >= SILENCE)
    }
}

impl Reconnecting {
    pub(super) fn new(target: Arc<Target>, policies: Arc<Policies>) -> Self {
        Self {
            target,
            policies,
            current: Mutex::default(),
        }
    }

    pub(super) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.target), Arc::clone(&self.policies))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn send(&self, request: Request<'_>) -> RedisResult<Vec<Value>> {
        let mut is_resent = false;
        loop {
            let (number, mut connection) = self.connected().await?;
            self.sent(number);
            let responses = connection.send(request).await;
            let error = match &responses {
                Ok(values) => values.iter().find_map(|value| match value {
                    Value::ServerError(error) => Some(error.clone().into()),
                    _ => None,
                }),
                Err(error) => Some(error.clone()),
            };
            let Some(error) = error else {
                self.received(number);
                return responses;
            };
            // Every script can be run again.
            if !self.failed(number, &error) || is_resent {
                return responses;
            }
            is_resent = true;
        }
    }

    /// The current connection, or a new one. All callers that wait share one attempt and its failure.
    pub(super) async fn connected(&self) -> RedisResult<(u64, Connection)> {
        let (number, mut attempt) = {
            let mut current = self.current();
            if current.is_silent() || current.has_failed() {
                current.replace();
            }
            let attempt = if let Some(attempt) = &current.attempt {
                attempt.clone()
            } else {
                current.started = Now::unread().moment();
                let attempt = self.start();
                current.attempt = Some(attempt.clone());
                attempt
            };
            (current.number, attempt)
        };
        // An attempt on a runtime that has stopped never ends.
        let connected = match timeout(ATTEMPT, attempt.wait_for(Option::is_some)).await {
            Ok(Ok(connected)) => (*connected).clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        match connected {
            Some(Ok(connection)) => Ok((number, connection)),
            failed => {
                self.replace(number);
                Err(match failed {
                    Some(Err(error)) => error,
                    _ => too_slow(
                        "connecting to Redis did not end within 6 s; its runtime may have stopped",
                    ),
                })
            }
        }
    }

    /// Connects on a separate task, because the caller may be dropped while others wait for the same attempt.
    fn start(&self) -> Attempt {
        let (result, attempt) = watch::channel(None);
        let (target, policies) = (Arc::clone(&self.target), Arc::clone(&self.policies));
        tokio::spawn(async move {
            let connected = target.connect().await;
            if let Ok((connection, server)) = &connected {
                policies.check(connection.clone(), server).await;
            }
            let _ = result.send(Some(connected.map(|(connection, _)| connection)));
        });
        attempt
    }

    fn replace(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.replace();
        }
    }

    fn sent(&self, number: u64) {
        let mut current = self.current();
        // A cluster has several connections, and a response of one node does not show that another one is alive.
        if current.number == number && !self.target.is_cluster() {
            let now = || Now::unread().moment();
            current.waiting_since.get_or_insert_with(now);
        }
    }

    fn received(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.waiting_since = None;
        }
    }

    /// Replaces the connection if this error shows that it is useless. Returns whether to send the command again.
    fn failed(&self, number: u64, error: &RedisError) -> bool {
        let mut current = self.current();
        let is_current = current.number == number;
        if error.is_timeout() {
            // The other nodes hide a silent one. A new connection to the cluster finds the node that took over.
            if is_current && self.target.is_cluster() && current.is_older_than(SILENCE) {
                current.replace();
            }
            return false;
        }
        if is_current {
            current.waiting_since = None;
        }
        if error.is_io_error() || error.is_unrecoverable_error() {
            if is_current {
                current.replace();
            }
            return true;
        }
        if !error.code().is_some_and(|code| MISPLACED.contains(&code)) {
            return false;
        }
        // The client has already retried within the cluster, and has a connection for each node.
        let pace = if self.target.is_cluster() {
            SILENCE
        } else {
            PACE
        };
        if is_current && !current.is_older_than(pace) {
            return false;
        }
        if is_current {
            current.replace();
        }
        true
    }
}

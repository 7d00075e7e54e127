//! The connection of a store, and when it is replaced.
//!
//! A connection that is open can still be useless: its server was demoted, is cut off, or does not answer, while the address
//! leads to another one by now. Only a new connection finds out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{RedisError, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{Connection, Request, Target, too_slow};
use super::eviction_policy::Policies;
use crate::clock::{Moment, Now};
use crate::detach::attend;

/// A connection that has received nothing for this time, though it was asked, is replaced.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a new connection is used at least, whatever its server answers: a server that stays read-only is not to be
/// connected to for each call.
const PACE: Duration = Duration::from_millis(100);

/// An attempt to connect that has not ended by then never will: its runtime may have stopped.
const ATTEMPT: Duration = Duration::from_secs(6);

/// Answers of a server that cannot run a script now, while another one at the same address could.
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

/// One connection for all calls, which is replaced when it is of no use any more.
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
    /// When the first command was sent that nothing was received after.
    unanswered_since: Option<Moment>,
}

impl Current {
    fn replace(&mut self) {
        self.number += 1;
        self.attempt = None;
        self.unanswered_since = None;
    }

    fn is_older_than(&self, age: Duration) -> bool {
        Now::unread().moment().since(self.started) >= age
    }

    /// A failure that nobody waited for says nothing about now.
    fn has_failed(&self) -> bool {
        let attempt = self.attempt.as_ref();
        attempt.is_some_and(|attempt| matches!(&*attempt.borrow(), Some(Err(_))))
    }

    fn is_silent(&self) -> bool {
        self.unanswered_since
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
        let mut is_repeated = false;
        loop {
            let (number, mut connection) = self.connected().await?;
            self.sent(number);
            let answers = connection.send(request).await;
            let error = match &answers {
                Ok(values) => values.iter().find_map(|value| match value {
                    Value::ServerError(error) => Some(error.clone().into()),
                    _ => None,
                }),
                Err(error) => Some(error.clone()),
            };
            let Some(error) = error else {
                self.answered(number);
                return answers;
            };
            // Every script may be run again.
            if !self.failed(number, &error) || is_repeated {
                return answers;
            }
            is_repeated = true;
        }
    }

    /// The connection in use, or a new one. All who wait for it share one attempt, and its failure.
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
        // A runtime that is no longer driven never ends its attempt.
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
                    _ => too_slow("the attempt to connect did not end"),
                })
            }
        }
    }

    /// Connects on a task of its own: the caller may leave, and others may wait for the same.
    fn start(&self) -> Attempt {
        let (result, attempt) = watch::channel(None);
        let (target, policies) = (Arc::clone(&self.target), Arc::clone(&self.policies));
        attend(async move {
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
        // A cluster has several connections: an answer of one node says nothing about another.
        if current.number == number && !self.target.is_cluster() {
            let now = || Now::unread().moment();
            current.unanswered_since.get_or_insert_with(now);
        }
    }

    fn answered(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.unanswered_since = None;
        }
    }

    /// Replaces the connection if this error shows that it is of no use. Returns whether the command is worth being sent again.
    fn failed(&self, number: u64, error: &RedisError) -> bool {
        let mut current = self.current();
        let is_current = current.number == number;
        if error.is_timeout() {
            // One node in silence is hidden by the others. A connection to the cluster finds the node that took over.
            if is_current && self.target.is_cluster() && current.is_older_than(SILENCE) {
                current.replace();
            }
            return false;
        }
        if is_current {
            current.unanswered_since = None;
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
        // A cluster has been asked again before this, and has a connection for each node.
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

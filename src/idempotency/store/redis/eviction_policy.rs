//! Whether a server evicts records when its memory is full.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use ::redis::{Cmd, FromRedisValue, InfoDict, Value, cmd, from_redis_value};
use tokio::time::timeout;

use super::connection::Connection;
use crate::event::{Event, Source, emit};

/// How long connecting waits for the check.
const ENOUGH: Duration = Duration::from_secs(1);
const SETTING: &str = "maxmemory-policy";
const NO_EVICTION: &str = "noeviction";

/// The policy of each server at the time of the last connection; `None` if the server does not report it.
type ByServer = BTreeMap<String, Option<String>>;

pub(super) struct Policies {
    source: Source,
    found: Mutex<ByServer>,
}

impl Policies {
    pub(super) fn new() -> Self {
        Self {
            source: Source::new("store", "redis"),
            found: Mutex::default(),
        }
    }

    fn found(&self) -> MutexGuard<'_, ByServer> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the policies of the servers behind a new connection, and reports those not reported before.
    pub(super) async fn check(&self, connection: Connection, server: &str) {
        let now = match timeout(ENOUGH, read_policies(connection, server)).await {
            Ok(now) => now,
            Err(_) => BTreeMap::from([(server.to_owned(), None)]),
        };
        let before = std::mem::replace(&mut *self.found(), now.clone());
        for (server, policy) in now {
            if before.get(&server) == Some(&policy) {
                continue;
            }
            if policy.as_deref() != Some(NO_EVICTION) {
                emit(&Event::EvictionPolicy {
                    source: &self.source,
                    server: &server,
                    policy: policy.as_deref(),
                });
            }
        }
    }
}

async fn read_policies(mut connection: Connection, server: &str) -> ByServer {
    let config = sent(
        &mut connection,
        server,
        cmd("CONFIG").arg("GET").arg(SETTING),
    )
    .await;
    let mut found: ByServer = config
        .into_iter()
        .map(|(server, response)| (server, from_config(response)))
        .collect();
    if found.is_empty() || found.values().any(Option::is_none) {
        // Managed services reject CONFIG, but not INFO.
        let info = sent(&mut connection, server, cmd("INFO").arg("memory")).await;
        for (server, response) in info {
            let policy = found.entry(server).or_default();
            if policy.is_none() {
                *policy = from_info(response);
            }
        }
    }
    if found.is_empty() {
        found.insert(server.to_owned(), None);
    }
    found
}

/// The response of each server.
async fn sent(connection: &mut Connection, server: &str, command: &Cmd) -> Vec<(String, Value)> {
    match connection {
        Connection::Single(connection) => {
            let response = connection.req_packed_command(command).await;
            let name = server.to_owned();
            response
                .map(|response| vec![(name, response)])
                .unwrap_or_default()
        }
        Connection::Cluster(connection) => {
            // Replicas too: each may be the next primary.
            let every = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllNodes, None));
            match connection.route_command(command.clone(), every).await {
                Ok(Value::Map(responses)) => {
                    let named = |(name, response)| Some((read::<String>(name)?, response));
                    responses.into_iter().filter_map(named).collect()
                }
                _ => Vec::new(),
            }
        }
    }
}

fn read<T: FromRedisValue>(value: Value) -> Option<T> {
    from_redis_value(value.extract_error().ok()?).ok()
}

fn from_config(response: Value) -> Option<String> {
    read::<HashMap<String, String>>(response)?.remove(SETTING)
}

fn from_info(response: Value) -> Option<String> {
    read::<InfoDict>(response)?.get("maxmemory_policy")
}

//! Whether a server evicts records when its memory is full.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use ::redis::{Cmd, FromRedisValue, InfoDict, Value, cmd, from_redis_value};
use tokio::time::timeout;

use super::connection::Connection;

/// How long connecting waits for the check.
const ENOUGH: Duration = Duration::from_secs(1);
const SETTING: &str = "maxmemory-policy";
const NO_EVICTION: &str = "noeviction";

/// The policy of each server at the time of the last connection; `None` if the server does not report it.
type ByServer = BTreeMap<String, Option<String>>;

#[derive(Default)]
pub(super) struct Policies {
    found: Mutex<ByServer>,
}

impl Policies {
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
            match policy.as_deref() {
                Some(NO_EVICTION) => {}
                Some(policy) => report_eviction(&server, policy),
                None => report_unknown(&server),
            }
        }
    }
}

/// An operation whose record was evicted is executed again.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables))]
fn report_eviction(server: &str, policy: &str) {
    #[cfg(feature = "metrics")]
    {
        const NAME: &str = "buttress.idempotency.evicting_servers_total";
        metrics::describe_counter!(
            NAME,
            metrics::Unit::Count,
            "servers that evict idempotency records when their memory is full; label policy"
        );
        metrics::counter!(NAME, "policy" => policy.to_owned()).increment(1);
    }
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "buttress",
        layer = "store",
        name = "redis",
        server,
        policy,
        "server `{server}` evicts idempotency records when its memory is full (`{policy}`), and their operations may be \
         executed again: set `maxmemory-policy` to `noeviction`"
    );
}

#[cfg_attr(not(feature = "tracing"), expect(unused_variables))]
fn report_unknown(server: &str) {
    #[cfg(feature = "tracing")]
    tracing::debug!(
        target: "buttress",
        layer = "store",
        name = "redis",
        server,
        "server `{server}` does not report its `maxmemory-policy`: check that it is `noeviction`"
    );
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

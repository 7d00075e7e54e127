//! Look-up and repair of records.

use std::time::Duration;

use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use ::redis::{Cmd, InfoDict, Value, cmd, from_redis_value, pipe};

use super::connection::Connection;
use super::script::{self, failed, micros};
use super::{RedisStore, SMALL};
use buttress::idempotency::store::{
    Entry, EntryState, Listed, RecordKey, Resolve, Resolved, StoreError, Token,
};

/// The largest number of keys that one step of a scan reads.
const PAGE: usize = 1_000;

/// Where a scan is.
#[derive(Debug, PartialEq)]
struct Position {
    /// The run id of the server or the epoch of the cluster. If it changes during a scan, the scan fails.
    version: String,
    /// The cursor of Redis.
    at: u64,
    /// The node of a cluster, as `host:port`.
    node: Option<String>,
}

impl Position {
    fn read(cursor: &str) -> Option<Self> {
        let mut parts = cursor.splitn(3, '/');
        Some(Self {
            version: parts.next()?.to_owned(),
            at: parts.next()?.parse().ok()?,
            node: parts.next().map(ToOwned::to_owned),
        })
    }

    fn cursor(self) -> String {
        let Self { version, at, node } = self;
        match node {
            Some(node) => format!("{version}/{at}/{node}"),
            None => format!("{version}/{at}"),
        }
    }
}

/// Keys, and the position of the next step.
type Step = (Vec<String>, Option<Position>);

impl RedisStore {
    /// The record, with at most this many bytes of its response.
    pub(super) async fn found(
        &self,
        key: &RecordKey,
        bytes: Option<usize>,
    ) -> Result<Option<Entry>, StoreError> {
        let bytes = bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
        let reply = self.run(&script::FIND, key, &[bytes.as_bytes()]).await?;
        reply.found()?.map(|fields| entry(key, fields)).transpose()
    }

    pub(super) async fn page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        let read =
            |cursor: &str| Position::read(cursor).ok_or_else(|| StoreError::invalid_cursor(cursor));
        let after = after.map(read).transpose()?;
        let scan = |at| self.scan(at, limit);
        let (names, next) = match self.connections.current().await.map_err(failed)? {
            Some(Connection::Cluster(cluster)) => scan_cluster(cluster, after, scan).await?,
            _ => self.scan_server(after, scan).await?,
        };
        let mut listed = Listed {
            next: next.map(Position::cursor),
            ..Listed::default()
        };
        for name in names {
            // Other keys may start with the same prefix.
            let digits = name.strip_prefix(&*self.prefix).unwrap_or_default();
            let Ok(key) = digits.parse() else { continue };
            match self.found(&key, Some(Listed::RESPONSE_BYTES)).await {
                Ok(found) => listed.entries.extend(found),
                Err(StoreError::Unreadable(_)) => listed.unreadable += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    fn scan(&self, at: u64, limit: usize) -> Cmd {
        let mut pattern = String::new();
        for letter in self.prefix.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('*');
        let mut scan = cmd("SCAN");
        scan.arg(at).arg("MATCH").arg(pattern);
        scan.arg("COUNT").arg(limit.clamp(1, PAGE));
        scan
    }

    async fn scan_server(
        &self,
        after: Option<Position>,
        scan: impl Fn(u64) -> Cmd,
    ) -> Result<Step, StoreError> {
        let at = after.as_ref().map_or(0, |after| after.at);
        let mut commands = pipe();
        // In one pipeline, so both responses come from the same server.
        commands.add_command(scan(at));
        commands.cmd("INFO").arg("server");
        let sent = self.connections.pipeline("", &commands).await;
        let mut responses = sent.map_err(failed)?.into_iter();
        let (at, names) = read_names(responses.next())?;
        let info = responses.next().and_then(|info| info.extract_error().ok());
        let info = info.and_then(|info| from_redis_value::<InfoDict>(info).ok());
        let field = |name| info.as_ref().and_then(|info| info.get::<String>(name));
        if field("redis_mode").is_some_and(|mode| mode == "cluster") {
            return Err(StoreError::unavailable(
                "the server is part of a cluster; use `RedisStore::cluster` to scan it",
            ));
        }
        let version = field("run_id").unwrap_or_default();
        if after.is_some_and(|after| after.version != version) {
            return Err(changed());
        }
        let next = (at > 0).then_some(Position {
            version,
            at,
            node: None,
        });
        Ok((names, next))
    }

    pub(super) async fn resolved(
        &self,
        key: &RecordKey,
        resolve: &Resolve,
    ) -> Result<Resolved, StoreError> {
        let new = Token::new();
        let (run, done) = (resolve.run.to_string(), u8::from(resolve.done).to_string());
        let stopped_for = micros(resolve.stopped_for);
        let (end, answer, ttl) = match &resolve.response {
            None => ("release", &[][..], Duration::ZERO),
            Some((answer, ttl)) => ("record", &answer[..], *ttl),
        };
        let ttl = micros(ttl);
        let script = if answer.len() <= SMALL {
            &script::RESOLVE_SMALL
        } else {
            &script::RESOLVE
        };
        let arguments: [&[u8]; 8] = [
            &resolve.token.0,
            run.as_bytes(),
            done.as_bytes(),
            stopped_for.as_bytes(),
            &new.0,
            end.as_bytes(),
            answer,
            ttl.as_bytes(),
        ];
        self.run(script, key, &arguments).await?.resolved()
    }
}

/// One step of a scan, which reads one primary after another.
async fn scan_cluster(
    mut cluster: ClusterConnection,
    after: Option<Position>,
    scan: impl Fn(u64) -> Cmd,
) -> Result<Step, StoreError> {
    let (version, nodes) = primaries(&mut cluster).await?;
    let (node, at) = match after {
        None => (nodes.first().cloned().unwrap_or_default(), 0),
        Some(after) => match after.node {
            Some(node) if after.version == version => (node, after.at),
            _ => return Err(changed()),
        },
    };
    let (host, port) = address(&node).ok_or_else(changed)?;
    let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
    let answer = cluster.route_command(scan(at), route).await;
    let (at, names) = read_names(Some(answer.map_err(failed)?))?;
    let node = if at > 0 {
        Some(node)
    } else {
        nodes.into_iter().find(|next| *next > node)
    };
    let next = node.map(|node| Position {
        version,
        at,
        node: Some(node),
    });
    Ok((names, next))
}

/// The epoch of the cluster, and the addresses of its primaries in order.
async fn primaries(cluster: &mut ClusterConnection) -> Result<(String, Vec<String>), StoreError> {
    let mut info = cmd("CLUSTER");
    info.arg("INFO");
    let every = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
    let answer = cluster.route_command(info, every).await.map_err(failed)?;
    let responses: Vec<(String, InfoDict)> = from_redis_value(answer)
        .map_err(|_| StoreError::unavailable("a node of the Redis cluster did not respond"))?;
    let epoch = |(_, info): &(String, InfoDict)| info.get::<u64>("cluster_current_epoch");
    let epoch = responses.iter().filter_map(epoch).max().unwrap_or_default();
    let mut nodes: Vec<String> = responses.into_iter().map(|(node, _)| node).collect();
    nodes.sort_unstable();
    Ok((epoch.to_string(), nodes))
}

fn address(node: &str) -> Option<(String, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

fn read_names(answer: Option<Value>) -> Result<(u64, Vec<String>), StoreError> {
    let answer = answer
        .unwrap_or(Value::Nil)
        .extract_error()
        .map_err(failed)?;
    from_redis_value(answer).map_err(|_| script::strange())
}

fn changed() -> StoreError {
    StoreError::unavailable("the Redis servers changed during the scan; start it again")
}

fn entry(key: &RecordKey, fields: Vec<Value>) -> Result<Entry, StoreError> {
    type Fields = (Vec<u8>, u32, u64, u64, String, Value);
    let (token, run, age, expires_in, state, detail): Fields =
        from_redis_value(Value::Array(fields)).map_err(|_| script::strange())?;
    let token = Token(token.try_into().map_err(|_| script::strange())?);
    let time = |value| match value {
        Value::Int(time) => u64::try_from(time)
            .map(Duration::from_micros)
            .map_err(|_| script::strange()),
        _ => Err(script::strange()),
    };
    let state = match (&*state, detail) {
        ("running", left) => EntryState::Running { lease: time(left)? },
        ("stopped", since) => EntryState::Stopped {
            since: time(since)?,
        },
        ("done", Value::BulkString(answer)) => EntryState::Done {
            answer: answer.into(),
        },
        _ => return Err(script::strange()),
    };
    Ok(Entry::new(
        *key,
        token,
        run,
        Duration::from_micros(age),
        state,
        Duration::from_micros(expires_in),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_as_text() {
        for node in [None, Some("::1:6379".to_owned()), Some("a/b:1".to_owned())] {
            let position = || Position {
                version: "17".to_owned(),
                at: u64::MAX,
                node: node.clone(),
            };
            let cursor = position().cursor();
            assert_eq!(Position::read(&cursor), Some(position()));
        }
        for text in ["", "17", "17/", "17/x", "17/-1/node"] {
            assert_eq!(Position::read(text), None, "{text}");
        }
    }
}

//! Records in Redis.

mod script;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, IntoConnectionInfo, RedisError, Script};
use bytes::Bytes;

use self::script::{Reply, micros};
use super::{SMALL, Store, StoreError, StoreFuture};
use crate::error::ConfigError;
use crate::idempotency::record::{Begun, Claim, Ended, RecordKey, Token};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long Redis may take for one answer. With `appendfsync always` it waits for its disk.
const RESPONSE: Duration = Duration::from_secs(2);
/// After this time without a sign of life of its peer, a connection is lost.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const DEAD: Duration = Duration::from_secs(10);

/// The longest prefix.
const LONGEST_PREFIX: usize = 100;

/// Records in Redis, or in Valkey: shared by all processes that use the same server.
///
/// Use it where several processes serve the same keys, and a Redis is there whose data is kept. Where an operation must not
/// happen twice even if a process dies between the effect and the record, nothing but a store that commits both together
/// will do, which is `PostgresStore`. For one process on one machine `FileStore` needs no server.
///
/// ```no_run
/// # async fn connected() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::idempotency::store::RedisStore;
///
/// let store = RedisStore::connect("redis://127.0.0.1:6379").await?.prefix("payments:")?;
/// # let _ = store;
/// # Ok(()) }
/// ```
///
/// Clones share the connection. Each method is one command, a script that Redis runs as one step: one round trip, and two
/// more when the server does not know the script yet. A script touches the record's own key only, so a cluster will do:
/// [`with`](Self::with) takes its connection.
///
/// Leases and times to live follow the clock of the Redis server, to the microsecond; they are rounded up, and cut to
/// fifty years. Keep the clocks of servers that take over from each other in step.
///
/// # What Redis has to promise
///
/// Redis 7.0 or later, or Valkey. A record is as safe as the server is told to keep its data:
///
/// | setting | value | else |
/// |---|---|---|
/// | `maxmemory-policy` | `noeviction` | **a record that is evicted is an operation that is executed again** |
/// | `appendonly` | `yes` | a restart forgets the records since the last snapshot, or all of them |
/// | `appendfsync` | `always` | a crash of the machine forgets those of the last second (`everysec`) |
/// | `min-replicas-to-write`, `min-replicas-max-lag` | 1 or more, with replicas | a primary that is cut off goes on taking records that a failover forgets |
///
/// Replication is **asynchronous**: a replica that is promoted may lack the last records, whatever is set. Each such record
/// is an operation that may be executed again. Where that must not be, commit effect and record
/// together: `PostgresStore`.
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | prefix | `buttress:` | the key of a record is this and 64 hex digits; records of several layers do not meet, because the layer's name is in the digits |
/// | connect | within 1 s, one attempt | a request waits for it; the next request tries again |
/// | response | within 2 s | a script takes some 30 µs, one with a large answer longer; `appendfsync always` waits for the disk |
///
/// Other times: [`with`](Self::with).
///
/// # Errors
///
/// [`Unavailable`](StoreError::Unavailable) if Redis cannot be reached, does not answer in time, is loading its data, refuses
/// the password or is a replica. A connection that was lost is made again, and the command is sent once more over it: a store
/// that comes back works without further ado. [`Full`](StoreError::Full) if `maxmemory` is reached: new keys, and answers of
/// more than 128 bytes, are refused; what is running goes on and is renewed, what is done is answered.
/// [`Unreadable`](StoreError::Unreadable) if the key holds something else, or a record of a newer version. It is never
/// overwritten: delete it by hand, if its operation may be executed (again).
///
/// # Cancel safety
///
/// What was sent is executed, whether or not the future is dropped. Nothing else is held.
#[derive(Clone)]
pub struct RedisStore<C = ConnectionManager> {
    connection: C,
    prefix: Arc<str>,
}

impl RedisStore {
    /// A store that uses the server at this address: `redis://[user:password@]host[:port][/database]`, or
    /// `unix:///path/of/socket`. `rediss://` needs one of the TLS features of the crate `redis`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the address cannot be read, or if there is no server within a second. For a service that
    /// has to start without it, give a `ConnectionManager` that is made by `new_lazy_with_config` to [`with`](Self::with).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::reach(url)
            .await
            .map(Self::with)
            .map_err(script::failed)
    }

    async fn reach(url: &str) -> Result<ConnectionManager, RedisError> {
        let address = url.into_connection_info()?.set_tcp_settings(tcp());
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE))
            .set_number_of_retries(0);
        ConnectionManager::new_with_config(Client::open(address)?, config).await
    }
}

fn tcp() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(DEAD);
    settings
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisStore<C> {
    /// A store that uses this connection, or these: a `ConnectionManager` with times of your own, the crate `redis`'s
    /// `ClusterConnection`. It has to know by itself when to give up waiting, and how to connect anew.
    pub fn with(connection: C) -> Self {
        Self {
            connection,
            prefix: "buttress:".into(),
        }
    }

    /// What the keys of all records start with. Processes that share records have the same prefix.
    ///
    /// # Errors
    ///
    /// It is not 1 to 100 visible ASCII characters, or has a brace: Redis Cluster would put all records on one node.
    pub fn prefix(mut self, prefix: impl AsRef<str>) -> Result<Self, ConfigError> {
        let prefix = prefix.as_ref();
        let fits = (1..=LONGEST_PREFIX).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}'));
        ConfigError::unless(
            fits,
            "prefix",
            prefix,
            "1 to 100 visible ASCII characters without braces",
        )
        .map_err(|error| error.of("store", "redis"))?;
        self.prefix = prefix.into();
        Ok(self)
    }

    fn name(&self, key: &RecordKey) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut name = String::with_capacity(self.prefix.len() + 64);
        name.push_str(&self.prefix);
        for byte in key.0 {
            name.push(char::from(DIGITS[usize::from(byte >> 4)]));
            name.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        name
    }

    async fn ask(
        &self,
        script: &Script,
        key: &RecordKey,
        arguments: &[&[u8]],
    ) -> Result<Reply, StoreError> {
        let mut asked = script.key(self.name(key));
        for argument in arguments {
            asked.arg(*argument);
        }
        let mut connection = self.connection.clone();
        let answer = match asked.invoke_async(&mut connection).await {
            // That the connection is gone shows only when it is used. Every script may be run again.
            Err(error) if error.is_connection_dropped() => {
                asked.invoke_async(&mut connection).await
            }
            answer => answer,
        };
        Reply::read(answer.map_err(script::failed)?)
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection may show a password.
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Store for RedisStore<C> {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let (lease, ttl) = (micros(claim.lease), micros(claim.ttl));
            let arguments: [&[u8]; 4] = [
                &claim.fingerprint.0,
                &claim.token.0,
                lease.as_bytes(),
                ttl.as_bytes(),
            ];
            self.ask(&script::BEGIN, key, &arguments).await?.begun()
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let (lease, ttl) = (micros(lease), micros(ttl));
            let arguments: [&[u8]; 3] = [&token.0, lease.as_bytes(), ttl.as_bytes()];
            let ended = self.ask(&script::RENEW, key, &arguments).await?.ended()?;
            Ok(ended == Ended::Taken)
        })
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(async move {
            let script = if answer.len() <= SMALL {
                &script::COMPLETE_SMALL
            } else {
                &script::COMPLETE
            };
            let ttl = micros(ttl);
            let arguments: [&[u8]; 3] = [&token.0, &answer, ttl.as_bytes()];
            self.ask(script, key, &arguments).await?.ended()
        })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(async move { self.ask(&script::ABANDON, key, &[&token.0]).await?.ended() })
    }
}

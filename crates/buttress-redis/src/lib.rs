// The first of two definitions of a link applies: this one points the README's link to the item.
#![doc = "[`RedisStore`]: crate::RedisStore"]
#![doc = include_str!("../README.md")]

mod connection;
mod connections;
mod eviction_policy;
mod lookup;
mod reconnect;
mod replicas;
mod script;
mod sentinel;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::ConnectionLike;
use bytes::Bytes;

use self::connection::Target;
use self::connections::Connections;
use self::replicas::Replicas;
use self::script::{Reply, Script, micros};
use buttress::ConfigError;
use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Begun, Claim, Ended, Entry, Listed, RecordKey, Resolve, Resolved, Store, StoreError, Token,
};

/// A response up to this size, such as the marker for "no response stored", is stored even if the memory of the server is full.
const SMALL: usize = 128;

/// The longest prefix.
const LONGEST_PREFIX: usize = 100;

/// Stores records in Redis or Valkey, shared by all processes that use the same servers.
///
/// Use it when several processes serve the same keys and you have a Redis whose data is persisted. If an operation must not
/// happen twice even when a process dies between the effect and the record, use `PostgresStore`, which commits both together.
/// For one process on one machine, `FileStore` needs no server.
///
/// ```no_run
/// # async fn connected() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress_redis::RedisStore;
///
/// let store = RedisStore::connect("redis://127.0.0.1:6379").await?.prefix("payments:")?;
/// # let _ = store;
/// # Ok(()) }
/// ```
///
/// | servers | constructor |
/// |---|---|
/// | one address, which may lead to another server after a failover | [`connect`](Self::connect), [`connect_lazy`](Self::connect_lazy) |
/// | Redis Sentinel | [`sentinel`](Self::sentinel) |
/// | Redis Cluster | [`cluster`](Self::cluster) |
/// | a connection of your own | [`with`](Self::with) |
///
/// Clones share the connection. Each method is one script, which Redis runs in one step: one round trip, and one more if the
/// server does not know the script yet. A script touches only the key of its record, so records spread over a cluster.
///
/// Leases and times to live follow the clock of the Redis server, to the microsecond. They are rounded up and cut to fifty years.
/// Synchronize the clocks of servers that take over from each other.
///
/// A record is only as safe as the data of the server. The crate page lists the [settings of Redis](crate#configuring-redis).
///
/// # Failover
///
/// A failover is followed without a restart. The connection is replaced when
///
/// - it is closed,
/// - the server reports that it cannot run the script now: `READONLY`, `MASTERDOWN`, `NOREPLICAS`, `LOADING`, `MISCONF`,
///   `CLUSTERDOWN`, `TRYAGAIN`, `MOVED` or `NOAUTH`,
/// - it received nothing for a second although a call was waiting. In a cluster: when a call got no response.
///
/// All calls share the new connection, which resolves the host name again, and commands that were rejected are sent once more over it.
/// A connection is used for at least 100 ms (in a cluster, for a second) before such an error replaces it, so the store
/// connects to a server that stays read-only at most ten times a second.
///
/// **Replication is asynchronous: a failover may lose the last writes.** A lost claim or a lost response is an operation that may be
/// executed again. [`replicas`](Self::replicas) waits until replicas have the claim. To rule out both, commit effect and record
/// together: `PostgresStore`.
///
/// # Look-up
///
/// [`list`](Store::list) scans all keys of the server, in a cluster one primary after another. A page fails if another server has taken
/// over since the scan began, or if the cluster has assigned slots or primaries anew: start the scan again. Records in a slot that is
/// being migrated at that time may be left out. A connection of your own must lead to a single server.
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | prefix | `buttress:` | the key of a record is the prefix and 64 hex digits; records of different layers have different digits |
/// | connect | within 1 s, one attempt | requests wait for it; the next request tries again |
/// | response | within 2 s | a script takes some 30 µs, more with a large response; `appendfsync always` waits for the disk |
/// | replicas | 0 | waiting takes two more round trips and rejects requests while replicas are down |
///
/// For other times, use [`with`](Self::with).
///
/// # Errors
///
/// [`Unavailable`](StoreError::Unavailable) if Redis cannot be reached, does not respond in time, is loading its data, refuses the
/// password or is a replica. [`Full`](StoreError::Full) if `maxmemory` is reached: new keys and responses of more than 128 bytes are
/// rejected, while running operations are still renewed and stored responses replayed. [`Unreadable`](StoreError::Unreadable) if the
/// key holds something else or a record of a newer version. It is never overwritten: delete the key if its operation may be executed
/// again.
///
/// # Cancel safety
///
/// A command that was sent is executed, whether or not the future is dropped. Nothing else is held.
#[derive(Clone)]
pub struct RedisStore {
    connections: Connections,
    prefix: Arc<str>,
    replicas: Option<Arc<Replicas>>,
}

impl RedisStore {
    /// A store that uses the server at this address: `redis://[user:password@]host[:port][/database]`, or
    /// `unix:///path/of/socket`. `rediss://` needs one of the TLS features of the crate `redis`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the address cannot be read, or if there is no server within a second. For a service that
    /// has to start without it: [`connect_lazy`](Self::connect_lazy).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connected(Target::address(url)).await
    }

    /// Like [`connect`](Self::connect), but connects when the first record is used.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the address cannot be read.
    pub fn connect_lazy(url: &str) -> Result<Self, StoreError> {
        Self::to(Target::address(url)).map_err(script::failed)
    }

    /// A store that uses the primary that Redis Sentinel names for this service. The sentinels are queried again for each
    /// new connection, one after another until one responds.
    ///
    /// `service` is the name that the sentinels know (`sentinel monitor <name>`), or an address with the name in place of the
    /// host, for a primary with a password, a database or TLS: `redis://user:password@name/1`.
    ///
    /// ```no_run
    /// # async fn connected() -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress_redis::RedisStore;
    ///
    /// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379", "redis://10.0.0.3:26379"];
    /// let store = RedisStore::sentinel(sentinels, "payments").await?;
    /// # let _ = store;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if an address cannot be read, no sentinel knows the service, or its primary is not reached.
    pub async fn sentinel<'a>(
        urls: impl IntoIterator<Item = &'a str>,
        service: &str,
    ) -> Result<Self, StoreError> {
        let urls: Vec<&str> = urls.into_iter().collect();
        Self::connected(Target::sentinel(&urls, service)).await
    }

    /// A store that uses a Redis Cluster: some of its nodes, from which the others are found. All have the user, the password
    /// and the TLS of the first address.
    ///
    /// Name several nodes: a new connection tries one after another.
    ///
    /// ```no_run
    /// # async fn connected() -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress_redis::RedisStore;
    ///
    /// let store = RedisStore::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]).await?;
    /// # let _ = store;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if an address cannot be read, or if no node is reached within three seconds.
    pub async fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Self, StoreError> {
        let urls: Vec<&str> = urls.into_iter().collect();
        Self::connected(Target::cluster(&urls)).await
    }

    /// A store that uses a connection of your own. The connection must time out and reconnect by itself, and the eviction policy
    /// of its servers is not checked.
    pub fn with<C: ConnectionLike + Clone + Send + Sync + 'static>(connection: C) -> Self {
        Self::new(Connections::Given(Box::new(connection)))
    }

    fn to(target: RedisResult<Target>) -> RedisResult<Self> {
        Ok(Self::new(Connections::to(target?)))
    }

    async fn connected(target: RedisResult<Target>) -> Result<Self, StoreError> {
        let store = Self::to(target).map_err(script::failed)?;
        store.connections.current().await.map_err(script::failed)?;
        Ok(store)
    }

    fn new(connections: Connections) -> Self {
        Self {
            connections,
            prefix: "buttress:".into(),
            replicas: None,
        }
    }

    /// How many replicas must have a claim before the handler is called (`WAIT`). Default 0: claims do not wait for replication.
    ///
    /// If fewer acknowledge it within half a second, the claim is given up and the request is rejected like any other while the
    /// store is unavailable. A claim takes two round trips to Redis and one to its replicas, over further connections. Up to 16
    /// claims wait at the same time.
    ///
    /// The claim survives a failover to one of these replicas, so a later retry of the request does not start a first run. The
    /// *response* of an operation may still be lost; its lease then ends, and the next request starts the second run or gets
    /// *outcome unknown*, as set by [`after_crash`](buttress::idempotency::IdempotencyConfig::after_crash). A failover to a
    /// replica that has not acknowledged loses both: with `n` of more than `n` replicas, Redis chooses the one that is furthest
    /// ahead, if it can reach it.
    ///
    /// # Errors
    ///
    /// The store has a connection of your own ([`with`](Self::with)): `WAIT` blocks its connection, and all calls that share it.
    pub fn replicas(mut self, count: u8) -> Result<Self, ConfigError> {
        let replicas = Replicas::new(count, &self.connections);
        if count > 0 && replicas.is_none() {
            return Err(invalid(
                "replicas",
                &count,
                "0 for a store created by `with`",
            ));
        }
        self.replicas = replicas.filter(|_| count > 0).map(Arc::new);
        Ok(self)
    }

    /// The prefix of the keys of all records. Processes that share records have the same prefix.
    ///
    /// # Errors
    ///
    /// The prefix is not 1 to 100 visible ASCII characters, or has a brace, with which Redis Cluster would put all records on one
    /// node.
    pub fn prefix(mut self, prefix: impl AsRef<str>) -> Result<Self, ConfigError> {
        let prefix = prefix.as_ref();
        let fits = (1..=LONGEST_PREFIX).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}'));
        if !fits {
            let allowed = "1 to 100 visible ASCII characters without braces";
            return Err(invalid("prefix", &prefix, allowed));
        }
        self.prefix = prefix.into();
        Ok(self)
    }

    fn name(&self, key: &RecordKey) -> String {
        format!("{}{}", self.prefix, key.to_hex())
    }

    async fn run(
        &self,
        script: &Script,
        key: &RecordKey,
        arguments: &[&[u8]],
    ) -> Result<Reply, StoreError> {
        let name = self.name(key);
        let command = script.by_hash(&name, arguments);
        let mut response = self.connections.command(&command).await;
        if response.as_ref().is_err_and(script::is_unknown) {
            let command = script.by_code(&name, arguments);
            response = self.connections.command(&command).await;
        }
        Reply::read(response.map_err(script::failed)?)
    }
}

fn invalid(field: &'static str, value: &dyn fmt::Debug, allowed: &'static str) -> ConfigError {
    let mut error = ConfigError::new(field, value, allowed);
    error.owner = Some("store `redis`".into());
    error
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection may show a password.
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Store for RedisStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            let (lease, ttl) = (micros(claim.lease), micros(claim.ttl));
            let arguments: [&[u8]; 4] = [
                &claim.fingerprint.0,
                &claim.token.0,
                lease.as_bytes(),
                ttl.as_bytes(),
            ];
            let begun = self.run(&script::BEGIN, key, &arguments).await?.begun()?;
            if let (Begun::Started { .. }, Some(replicas)) = (&begun, &self.replicas) {
                let acknowledged = replicas.acknowledge(&self.name(key), claim).await;
                if acknowledged.is_err() {
                    // If this fails too, the claim ends with its lease.
                    let _ = self.abandon(key, claim.token).await;
                }
                acknowledged?;
            }
            Ok(begun)
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
            let ended = self.run(&script::RENEW, key, &arguments).await?.ended()?;
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
            self.run(script, key, &arguments).await?.ended()
        })
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(async move { self.run(&script::ABANDON, key, &[&token.0]).await?.ended() })
    }

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(self.found(key, None))
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        Box::pin(self.page(after, limit))
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        Box::pin(self.resolved(key, resolve))
    }
}

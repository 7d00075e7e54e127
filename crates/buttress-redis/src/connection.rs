//! One connection to a server or cluster.

use std::time::Duration;

use super::sentinel::Sentinels;
use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long Redis may take to respond. With `appendfsync always` it waits for its disk.
const RESPONSE: Duration = Duration::from_secs(2);
/// A connection is lost after its peer has acknowledged nothing for this time.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const DEAD: Duration = Duration::from_secs(10);

/// A connection that many calls can use concurrently.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// One or several commands, sent together.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    /// In a cluster to the primary of this key.
    Pipeline(&'a str, &'a Pipeline),
}

impl Connection {
    pub(super) async fn send(&mut self, request: Request<'_>) -> RedisResult<Vec<Value>> {
        let response = match (self, request) {
            (Self::Single(connection), Request::Command(command)) => {
                connection.req_packed_command(command).await
            }
            (Self::Cluster(connection), Request::Command(command)) => {
                connection.req_packed_command(command).await
            }
            (Self::Single(connection), Request::Pipeline(_, pipeline)) => {
                let count = pipeline.len();
                return connection.req_packed_commands(pipeline, 0, count).await;
            }
            (Self::Cluster(connection), Request::Pipeline(key, pipeline)) => {
                let route = Route::with_key(key, SlotAddr::Master);
                let route = SingleNodeRoutingInfo::SpecificNode(route);
                let (pipeline, count) = (pipeline.clone(), pipeline.len());
                return connection.route_pipeline(pipeline, 0, count, route).await;
            }
        };
        Ok(vec![response?.extract_error()?])
    }
}

/// The server to connect to. Names are resolved again for each connection.
pub(super) enum Target {
    Address(Client),
    Sentinel(Sentinels),
    Cluster(ClusterClient),
}

impl Target {
    pub(super) fn address(url: &str) -> RedisResult<Self> {
        Ok(Self::Address(client(url.into_connection_info()?)?))
    }

    pub(super) fn sentinel(urls: &[&str], service: &str) -> RedisResult<Self> {
        Sentinels::new(urls, service).map(Self::Sentinel)
    }

    pub(super) fn cluster(urls: &[&str]) -> RedisResult<Self> {
        let client = ClusterClient::builder(urls.iter().copied())
            .connection_timeout(CONNECT)
            .response_timeout(RESPONSE)
            .retries(5)
            .min_retry_wait(10)
            .max_retry_wait(200)
            .tcp_settings(tcp())
            .build()?;
        Ok(Self::Cluster(client))
    }

    /// Connects. Returns the connection and the name of its server.
    pub(super) async fn connect(&self) -> RedisResult<(Connection, String)> {
        match self {
            Self::Address(client) => {
                let name = client.get_connection_info().addr().to_string();
                let connection = connected(client).await?;
                Ok((Connection::Single(connection), name))
            }
            Self::Sentinel(sentinels) => sentinels.connect().await,
            Self::Cluster(client) => {
                // Unresponsive nodes are tried one after another.
                let connecting = client.get_async_connection();
                let connection = match tokio::time::timeout(3 * CONNECT, connecting).await {
                    Ok(connection) => connection?,
                    Err(_) => {
                        return Err(too_slow(
                            "no node of the Redis cluster responded within 3 s",
                        ));
                    }
                };
                Ok((Connection::Cluster(connection), "cluster".to_owned()))
            }
        }
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

pub(super) async fn connected(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(RESPONSE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

pub(super) fn client(address: ConnectionInfo) -> RedisResult<Client> {
    Client::open(address.set_tcp_settings(tcp()))
}

fn tcp() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(DEAD);
    settings
}

pub(super) fn too_slow(why: &'static str) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, why).into()
}

/// A connection supplied by the user, which reconnects by itself.
pub(super) trait Given: Send + Sync {
    fn copy(&self) -> Box<dyn Given>;

    fn command<'a>(&'a self, command: &'a Cmd) -> RedisFuture<'a, Value>;

    fn pipeline<'a>(&'a self, pipeline: &'a Pipeline) -> RedisFuture<'a, Vec<Value>>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Given for C {
    fn copy(&self) -> Box<dyn Given> {
        Box::new(self.clone())
    }

    fn command<'a>(&'a self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let mut connection = self.clone();
        Box::pin(async move { connection.req_packed_command(command).await })
    }

    fn pipeline<'a>(&'a self, pipeline: &'a Pipeline) -> RedisFuture<'a, Vec<Value>> {
        let (mut connection, count) = (self.clone(), pipeline.len());
        Box::pin(async move { connection.req_packed_commands(pipeline, 0, count).await })
    }
}

//! The primary that Redis Sentinel names.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    Value, cmd,
};

use super::connection::{Connection, client, connected};

/// The sentinels of a primary, and how to log in to it.
pub(super) struct Sentinels {
    clients: Vec<Client>,
    service: String,
    /// Everything about the primary but its address.
    primary: ConnectionInfo,
    /// The sentinel to query first: the last one that responded.
    first: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(urls: &[&str], service: &str) -> RedisResult<Self> {
        let clients = urls
            .iter()
            .map(|url| client(url.into_connection_info()?))
            .collect::<RedisResult<Vec<_>>>()?;
        let (service, primary) = if service.contains("://") {
            let primary = service.into_connection_info()?;
            let name = match primary.addr() {
                ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
                _ => String::new(),
            };
            (name, primary)
        } else {
            (
                service.to_owned(),
                "redis://unresolved".into_connection_info()?,
            )
        };
        if service.is_empty() {
            return Err(invalid("the Sentinel service has no name"));
        }
        Ok(Self {
            clients,
            service,
            primary,
            first: AtomicUsize::new(0),
        })
    }

    pub(super) async fn connect(&self) -> RedisResult<(Connection, String)> {
        let mut error = invalid("no sentinel address was given");
        let count = self.clients.len();
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..count {
            let at = (first + turn) % count;
            match self.through(&self.clients[at]).await {
                Ok(connected) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(connected);
                }
                Err(failed) => {
                    error = failed;
                    // If this attempt is dropped, the next one starts with another sentinel.
                    self.first.store((at + 1) % count, Ordering::Relaxed);
                }
            }
        }
        Err(error)
    }

    async fn through(&self, sentinel: &Client) -> RedisResult<(Connection, String)> {
        let mut sentinel = connected(sentinel).await?;
        let address: Option<(String, u16)> = cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.service)
            .query_async(&mut sentinel)
            .await?;
        let Some((name, port)) = address else {
            let service = self.service.clone();
            let text = "the sentinel does not know this service";
            return Err((ErrorKind::MasterNameNotFoundBySentinel, text, service).into());
        };
        let mut address = self.primary.addr().clone();
        match &mut address {
            ConnectionAddr::Tcp(host, at) | ConnectionAddr::TcpTls { host, port: at, .. } => {
                (*host, *at) = (name, port);
            }
            _ => address = ConnectionAddr::Tcp(name, port),
        }
        let name = address.to_string();
        let primary = client(self.primary.clone().set_addr(address))?;
        let mut connection = connected(&primary).await?;
        // During a failover a sentinel may still name the old primary.
        let role: Vec<Value> = cmd("ROLE").query_async(&mut connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => {
                Ok((Connection::Single(connection), name))
            }
            _ => Err(not_primary(name)),
        }
    }
}

fn invalid(why: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, why).into()
}

fn not_primary(name: String) -> RedisError {
    let text = "the server named by the sentinel is not the primary";
    (ErrorKind::Io, text, name).into()
}

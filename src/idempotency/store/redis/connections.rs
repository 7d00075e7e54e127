//! What a store sends its commands over.

use std::sync::Arc;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use super::connection::{Connection, Given, Target};
use super::eviction_policy::Policies;
use super::reconnect::Reconnecting;

pub(super) enum Connections {
    Own(Arc<Reconnecting>),
    Given(Box<dyn Given>),
}

impl Clone for Connections {
    fn clone(&self) -> Self {
        match self {
            Self::Own(own) => Self::Own(Arc::clone(own)),
            Self::Given(given) => Self::Given((**given).copy()),
        }
    }
}

impl Connections {
    pub(super) fn to(target: Arc<Target>, policies: Arc<Policies>) -> Self {
        Self::Own(Arc::new(Reconnecting::new(target, policies)))
    }

    /// Makes sure that there is a connection.
    pub(super) async fn connect(&self) -> RedisResult<()> {
        match self {
            Self::Own(own) => own.connected().await.map(|_| ()),
            Self::Given(_) => Ok(()),
        }
    }

    /// The connection in use; none of a user's own.
    pub(super) async fn current(&self) -> RedisResult<Option<Connection>> {
        match self {
            Self::Own(own) => own
                .connected()
                .await
                .map(|(_, connection)| Some(connection)),
            Self::Given(_) => Ok(None),
        }
    }

    /// Sends these commands at once, in a cluster to the primary of this key.
    pub(super) async fn pipeline(&self, key: &str, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipeline.len();
        match self {
            Self::Own(own) => own.pipeline(Some(key), pipeline, 0, count).await,
            Self::Given(given) => given.pipeline(pipeline, 0, count).await,
        }
    }

    /// A second connection to the same place; `None` for one of a user's own.
    pub(super) fn another(&self) -> Option<Self> {
        match self {
            Self::Own(own) => Some(Self::Own(Arc::new(own.another()))),
            Self::Given(_) => None,
        }
    }
}

impl ConnectionLike for Connections {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            match self {
                Self::Own(own) => own.command(command).await,
                Self::Given(given) => match given.command(command).await {
                    // That the connection is gone shows only when it is used. Every script may be run again.
                    Err(error) if error.is_connection_dropped() => given.command(command).await,
                    answer => answer,
                },
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            match self {
                Self::Own(own) => own.pipeline(None, pipeline, offset, count).await,
                Self::Given(given) => given.pipeline(pipeline, offset, count).await,
            }
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

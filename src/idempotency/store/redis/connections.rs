//! What a store sends its commands over.

use std::sync::Arc;

use ::redis::{Cmd, Pipeline, RedisResult, Value};

use super::connection::{Connection, Given, Request, Target};
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
    pub(super) fn to(target: Target) -> Self {
        let policies = Arc::new(Policies::new());
        Self::Own(Arc::new(Reconnecting::new(Arc::new(target), policies)))
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

    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Own(own) => {
                let mut answers = own.send(Request::Command(command)).await?;
                return Ok(answers.pop().unwrap_or(Value::Nil));
            }
            Self::Given(given) => match given.command(command).await {
                // That the connection is gone shows only when it is used. Every script may be run again.
                Err(error) if error.is_connection_dropped() => given.command(command).await,
                answer => answer,
            },
        };
        answer.and_then(Value::extract_error)
    }

    /// Sends these commands at once, in a cluster to the primary of this key.
    pub(super) async fn pipeline(&self, key: &str, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::Own(own) => own.send(Request::Pipeline(key, pipeline)).await,
            Self::Given(given) => given.pipeline(pipeline).await,
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

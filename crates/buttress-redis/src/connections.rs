//! The connections that a store sends its commands over.

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
        let policies = Arc::new(Policies::default());
        Self::Own(Arc::new(Reconnecting::new(Arc::new(target), policies)))
    }

    /// The current connection, or `None` if the user supplied it.
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
        let response = match self {
            Self::Own(own) => {
                let mut responses = own.send(Request::Command(command)).await?;
                return Ok(responses.pop().unwrap_or(Value::Nil));
            }
            Self::Given(given) => match given.command(command).await {
                // A lost connection is only noticed when it is used. Every script can be run again.
                Err(error) if error.is_connection_dropped() => given.command(command).await,
                response => response,
            },
        };
        response.and_then(Value::extract_error)
    }

    /// Sends these commands together, in a cluster to the primary of this key.
    pub(super) async fn pipeline(&self, key: &str, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::Own(own) => own.send(Request::Pipeline(key, pipeline)).await,
            Self::Given(given) => given.pipeline(pipeline).await,
        }
    }

    /// A second connection to the same servers, or `None` if the user supplied the connection.
    pub(super) fn another(&self) -> Option<Self> {
        match self {
            Self::Own(own) => Some(Self::Own(Arc::new(own.another()))),
            Self::Given(_) => None,
        }
    }
}

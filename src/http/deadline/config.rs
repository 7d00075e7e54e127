//! What is read of a request's headers.

use std::time::Duration;

use super::{DeadlineHeader, Trust};
use crate::error::ConfigError;

/// Which headers say how much time a call has, and who is believed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ExtractDeadlineConfig {
    /// The headers that are read; of several the earliest time counts. Default: `grpc-timeout` and
    /// `x-envoy-expected-rq-timeout-ms`.
    pub headers: Vec<DeadlineHeader>,
    /// Whose headers are believed. Default: nobody's.
    pub trust: Trust,
    /// The most that a header can give: what asks for more gets this. Default `Duration::MAX`; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub most: Duration,
}

impl Default for ExtractDeadlineConfig {
    fn default() -> Self {
        Self {
            headers: vec![
                DeadlineHeader::GrpcTimeout,
                DeadlineHeader::EnvoyExpectedTimeout,
            ],
            trust: Trust::Nobody,
            most: Duration::MAX,
        }
    }
}

impl ExtractDeadlineConfig {
    /// The two well-known headers, and nobody is believed.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        into headers: Vec<DeadlineHeader>,
        mut trust: Trust,
        mut most: Duration,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(!self.most.is_zero(), "most", &self.most, "more than 0")
    }
}

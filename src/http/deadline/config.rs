//! The settings of `ExtractDeadlineLayer`.

use std::time::Duration;

use super::{DeadlineHeader, Trust};
use crate::error::ConfigError;

/// Which headers carry the remaining time of a call, and which callers are trusted.
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
    /// Which callers' deadline headers to honor. Default: no caller's.
    pub trust: Trust,
    /// The longest time that a header can set; longer values are reduced to it. Default `Duration::MAX`; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub max: Duration,
}

impl Default for ExtractDeadlineConfig {
    fn default() -> Self {
        Self {
            headers: vec![
                DeadlineHeader::GrpcTimeout,
                DeadlineHeader::EnvoyExpectedTimeout,
            ],
            trust: Trust::Nobody,
            max: Duration::MAX,
        }
    }
}

impl ExtractDeadlineConfig {
    /// The two well-known headers, from no caller.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        into headers: Vec<DeadlineHeader>,
        mut trust: Trust,
        mut max: Duration,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(!self.max.is_zero(), "max", &self.max, "more than 0")
    }
}

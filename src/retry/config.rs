//! The settings of a retry layer.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::ConfigError;

/// How often and when a failed call is retried.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct RetryConfig {
    /// The maximum number of attempts of a call, the first one included. At least 1. With 1, only calls that certainly were not
    /// executed are retried. Default 3.
    pub max_attempts: u32,
    /// The waits between attempts. Default: see [`backoff`](crate::backoff).
    pub backoff: Backoff,
    /// The base of the backoff after an overloaded outcome without a wait. The cap of the backoff applies to it, too. Default
    /// 1 s; any value is valid.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub overloaded_base: Duration,
    /// How much a wait that the server requests may exceed the wait of the backoff. If it exceeds that, the call is not retried
    /// and the caller gets the response at once. Default 5 s; any value is valid.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_retry_after: Duration,
    /// The longest wait after a rejection by an inner layer of this crate. An open circuit is never waited for. `None`, the
    /// default: a rejection ends the call at once.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off_duration"))]
    pub retry_rejections: Option<Duration>,
    /// Whether to retry a call for which an inner retry layer has used up its attempts or its budget. The attempts of both layers
    /// multiply. Default: no.
    pub retry_spent_below: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::default(),
            overloaded_base: Duration::from_secs(1),
            max_retry_after: Duration::from_secs(5),
            retry_rejections: None,
            retry_spent_below: false,
        }
    }
}

impl RetryConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        max_attempts: u32,
        backoff: Backoff,
        overloaded_base: Duration,
        max_retry_after: Duration,
        retry_rejections: Option<Duration>,
        retry_spent_below: bool,
    }

    /// Whether the settings can work.
    ///
    /// # Errors
    ///
    /// If `max_attempts` is 0, or the backoff cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.max_attempts >= 1,
            "max_attempts",
            &self.max_attempts,
            "at least 1, which is the first attempt",
        )?;
        self.backoff
            .validate()
            .map_err(|error| error.within("backoff"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_setting_is_reported_with_its_field() {
        let ok = RetryConfig::new();
        assert_eq!(ok.validate(), Ok(()));
        let none = ok.max_attempts(0).validate().map_err(|error| error.field);
        assert_eq!(none, Err("max_attempts".into()));
        let backoff = ok.backoff(Backoff::default().cap(Duration::ZERO));
        let field = backoff.validate().map_err(|error| error.field);
        assert_eq!(field, Err("backoff.base".into()));
        let max = RetryConfig::new()
            .max_attempts(u32::MAX)
            .overloaded_base(Duration::MAX)
            .max_retry_after(Duration::MAX)
            .retry_rejections(Some(Duration::MAX));
        assert_eq!(max.validate(), Ok(()));
    }
}

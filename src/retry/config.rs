//! Plain settings of a retry layer.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::ConfigError;

/// How often and when a failed call is repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct RetryConfig {
    /// The most attempts a call makes, the first one included. From 1, which repeats only what certainly was not executed. Default
    /// 3.
    pub max_attempts: u32,
    /// The waits between attempts. Default: see [`backoff`](crate::backoff).
    pub backoff: Backoff,
    /// The base of the backoff after an answer that says the service is limiting but names no wait. The backoff's cap holds for
    /// it too. Default 1 s; any.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub overloaded_base: Duration,
    /// How much longer than the backoff's a wait that the server asks for may be. If it is longer still, the call is not
    /// repeated: the caller gets that answer at once. Default 5 s; any.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_retry_after: Duration,
    /// Whether a refusal by a layer of ours further in is waited for, and how long at most. Never for an open circuit. `None`, the
    /// default: a refusal ends the retry at once.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off_duration"))]
    pub retry_rejections: Option<Duration>,
    /// Whether to repeat what a retry layer further in has already repeated as often as it may. The attempts of both multiply.
    /// Default: no.
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
    fn nonsense_is_refused_with_the_name_of_its_field() {
        let ok = RetryConfig::new();
        assert_eq!(ok.validate(), Ok(()));
        let none = ok.max_attempts(0).validate().map_err(|error| error.field);
        assert_eq!(none, Err("max_attempts".into()));
        let backoff = ok.backoff(Backoff::default().cap(Duration::ZERO));
        let field = backoff.validate().map_err(|error| error.field);
        assert_eq!(field, Err("backoff.base".into()));
        let most = RetryConfig::new()
            .max_attempts(u32::MAX)
            .overloaded_base(Duration::MAX)
            .max_retry_after(Duration::MAX)
            .retry_rejections(Some(Duration::MAX));
        assert_eq!(most.validate(), Ok(()));
    }
}

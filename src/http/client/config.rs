//! The settings of the standard client stack, and how they must fit together.

use std::time::Duration;

use crate::breaker::{BreakerConfig, Window};
use crate::budget::BudgetConfig;
use crate::error::ConfigError;
use crate::gate::KeyedConfig;
use crate::http::Keys;
use crate::retry::RetryConfig;

/// The settings of the standard [`client`](super::client) stack.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The limit of one attempt. Default 3 s; more than 0, at most `total`, and at most half of the breaker's `window` if that
    /// is one over time: for more than 5 s, set a longer window. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub attempt: Duration,
    /// The limit of the whole call, its body included. Default 10 s; more than 0, and at most the breaker's `probe_lease`: for
    /// more than 10 s, set a longer lease. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub total: Duration,
    /// The longest time between two frames of a body. Default 10 s; more than 0. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub body_idle: Duration,
    /// How calls are repeated; `None`: never.
    pub retry: Option<RetryConfig>,
    /// What pays for retries, for each authority; `None`: nothing but the attempts bounds them, so that a failing service
    /// gets `max_attempts` times its load.
    pub budget: Option<BudgetConfig>,
    /// When an authority is not called any more; `None`: it always is.
    pub breaker: Option<BreakerConfig>,
    /// How many authorities are remembered, and for how long.
    pub authorities: KeyedConfig,
    /// Which servers honour idempotency keys. Default: none is known to. It takes more than a key to repeat a POST: the
    /// server must be known to run it once.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub keys: Keys,
    /// Whether a 429 counts for the breaker. Default: no. It speaks of this caller's quota, not of the service.
    pub count_429: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(3),
            total: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            retry: Some(RetryConfig::default()),
            budget: Some(BudgetConfig::default()),
            breaker: Some(BreakerConfig::default()),
            authorities: KeyedConfig::default(),
            keys: Keys::Unknown,
            count_429: false,
        }
    }
}

impl ClientConfig {
    /// The limit of one attempt.
    #[must_use]
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    /// The limit of the whole call.
    #[must_use]
    pub fn total(mut self, total: Duration) -> Self {
        self.total = total;
        self
    }

    /// The longest time between two frames of a body.
    #[must_use]
    pub fn body_idle(mut self, body_idle: Duration) -> Self {
        self.body_idle = body_idle;
        self
    }

    /// How calls are repeated; `None`: never.
    #[must_use]
    pub fn retry(mut self, retry: impl Into<Option<RetryConfig>>) -> Self {
        self.retry = retry.into();
        self
    }

    /// What pays for retries; `None`: nothing bounds them.
    #[must_use]
    pub fn budget(mut self, budget: impl Into<Option<BudgetConfig>>) -> Self {
        self.budget = budget.into();
        self
    }

    /// When an authority is not called any more; `None`: it always is.
    #[must_use]
    pub fn breaker(mut self, breaker: impl Into<Option<BreakerConfig>>) -> Self {
        self.breaker = breaker.into();
        self
    }

    /// How many authorities are remembered, and for how long.
    #[must_use]
    pub fn authorities(mut self, authorities: KeyedConfig) -> Self {
        self.authorities = authorities;
        self
    }

    /// Which servers honour idempotency keys.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Whether a 429 counts for the breaker.
    #[must_use]
    pub fn count_429(mut self, count_429: bool) -> Self {
        self.count_429 = count_429;
        self
    }

    /// Checks every setting, alone and together with the others.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, limit) in [
            ("attempt", &self.attempt),
            ("total", &self.total),
            ("body_idle", &self.body_idle),
        ] {
            ConfigError::unless(!limit.is_zero(), field, limit, "more than 0")?;
        }
        let most = format!("at most `total`, which is {:?}", self.total);
        ConfigError::unless(self.attempt <= self.total, "attempt", &self.attempt, most)?;
        self.authorities
            .validate()
            .map_err(|error| error.within("authorities"))?;
        if let Some(retry) = &self.retry {
            retry.validate().map_err(|error| error.within("retry"))?;
        }
        if let Some(budget) = &self.budget {
            budget.validate().map_err(|error| error.within("budget"))?;
        }
        if let Some(breaker) = &self.breaker {
            self.validate_breaker(breaker)
                .map_err(|error| error.within("breaker"))?;
        }
        Ok(())
    }

    fn validate_breaker(&self, breaker: &BreakerConfig) -> Result<(), ConfigError> {
        breaker.validate()?;
        if self.total != Duration::MAX {
            let least = format!("at least the client's `total`, which is {:?}", self.total);
            let lease = breaker.probe_lease;
            ConfigError::unless(lease >= self.total, "probe_lease", &lease, least)?;
        }
        match breaker.window {
            Window::Time(window) if self.attempt != Duration::MAX => {
                let least = self.attempt.saturating_mul(2);
                let allowed = format!("at least twice the client's `attempt`: {least:?}");
                ConfigError::unless(window >= least, "window", &window, allowed)
            }
            _ => Ok(()),
        }
    }
}

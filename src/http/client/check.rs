//! Validation of the settings of the standard client stack.

use std::time::Duration;

use super::config::ClientConfig;
use crate::breaker::{BreakerConfig, Window};
use crate::error::ConfigError;
use crate::http::IdempotencyKeys;
use crate::idempotency::header_name;
use crate::timeout::ShownLimit;

impl ClientConfig {
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
        header_name("key_header", &self.key_header)?;
        ConfigError::unless(
            !self.proxy || self.idempotency_keys == IdempotencyKeys::Unknown,
            "idempotency_keys",
            &self.idempotency_keys,
            "`IdempotencyKeys::Unknown`, because `proxy` is set: a proxy never retries a POST or PATCH",
        )?;
        let max = format!("at most `total`, which is {:?}", self.total);
        let attempt = ShownLimit(self.attempt);
        ConfigError::unless(self.attempt <= self.total, "attempt", &attempt, max)?;
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
            let idle = breaker.probe_idle_timeout;
            ConfigError::unless(idle >= self.total, "probe_idle_timeout", &idle, least)?;
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

//! Changes the settings of a stack that is in use.

use std::fmt;
use std::sync::Arc;

use super::config::ClientConfig;
use crate::error::ConfigError;
use crate::sync::Mutex;

/// The settings in force, and how often they have changed.
#[derive(Clone)]
pub(super) struct LiveConfig(Arc<Mutex<(ClientConfig, u64)>>);

impl LiveConfig {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self(Arc::new(Mutex::new((config, 0))))
    }

    pub(super) fn now(&self) -> (ClientConfig, u64) {
        self.0.lock().clone()
    }

    pub(super) fn change(&self, config: ClientConfig) -> Result<(), ConfigError> {
        let mut now = self.0.lock();
        now.0.may_become(&config)?;
        *now = (config, now.1 + 1);
        Ok(())
    }
}

impl ClientConfig {
    /// Whether these settings may change to `other`.
    fn may_become(&self, other: &Self) -> Result<(), ConfigError> {
        let part = |field, old, new| stays(field, &Part(old), &Part(new));
        part("retry", self.retry.is_some(), other.retry.is_some())?;
        part("budget", self.budget.is_some(), other.budget.is_some())?;
        part("breaker", self.breaker.is_some(), other.breaker.is_some())?;
        stays("key_header", &self.key_header, &other.key_header)?;
        stays("unquoted_keys", &self.unquoted_keys, &other.unquoted_keys)?;
        stays("proxy", &self.proxy, &other.proxy)?;
        stays("redirects", &self.redirects, &other.redirects)?;
        let headers = (&self.deadline_header, &other.deadline_header);
        stays("deadline_header", headers.0, headers.1)?;
        stays("observe", &self.observe, &other.observe)?;
        stays("spans", &self.spans, &other.spans)?;
        stays("count_429", &self.count_429, &other.count_429)
    }
}

fn stays<T: PartialEq + fmt::Debug>(
    field: &'static str,
    old: &T,
    new: &T,
) -> Result<(), ConfigError> {
    let allowed = format!("{old:?}, because it cannot change while the client is in use");
    ConfigError::unless(old == new, field, new, allowed)
}

/// Shows whether a part is enabled.
#[derive(PartialEq)]
struct Part(bool);

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

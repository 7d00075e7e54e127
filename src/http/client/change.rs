//! Changes the settings of a stack that is in use.

use std::fmt;
use std::sync::Arc;

use super::config::ClientConfig;
use super::layer::ClientLayer;
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

    fn change(&self, config: ClientConfig) -> Result<(), ConfigError> {
        let mut now = self.0.lock();
        now.0.may_become(&config)?;
        *now = (config, now.1 + 1);
        Ok(())
    }
}

impl<R, C, M> ClientLayer<R, C, M> {
    /// Changes the settings at run time, for all clones of this layer and all clients made by them.
    ///
    /// State is preserved: an open circuit stays open for the rest of its time, and a budget retains its balance. The next call
    /// uses the new settings. The limits of a call in progress do not change; its retries use the new settings from its next
    /// failure on, and its body the idle limit that was set when the body began.
    ///
    /// `attempt`, `total`, `body_idle`, `authorities`, `idempotency_keys` and the settings of `retry`, `budget` and `breaker` may change.
    /// Other settings cannot, and no part can be added or removed: create another client for that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress::http::{ClientConfig, client};
    ///
    /// let search = client("search", ClientConfig::default())?;
    /// // … clients are made and used …
    /// search.reconfigure(search.config().attempt(Duration::from_secs(1)))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A setting that cannot work, alone or with the others, or that cannot change. Nothing was changed then.
    pub fn reconfigure(&self, config: ClientConfig) -> Result<(), ConfigError> {
        config
            .validate()
            .and_then(|()| self.parts.config.change(config))
            .map_err(|error| error.of("client", &self.parts.name))?;
        // Not under the lock, because observers are called. If another change came meanwhile, apply its settings too.
        loop {
            let (config, changes) = self.parts.config.now();
            self.apply(&config)?;
            if self.parts.config.now().1 == changes {
                return Ok(());
            }
        }
    }

    /// Every setting was validated before, so none is rejected here.
    fn apply(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        let parts = &self.parts;
        parts.deadline.set_total(config.total);
        parts.timeout.set_limit(config.attempt);
        parts.body.set_idle(config.body_idle);
        parts
            .replay
            .set_idempotency_keys(config.idempotency_keys.clone());
        if let Some(retry) = config.retry {
            self.retry.reconfigure(retry)?;
        }
        if let (Some(budgets), Some(budget)) = (&parts.budgets, config.budget) {
            budgets.bound(config.authorities)?;
            budgets.reconfigure(budget)?;
        }
        if let (Some(breakers), Some(breaker)) = (&parts.breakers, config.breaker) {
            breakers.bound(config.authorities)?;
            breakers.reconfigure(breaker)?;
        }
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

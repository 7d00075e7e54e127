//! Other settings for a stack that is in use.

use std::sync::{Arc, PoisonError, RwLock};

use super::{ServerConfig, ServerLayer};
use crate::error::ConfigError;

/// The settings in force, for a layer, its clones and all services that they have made.
#[derive(Debug)]
pub(super) struct Settings(RwLock<Arc<ServerConfig>>);

impl Settings {
    pub(super) fn new(config: ServerConfig) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(config))))
    }

    pub(super) fn now(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ServerLayer {
    /// Takes new settings over while running, for all clones of this layer and all services they have made.
    ///
    /// The next call goes by the new settings. A call under way keeps its deadline and its timeout, and its body the idle limit
    /// that was in force when it began.
    ///
    /// `bypass`, `deadline`, `timeout` and `body_idle` may change. `observe`, `not_executed_header` and `should_retry_header` may
    /// not: make another layer for that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress::http::{ServerConfig, server};
    ///
    /// let orders = server("orders", ServerConfig::default())?;
    /// // … a router has it, and serves …
    /// orders.reconfigure(orders.config().timeout(Duration::from_secs(5)))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A setting that cannot work, or that cannot change. Nothing was changed then.
    pub fn reconfigure(&self, config: ServerConfig) -> Result<(), ConfigError> {
        let of = |error: ConfigError| error.of("server", &self.name);
        config.validate().map_err(of)?;
        let mut now = self
            .settings
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        now.may_become(&config).map_err(of)?;
        self.timeout.set_limit(config.timeout);
        self.body.set_idle(config.body_idle);
        *now = Arc::new(config);
        Ok(())
    }
}

impl ServerConfig {
    /// Whether a server that goes by these settings may go by `other` ones.
    fn may_become(&self, other: &Self) -> Result<(), ConfigError> {
        for (field, old, new) in [
            ("observe", self.observe, other.observe),
            (
                "not_executed_header",
                self.not_executed_header,
                other.not_executed_header,
            ),
            (
                "should_retry_header",
                self.should_retry_header,
                other.should_retry_header,
            ),
        ] {
            let allowed = format!("{old} as before: it cannot change while the server is in use");
            ConfigError::unless(old == new, field, &new, allowed)?;
        }
        Ok(())
    }
}

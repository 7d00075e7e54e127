//! The settings of a keyed policy.

use std::time::Duration;

use crate::error::ConfigError;

/// How many keys are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct KeyedConfig {
    /// The most keys kept, from 1 to 16 777 216. Default 10 000.
    pub max_keys: usize,
    /// A key not used for this long is forgotten when the next new key comes. Default 10 min; more than zero.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub idle: Duration,
}

impl Default for KeyedConfig {
    fn default() -> Self {
        Self {
            max_keys: 10_000,
            idle: Duration::from_secs(600),
        }
    }
}

impl KeyedConfig {
    /// The most keys kept.
    #[must_use]
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// How long an unused key is kept.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            (1..=1 << 24).contains(&self.max_keys),
            "max_keys",
            &self.max_keys,
            "from 1 to 16777216",
        )?;
        ConfigError::unless(!self.idle.is_zero(), "idle", &self.idle, "more than 0")
    }
}

//! What a [`Keyed`](super::Keyed) policy keeps, and for how long.

use std::time::Duration;

use crate::clock::Now;
use crate::error::ConfigError;
use crate::event::Source;

/// What a policy would lose if its key were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionCost {
    /// Nothing: a new one would behave the same.
    Nothing,
    /// Something that may be lost when room is short.
    Memory,
    /// Calls in flight, an open circuit: it must stay.
    Essentials,
}

/// A policy that a [`Keyed`](super::Keyed) can keep and forget: a handle whose clones share their state.
pub trait Evict: Clone {
    /// What forgetting it would lose. Called under a lock of the map: it must be quick and must not call back.
    fn eviction_cost(&self, now: &Now) -> EvictionCost;

    /// Whom its events come from.
    fn source(&self) -> &Source;

    /// Called on a policy that was created while the map was full, before its first use. A policy that grants something from
    /// the start, such as the tokens of a budget, must start with nothing. Otherwise each eviction would create grants: the
    /// evicted key comes back with new ones. Called under a lock of the map: it must not call back.
    fn start_empty(&self) {}

    /// A handle to the same state that only one core uses, and that is kept as long as the key: it may hold a place of its
    /// own to count in.
    #[doc(hidden)]
    #[must_use]
    fn local(&self, _: Internal) -> Self {
        self.clone()
    }
}

/// Seals the methods of public traits that only this crate implements and calls: no other crate can name it.
#[derive(Clone, Copy, Debug)]
pub struct Internal;

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
    /// A key not used for this long is evicted when new keys come: each new key looks at 16 others. The time of the last use
    /// is not exact: a use counts until the key is looked at next, so a key may stay for two times this long. Default
    /// 10 min; more than zero.
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
    setters! {
        max_keys: usize,
        idle: Duration,
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

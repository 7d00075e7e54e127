//! Eviction of keys from a [`Keyed`](super::Keyed) policy.

use std::time::Duration;

use crate::clock::Now;
use crate::error::ConfigError;
use crate::event::Source;

/// What an eviction would lose. Cheaper entries are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionCost {
    /// Nothing: a new policy would behave the same.
    Nothing,
    /// Counts and history, which may be lost when the map is full.
    Memory,
    /// Calls in flight or an open circuit: never evicted.
    Essentials,
}

/// A policy that a [`Keyed`](super::Keyed) can store and evict: a handle whose clones share their state.
pub trait Evict: Clone {
    /// What evicting this policy would lose. Called under a lock of the map: it must be quick and must not call back.
    fn eviction_cost(&self, now: &Now) -> EvictionCost;

    /// The source of its events.
    fn source(&self) -> &Source;

    /// Called on a policy that was created while the map was full, before its first use. A policy that grants something from
    /// the start, such as the tokens of a budget, must start with nothing. Otherwise each eviction would create tokens: the
    /// evicted key returns with new ones. Called under a lock of the map: it must not call back.
    fn start_empty(&self) {}

    /// A handle to the same state that only one core uses and that lives as long as the key. It may have counters of its own.
    #[doc(hidden)]
    #[must_use]
    fn local(&self, _: Internal) -> Self {
        self.clone()
    }
}

/// Seals methods of public traits: no other crate can name it.
#[derive(Clone, Copy, Debug)]
pub struct Internal;

/// Limits the number of keys and their idle time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct KeyedConfig {
    /// The maximum number of keys, from 1 to 16 777 216. Default: 10 000. With fewer, busy keys share the overflow policy; with
    /// more, a flood of keys takes more memory.
    pub max_keys: usize,
    /// A key that was not used for this long is evicted when new keys arrive: each new key checks 16 others. The time of the
    /// last use is not exact, so a key may stay for up to twice this long. More than zero. Default: 10 min.
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

//! The settings of a retry budget.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::ConfigError;

/// Settings of a [`RetryBudget`](super::RetryBudget).
///
/// The default is a token bucket: five successful calls pay for one retry. [`throttle`](Self::throttle) and
/// [`concurrent`](Self::concurrent) are the rules of gRPC and of Envoy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct BudgetConfig {
    /// What a retry must be paid with. Default: [`Rule::Bucket`].
    pub rule: Rule,
    /// The tokens that a successful call adds: with 0.2, five calls pay for a retry. From 0.001 to 10. Default: 0.2.
    pub ratio: f64,
    /// The maximum number of tokens. From 1. Default: 10.
    pub cap: u32,
    /// The tokens at the start. At most `cap`. Default 2. [`Rule::Throttle`] always starts with all.
    pub initial: u32,
    /// The maximum number of tokens after a time longer than `ttl` without a withdrawal. At most `cap`. Default: 2.
    pub reserve: u32,
    /// How long a healthy time may fund retries: see `reserve`. Above zero. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ttl: Duration,
    /// Retries a second that are granted whatever the bucket holds; up to `ttl`'s worth of them at once. From 0.001
    /// to 1 000 000. Default: `None`, none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub floor: Option<f64>,
    /// The tokens a retry costs. From 1 to `cap`. Default 1.
    pub cost: u32,
}

/// What a retry must be paid with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Rule {
    /// Tokens, which successful calls add to a bucket.
    #[default]
    Bucket,
    /// gRPC's throttle ([A6]): a failed attempt costs a token, retries are free, but there are none unless more than
    /// half of `cap` is there. `initial`, `reserve`, `ttl`, `floor` and `cost` are ignored.
    ///
    /// [A6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md#throttling-retry-attempts-and-hedged-rpcs
    Throttle,
    /// Nothing, but at most `max(floor, ratio × calls under way)` retries may be under way at once, as in Envoy's retry
    /// budget. A retry is under way from the moment it is scheduled until it ends. All other settings are ignored.
    InFlight {
        /// Retries for each call under way. From 0.001 to 10.
        ratio: f64,
        /// Retries that are allowed however few calls are under way. From 1.
        floor: u32,
    },
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            rule: Rule::Bucket,
            ratio: 0.2,
            cap: 10,
            initial: 2,
            reserve: 2,
            ttl: Duration::from_secs(10),
            floor: None,
            cost: 1,
        }
    }
}

impl BudgetConfig {
    /// A token bucket: successful calls pay for retries.
    pub fn new() -> Self {
        Self::default()
    }

    /// gRPC's throttle: [`Rule::Throttle`] with these `maxTokens` and this `tokenRatio`.
    pub fn throttle(max_tokens: u32, token_ratio: f64) -> Self {
        Self::default()
            .rule(Rule::Throttle)
            .cap(max_tokens)
            .initial(max_tokens)
            .reserve(max_tokens)
            .ratio(token_ratio)
    }

    /// Envoy's retry budget: no tokens, but at most `max(floor, ratio × calls under way)` retries under way at once.
    pub fn concurrent(ratio: f64, floor: u32) -> Self {
        Self::default().rule(Rule::InFlight { ratio, floor })
    }

    setters! {
        rule: Rule,
        ratio: f64,
        cap: u32,
        initial: u32,
        reserve: u32,
        ttl: Duration,
        floor: Option<f64>,
        cost: u32,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first field that is outside its documented range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            RATIOS.contains(&self.ratio),
            "ratio",
            &self.ratio,
            "from 0.001 to 10",
        )?;
        ConfigError::unless(self.cap >= 1, "cap", &self.cap, "at least 1")?;
        match self.rule {
            Rule::Bucket => self.validate_bucket(),
            Rule::Throttle => Ok(()),
            Rule::InFlight { ratio, floor } => {
                ConfigError::unless(
                    RATIOS.contains(&ratio),
                    "rule.in_flight.ratio",
                    &ratio,
                    "from 0.001 to 10",
                )?;
                ConfigError::unless(floor >= 1, "rule.in_flight.floor", &floor, "at least 1")
            }
        }
    }

    fn validate_bucket(&self) -> Result<(), ConfigError> {
        let below_cap = |field, value: u32, from: u32| {
            ConfigError::unless(
                (from..=self.cap).contains(&value),
                field,
                &value,
                format!("from {from} to {}, the value of `cap`", self.cap),
            )
        };
        below_cap("initial", self.initial, 0)?;
        below_cap("reserve", self.reserve, 0)?;
        below_cap("cost", self.cost, 1)?;
        ConfigError::unless(!self.ttl.is_zero(), "ttl", &self.ttl, "more than 0")?;
        let floor = self.floor.unwrap_or(1.0);
        ConfigError::unless(
            (0.001..=1e6).contains(&floor),
            "floor",
            &floor,
            "from 0.001 to 1000000, or `None`",
        )
    }
}

/// Ratios that micro-tokens hold to within 0.1 %.
const RATIOS: RangeInclusive<f64> = 0.001..=10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invalid_value_is_named() {
        let ok = BudgetConfig::default();
        let mut rows = vec![
            (ok.cap(0), "cap"),
            (ok.initial(11), "initial"),
            (ok.reserve(u32::MAX), "reserve"),
            (ok.ttl(Duration::ZERO), "ttl"),
            (ok.cost(0), "cost"),
            (ok.cost(11), "cost"),
            (BudgetConfig::concurrent(0.2, 0), "rule.in_flight.floor"),
        ];
        for bad in [0.0, -1.0, 0.0001, 10.1, f64::NAN, f64::INFINITY] {
            rows.push((ok.ratio(bad), "ratio"));
            rows.push((BudgetConfig::concurrent(bad, 3), "rule.in_flight.ratio"));
            rows.push((BudgetConfig::throttle(10, bad), "ratio"));
        }
        for bad in [0.0, -1.0, 1e7, f64::NAN, f64::INFINITY] {
            rows.push((ok.floor(Some(bad)), "floor"));
        }
        for (config, field) in rows {
            assert_eq!(
                config.validate().map_err(|error| error.field),
                Err(field.into()),
                "{config:?}"
            );
        }
    }

    #[test]
    fn the_ends_of_every_range_are_valid() {
        let most = BudgetConfig::new()
            .ratio(10.0)
            .cap(u32::MAX)
            .initial(u32::MAX)
            .reserve(u32::MAX)
            .ttl(Duration::MAX)
            .floor(Some(1e6))
            .cost(u32::MAX);
        let least = BudgetConfig::new()
            .ratio(0.001)
            .cap(1)
            .initial(0)
            .reserve(0)
            .ttl(Duration::from_nanos(1))
            .floor(Some(0.001));
        for config in [
            most,
            least,
            BudgetConfig::default(),
            BudgetConfig::throttle(10, 0.1),
            BudgetConfig::concurrent(0.001, 1),
            BudgetConfig::concurrent(10.0, u32::MAX),
        ] {
            assert_eq!(config.validate(), Ok(()), "{config:?}");
        }
    }
}

//! The wait before a retry: a growing schedule, a cap, and jitter.
//!
//! Without jitter, clients that failed together retry together. *Full* jitter causes the fewest calls to a contended service. A wait
//! is a pure function of the number of the retry, the previous wait and a random number.
//!
//! ```
//! use std::time::Duration;
//! use buttress::backoff::{Backoff, Jitter};
//!
//! let backoff = Backoff::exponential(Duration::from_millis(100), 2.0)
//!     .cap(Duration::from_secs(1))
//!     .jitter(Jitter::None);
//! let waits = [1, 2, 3, 4, 5, u32::MAX].map(|retry| backoff.delay(retry, None, 0.5).as_millis());
//! assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | growth | exponential, × 2 | most short failures have passed before the second retry, and long ones get few retries |
//! | `base` | 50 ms | longer than a brief network failure, shorter than a person notices |
//! | `cap` | 2 s | no wait exceeds the default open time of a breaker |
//! | `jitter` | full | the fewest calls until all clients have succeeded |
//!
//! The forms of jitter are those of Marc Brooker, [*Exponential Backoff And Jitter*][aws] (AWS Architecture Blog, 2015).
//!
//! [aws]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

use std::time::Duration;

use crate::chance::Draw;
use crate::clock::nanos;
use crate::error::ConfigError;
use crate::growth::Growth;

/// A schedule of waits, made by [`constant`](Self::constant), [`linear`](Self::linear) or [`exponential`](Self::exponential).
/// Default: exponential, twice as long each time.
///
/// In a file, `growth` is `"constant"`, `{ linear = { step = "1s" } }` or `{ exponential = { factor = 2.0 } }`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct Backoff {
    growth: Growth,
    /// The wait before the first retry, jitter aside. From 0 to `cap`. Default 50 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub base: Duration,
    /// The longest wait. Jitter is applied below the cap, so capped clients do not synchronize. Default 2 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub cap: Duration,
    /// How the waits are spread. Default: [`Jitter::Full`].
    pub jitter: Jitter,
}

/// The randomization of waits, which keeps clients that failed together from retrying together.
///
/// `window` is the wait of the schedule, capped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Jitter {
    /// No jitter: exactly `window`. For a single client and for tests.
    None,
    /// Uniform over `[0, window)`.
    #[default]
    Full,
    /// Uniform over `[window/2, window]`.
    Equal,
    /// Uniform over `[base, 3 · previous wait]`, then capped. Grows independently of `growth`. Once the waits are long, two of three
    /// are exactly `cap`, as in the article cited above.
    Decorrelated,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            growth: Growth::Exponential { factor: 2.0 },
            base: Duration::from_millis(50),
            cap: Duration::from_secs(2),
            jitter: Jitter::Full,
        }
    }
}

impl Backoff {
    /// A constant wait with full jitter. The cap is raised to `base` if it is lower.
    pub fn constant(base: Duration) -> Self {
        let default = Self::default();
        Self {
            growth: Growth::Constant,
            base,
            cap: default.cap.max(base),
            ..default
        }
    }

    /// Waits that grow by `step`, starting from `base`.
    pub fn linear(base: Duration, step: Duration) -> Self {
        Self {
            growth: Growth::Linear { step },
            base,
            ..Self::default()
        }
    }

    /// Waits that are `factor` times as long as the one before, starting from `base`.
    pub fn exponential(base: Duration, factor: f64) -> Self {
        Self {
            growth: Growth::Exponential { factor },
            base,
            ..Self::default()
        }
    }

    setters! {
        base: Duration,
        cap: Duration,
        jitter: Jitter,
    }

    /// Whether the settings can work.
    ///
    /// # Errors
    ///
    /// If `base` is above `cap`, or the factor is below 1, infinite or not a number.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Growth::Exponential { factor } = self.growth {
            ConfigError::unless(
                factor.is_finite() && factor >= 1.0,
                "factor",
                &factor,
                "a finite number of at least 1",
            )?;
        }
        ConfigError::unless(
            self.base <= self.cap,
            "base",
            &self.base,
            format!("at most `cap`, which is {:?}", self.cap),
        )
    }

    /// The wait before retry number `retry`, counted from 1. `previous` is the wait before the previous retry.
    ///
    /// The result is at most [`cap`](Self::cap) for any input. Only decorrelated jitter uses `previous`. Zero counts as the first
    /// retry. `draw` is a random number from 0 to 1 that places the wait inside its jitter.
    pub fn delay(&self, retry: u32, previous: Option<Duration>, draw: f64) -> Duration {
        self.drawn(retry, previous, Draw::part(draw))
    }

    /// [`delay`](Self::delay) with a draw of this crate.
    pub(crate) fn drawn(&self, retry: u32, previous: Option<Duration>, draw: Draw) -> Duration {
        let window = nanos(self.window(retry));
        Duration::from_nanos(match self.jitter {
            Jitter::None => window,
            Jitter::Full => draw.below(window),
            Jitter::Equal => {
                let half = window / 2;
                half + draw.below((window - half).saturating_add(1))
            }
            Jitter::Decorrelated => {
                let (base, cap) = (nanos(self.base), nanos(self.cap));
                let previous = previous.map_or(base, nanos).max(base);
                let reach = previous.saturating_mul(3) - base;
                base.saturating_add(draw.below(reach.saturating_add(1)))
                    .min(cap)
            }
        })
    }

    /// The wait of the schedule, capped, before any jitter.
    fn window(&self, retry: u32) -> Duration {
        let steps = retry.saturating_sub(1);
        let grown = match self.growth {
            _ if steps == 0 => self.base,
            Growth::Constant => self.base,
            Growth::Linear { step } => self.base.saturating_add(step.saturating_mul(steps)),
            Growth::Exponential { factor } => grown(self.base, factor, steps),
        };
        grown.min(self.cap)
    }
}

/// `base · factor^steps`, saturating, never below `base`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a float cast saturates, and a nanosecond in 2^53 does not matter"
)]
fn grown(base: Duration, factor: f64, steps: u32) -> Duration {
    let nanos = nanos(base) as f64 * factor.powf(f64::from(steps));
    Duration::from_nanos(nanos as u64).max(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const S: fn(u64) -> Duration = Duration::from_secs;

    fn exact(backoff: Backoff, retries: &[u32]) -> Vec<Duration> {
        let backoff = backoff.jitter(Jitter::None);
        retries
            .iter()
            .map(|&n| backoff.drawn(n, None, Draw::new(0)))
            .collect()
    }

    #[test]
    fn the_first_wait_is_the_base_to_the_nanosecond() {
        // A float cannot hold it: computed with the factor, it would be longer.
        let base = Duration::from_nanos((1 << 53) + 3);
        for backoff in [Backoff::exponential(base, 2.0), Backoff::constant(base)] {
            assert_eq!(exact(backoff.cap(base), &[0, 1]), [base; 2]);
            assert_eq!(exact(backoff.cap(Duration::MAX), &[0, 1]), [base; 2]);
        }
    }

    #[test]
    fn an_invalid_setting_is_reported_with_its_field() {
        for factor in [f64::NAN, f64::INFINITY, 0.0, -2.0, 0.999] {
            let error = Backoff::exponential(MS(1), factor).validate().unwrap_err();
            assert_eq!(error.field, "factor");
        }
        let error = Backoff::exponential(S(10), 2.0).validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`base` is 10s, but it must be at most `cap`, which is 2s"
        );
        assert_eq!(Backoff::default().validate(), Ok(()));
        assert_eq!(Backoff::constant(S(10)).validate(), Ok(()));
        assert_eq!(Backoff::constant(Duration::MAX).validate(), Ok(()));
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            4 => (0_u64..10_000_000_000).prop_map(Duration::from_nanos),
            1 => any::<u64>().prop_map(Duration::from_secs),
            1 => Just(Duration::MAX),
            1 => Just(Duration::ZERO),
        ]
    }

    fn any_growth() -> impl Strategy<Value = Growth> {
        prop_oneof![
            Just(Growth::Constant),
            any_duration().prop_map(|step| Growth::Linear { step }),
            prop_oneof![1.0..4.0_f64, Just(f64::MAX), Just(1.0)]
                .prop_map(|factor| Growth::Exponential { factor }),
        ]
    }

    fn any_jitter() -> impl Strategy<Value = Jitter> {
        prop_oneof![
            Just(Jitter::None),
            Just(Jitter::Full),
            Just(Jitter::Equal),
            Just(Jitter::Decorrelated),
        ]
    }

    /// The schedule, one retry at a time.
    fn naive_window(backoff: &Backoff, retry: u32) -> f64 {
        let mut wait = backoff.base.as_secs_f64();
        for _ in 1..retry {
            wait = match backoff.growth {
                Growth::Constant => wait,
                Growth::Linear { step } => wait + step.as_secs_f64(),
                Growth::Exponential { factor } => wait * factor,
            };
        }
        wait.min(backoff.cap.as_secs_f64())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn every_delay_lies_inside_its_bounds(
            growth in any_growth(),
            jitter in any_jitter(),
            base in any_duration(),
            cap in any_duration(),
            retry in prop_oneof![0_u32..70, any::<u32>(), Just(u32::MAX)],
            previous in proptest::option::of(any_duration()),
            draw in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)].prop_map(Draw::new),
        ) {
            let backoff = Backoff { growth, base, cap, jitter };
            let delay = backoff.drawn(retry, previous, draw);
            prop_assert!(delay <= cap);
            let window = backoff.window(retry).min(Duration::from_nanos(u64::MAX));
            prop_assert!(window <= backoff.window(retry.saturating_add(1)));
            let nanos = |d: Duration| Duration::from_nanos(nanos(d));
            match jitter {
                Jitter::None => prop_assert_eq!(delay, window),
                Jitter::Full => prop_assert!(delay < window || window.is_zero()),
                Jitter::Equal => prop_assert!(window / 2 <= delay && delay <= window),
                Jitter::Decorrelated => {
                    let previous = nanos(previous.unwrap_or(base).max(base));
                    prop_assert!(nanos(base.min(cap)) <= delay && delay <= previous.saturating_mul(3));
                }
            }
        }

        #[test]
        fn the_schedule_is_that_of_a_loop(
            growth in any_growth(),
            base in 0_u64..10_000_000_000,
            cap in 1_u64..1_000_000_000_000,
            retry in 1_u32..40,
        ) {
            let backoff = Backoff {
                growth,
                base: Duration::from_nanos(base.min(cap)),
                cap: Duration::from_nanos(cap),
                jitter: Jitter::None,
            };
            let naive = naive_window(&backoff, retry);
            let ours = backoff.drawn(retry, None, Draw::new(0)).as_secs_f64();
            prop_assert!((ours - naive).abs() <= naive * 1e-9 + 2e-9, "{ours} {naive}");
        }
    }
}

//! How waits grow.

use std::time::Duration;

/// How waits grow from one retry to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub(crate) enum Growth {
    /// No growth: every wait is `base`.
    Constant,
    /// By the same step each time: `base + (n − 1) · step`.
    Linear {
        /// The difference between a wait and the one before it.
        #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
        step: Duration,
    },
    /// By the same factor each time: `base · factor^(n − 1)`.
    Exponential {
        /// The ratio of a wait to the one before it. At least 1.
        factor: f64,
    },
}

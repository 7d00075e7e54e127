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
pub enum Growth {
    /// They do not: always `base`.
    Constant,
    /// By the same step each time: `base + (n − 1) · step`.
    Linear {
        /// What each wait is longer than the one before it.
        #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
        step: Duration,
    },
    /// By the same factor each time: `base · factor^(n − 1)`.
    Exponential {
        /// How many times the wait before it each wait is. At least 1.
        factor: f64,
    },
}

//! The settings of the standard client stack.

use std::borrow::Cow;
use std::time::Duration;

use crate::breaker::BreakerConfig;
use crate::budget::BudgetConfig;
use crate::gate::KeyedConfig;
use crate::http::IdempotencyKeys;
use crate::http::Redirects;
use crate::http::deadline::DeadlineHeader;
use crate::retry::RetryConfig;

/// The settings of the standard [`client`](fn@crate::http::client) stack.
///
/// In a file, what is `None` here is `"off"`: `breaker = "off"` in TOML leaves the breaker out. A setting that is not named has its
/// default; an unknown name is an error.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[expect(clippy::struct_excessive_bools, reason = "they are settings")]
#[non_exhaustive]
pub struct ClientConfig {
    /// The limit of one attempt. Default 3 s; more than 0, at most `total`, and at most half of the breaker's `window` if that
    /// is one over time: for more than 5 s, set a longer window. `Duration::MAX`, or `"none"` in a file, is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub attempt: Duration,
    /// The limit of the whole call, its body included. Default 10 s; more than 0, and at most the breaker's `probe_idle_timeout`: for
    /// more than 10 s, set a longer `probe_idle_timeout`. `Duration::MAX`, or `"none"` in a file, is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub total: Duration,
    /// The longest time between two frames of a body. Default 10 s; more than 0. `Duration::MAX`, or `"none"` in a file, is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub body_idle: Duration,
    /// How calls are retried; `None`: never.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub retry: Option<RetryConfig>,
    /// The retry budget of each authority; `None`: only `max_attempts` limits retries, and a failing service gets up to
    /// `max_attempts` times its load.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub budget: Option<BudgetConfig>,
    /// The circuit breaker of each authority; `None`: it is always called.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub breaker: Option<BreakerConfig>,
    /// How many authorities have their own breaker and budget, and when they are evicted.
    pub authorities: KeyedConfig,
    /// Which servers honor idempotency keys. Default: unknown. A POST with a generated key is retried only if its server is
    /// known to honor keys.
    pub idempotency_keys: IdempotencyKeys,
    /// The header that carries the key. Default `idempotency-key`; any header name.
    pub key_header: Cow<'static, str>,
    /// Whether the key is sent without quotes, for services that treat the quotes as part of the key. Default: no.
    pub unquoted_keys: bool,
    /// Proxy mode: never generates idempotency keys and never retries non-idempotent methods (RFC 9110 §9.2.2). Default: no.
    pub proxy: bool,
    /// Which redirects the client inside follows by itself. Default: the client's default, which is to follow them for reqwest
    /// and none for others. Where redirects may be followed unreported, no error proves that a POST was not executed, and it
    /// is sent once.
    pub redirects: Redirects,
    /// The header that sends the remaining time to the server on each attempt. Default: none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub deadline_header: Option<DeadlineHeader>,
    /// Whether each call and each attempt is reported when it ends, as `name.call` and `name.attempt`. Default: yes.
    pub observe: bool,
    /// Whether each attempt is a span, with the feature `tracing`: see `AttemptSpanLayer`. Default: yes.
    pub spans: bool,
    /// Whether a 429 counts for the breaker. Default: no, because it concerns this caller's quota, not the service's health.
    pub count_429: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(3),
            total: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            retry: Some(RetryConfig::default()),
            budget: Some(BudgetConfig::default()),
            breaker: Some(BreakerConfig::default()),
            authorities: KeyedConfig::default(),
            idempotency_keys: IdempotencyKeys::Unknown,
            key_header: Cow::Borrowed("idempotency-key"),
            unquoted_keys: false,
            proxy: false,
            redirects: Redirects::ClientDefault,
            deadline_header: None,
            observe: true,
            spans: true,
            count_429: false,
        }
    }
}

impl ClientConfig {
    setters! {
        mut attempt: Duration,
        mut total: Duration,
        mut body_idle: Duration,
        into retry: Option<RetryConfig>,
        into budget: Option<BudgetConfig>,
        into breaker: Option<BreakerConfig>,
        mut authorities: KeyedConfig,
        mut idempotency_keys: IdempotencyKeys,
        into key_header: Cow<'static, str>,
        mut unquoted_keys: bool,
        mut proxy: bool,
        mut redirects: Redirects,
        into deadline_header: Option<DeadlineHeader>,
        mut observe: bool,
        mut spans: bool,
        mut count_429: bool,
    }
}

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
/// In a file, what is `None` here is `"off"`: `breaker = "off"` in TOML leaves the breaker out. What is not named has its default;
/// an unknown name is an error.
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
    /// more than 10 s, set a longer lease. `Duration::MAX`, or `"none"` in a file, is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub total: Duration,
    /// The longest time between two frames of a body. Default 10 s; more than 0. `Duration::MAX`, or `"none"` in a file, is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub body_idle: Duration,
    /// How calls are repeated; `None`: never.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub retry: Option<RetryConfig>,
    /// What pays for retries, for each authority; `None`: nothing but the attempts bounds them, so that a failing service
    /// gets `max_attempts` times its load.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub budget: Option<BudgetConfig>,
    /// When an authority is not called any more; `None`: it always is.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub breaker: Option<BreakerConfig>,
    /// How many authorities are remembered, and for how long.
    pub authorities: KeyedConfig,
    /// Which servers honor idempotency keys. Default: none is known to. It takes more than a key to repeat a POST: the
    /// server must be known to run it once.
    pub idempotency_keys: IdempotencyKeys,
    /// The header that carries the key. Default `idempotency-key`; any header name.
    pub key_header: Cow<'static, str>,
    /// Whether the key is sent bare, for services that take the quotes of the draft's form for a part of it. Default: no.
    pub unquoted_keys: bool,
    /// Whether it forwards for others. Then no key is minted, and a request whose method is not idempotent is sent once,
    /// whatever happens: a proxy does not know what it forwards. Default: no.
    pub proxy: bool,
    /// Which redirects the client inside follows by itself. Default: as the client does by default, which is to follow them for
    /// reqwest's requests and none for others. Where redirects may be followed unseen, no error proves that a POST was not
    /// executed, and it is sent once.
    pub redirects: Redirects,
    /// The header that tells the server on each attempt how much time is left. Default: none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub deadline_header: Option<DeadlineHeader>,
    /// Whether each call and each attempt is reported when it ends, as `name.call` and `name.attempt`. Default: yes.
    pub observe: bool,
    /// Whether each attempt is a span, with the feature `tracing`: see `AttemptSpanLayer`. Default: yes.
    pub spans: bool,
    /// Whether a 429 counts for the breaker. Default: no. It speaks of this caller's quota, not of the service.
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

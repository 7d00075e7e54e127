//! The settings of the server layer.

use std::time::Duration;

use ::http::Method;

use super::storage::{HeaderPolicy, StoragePolicy};
use crate::error::ConfigError;
use crate::idempotency::key::{LONGEST as LONGEST_KEY, header_name};

/// The settings of an [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
pub struct IdempotencyConfig {
    /// The header that carries the key. Default `idempotency-key`; a header name.
    pub header: String,
    /// Whether a guarded request without a key is refused. If not, it is served without protection. Default: yes.
    pub required: bool,
    /// Whether a key without quotes is accepted too: some visible ASCII, as many clients send it. Default: no.
    pub accept_unquoted: bool,
    /// The methods that are guarded; all others pass untouched. Default `POST`, `PATCH`; method names, in capitals.
    pub methods: Vec<String>,
    /// The fewest characters of a key. Default 16; from 1 to 255, which is the most.
    pub min_key_len: usize,
    /// How long an answer is kept, counted from when it was given. Default 24 h; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ttl: Duration,
    /// How long a key is held by a run that is not heard of any more, before the operation may be run again. Renewed every
    /// third of it while the handler runs. Default 90 s; at least three times `store_timeout`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub lease: Duration,
    /// The longest that the handler may run, whoever waits for it: it is the [`Deadline`](crate::Deadline) of what it
    /// calls. Past it the handler is dropped, and the outcome is unknown for good. Default 10 min; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_run: Duration,
    /// How long a request waits for the answer of another one with its key, before it is told that the operation is under
    /// way. Default 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub wait: Duration,
    /// The longest that the store may take for one answer. Default 1 s; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub store_timeout: Duration,
    /// The largest body of a guarded request, in bytes. Default 1 MiB; it is held in memory.
    pub max_request_body: usize,
    /// The largest body of an answer that is kept, in bytes; a larger one is passed on, and only that the operation is done
    /// is kept. Default 1 MiB.
    pub max_response_body: usize,
    /// Which answers are kept. Default [`StoragePolicy::Definitive`].
    pub storage: StoragePolicy,
    /// Which of an answer's headers are kept. Default [`HeaderPolicy::All`].
    pub headers: HeaderPolicy,
    /// Whether a request is served without protection when the store cannot be used. Default: no, it is refused. Its handler then
    /// has no [`Operation`](super::Operation): it must take an `Option` of it.
    pub fail_open: bool,
    /// What is done when a run's lease is over without a word from it. Default [`AfterCrash::RunAgain`].
    pub after_crash: AfterCrash,
    /// How many operations may be in progress in this process at once, counted from the head of the request to the end of the
    /// handler. Further requests receive 503 with `Retry-After` before their body is read. Default 1 000; at least 1. Each may
    /// hold a request body and a response body in memory.
    pub max_running: usize,
    /// How many of these one tenant may have. Default: no limit of its own; at least 1.
    pub max_running_per_tenant: Option<usize>,
    /// How many requests may [`wait`](Self::wait) for the result of another one at once. Further requests receive 409 at once.
    /// Default 1 000.
    pub max_waiting: usize,
    /// Whether all handlers take their [`Operation`](super::Operation) before they act, as with the extractor for axum. Then a response
    /// that comes before that proves that nothing happened, and the key is released: the response of an extractor that rejected the
    /// request, of a load shedder, or of a time limit in front of a queue. Default: no, since a handler that acts without its
    /// operation would act again.
    pub handlers_take_operation: bool,
    /// Whether stored responses have an `Idempotency-Expires` header: the time at which the key is forgotten, as an HTTP date.
    /// Default: no.
    pub expires_header: bool,
}

/// What is done with an operation whose run was cut off: its process died, or could not reach the store for a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum AfterCrash {
    /// The next request runs it again, as run 2: at least once. The handler sees it by
    /// [`Operation::run`](super::Operation::run), and may look first whether the effect is there.
    #[default]
    RunAgain,
    /// It is never run again, and its outcome is unknown: at most once.
    Refuse,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self {
            header: "idempotency-key".into(),
            required: true,
            accept_unquoted: false,
            methods: ["POST", "PATCH"].map(Into::into).into(),
            min_key_len: 16,
            ttl: Duration::from_secs(24 * 3600),
            lease: Duration::from_secs(90),
            max_run: Duration::from_secs(600),
            wait: Duration::ZERO,
            store_timeout: Duration::from_secs(1),
            max_request_body: 1 << 20,
            max_response_body: 1 << 20,
            storage: StoragePolicy::default(),
            headers: HeaderPolicy::default(),
            fail_open: false,
            after_crash: AfterCrash::default(),
            max_running: 1000,
            max_running_per_tenant: None,
            max_waiting: 1000,
            handlers_take_operation: false,
            expires_header: false,
        }
    }
}

impl IdempotencyConfig {
    /// The header that carries the key.
    #[must_use]
    pub fn header(mut self, header: impl Into<String>) -> Self {
        self.header = header.into();
        self
    }

    setters! {
        mut required: bool,
        mut accept_unquoted: bool,
    }

    /// The methods that are guarded.
    #[must_use]
    pub fn methods<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.methods = methods.into_iter().map(Into::into).collect();
        self
    }

    setters! {
        mut min_key_len: usize,
        mut ttl: Duration,
        mut lease: Duration,
        mut max_run: Duration,
        mut wait: Duration,
        mut store_timeout: Duration,
        mut max_request_body: usize,
        mut max_response_body: usize,
        mut storage: StoragePolicy,
        mut headers: HeaderPolicy,
        mut fail_open: bool,
        mut after_crash: AfterCrash,
        mut max_running: usize,
        mut max_running_per_tenant: Option<usize>,
        mut max_waiting: usize,
        mut handlers_take_operation: bool,
        mut expires_header: bool,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        header_name("header", &self.header)?;
        for method in &self.methods {
            ConfigError::unless(
                // What is no method that anybody sends would silently guard nothing.
                Method::from_bytes(method.as_bytes()).is_ok() && *method == method.to_uppercase(),
                "methods",
                method,
                "method names, in capitals",
            )?;
        }
        ConfigError::unless(
            !self.methods.is_empty(),
            "methods",
            &self.methods,
            "one method or more",
        )?;
        ConfigError::unless(
            (1..=LONGEST_KEY).contains(&self.min_key_len),
            "min_key_len",
            &self.min_key_len,
            "from 1 to 255",
        )?;
        for (field, time) in [
            ("ttl", self.ttl),
            ("max_run", self.max_run),
            ("store_timeout", self.store_timeout),
        ] {
            ConfigError::unless(!time.is_zero(), field, &time, "more than 0")?;
        }
        ConfigError::unless(
            self.lease >= self.store_timeout.saturating_mul(3),
            "lease",
            &self.lease,
            format!(
                "at least three times `store_timeout`, which is {:?}: else one slow answer of the store ends it",
                self.store_timeout
            ),
        )?;
        ConfigError::unless(
            self.max_running > 0,
            "max_running",
            &self.max_running,
            "at least 1",
        )?;
        ConfigError::unless(
            self.max_running_per_tenant != Some(0),
            "max_running_per_tenant",
            &0,
            "at least 1, or none for no limit",
        )?;
        if let HeaderPolicy::Only(names) = &self.headers {
            for name in names {
                header_name("headers", name)?;
            }
        }
        Ok(())
    }
}

//! The settings of the server layer.

use std::time::Duration;

use ::http::Method;

use crate::error::ConfigError;
use crate::idempotency::key::{MAX_LEN as MAX_KEY_LEN, header_name};
use crate::idempotency::server::response::storage::{HeaderPolicy, StoragePolicy};

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
    /// The header with the key. Default `idempotency-key`; a header name.
    pub header: String,
    /// Whether a guarded request without a key is rejected. If not, it is served without protection. Default: yes.
    pub required: bool,
    /// Whether keys without quotes are accepted too, as many clients send them. Default: no.
    pub accept_unquoted: bool,
    /// The methods that are guarded. Requests with other methods pass through unchanged. Default `POST`, `PATCH`; method names, in capitals.
    pub methods: Vec<String>,
    /// The minimum length of a key. Default 16; from 1 to 255. The maximum length is 255.
    pub min_key_len: usize,
    /// How long a response is stored, from the end of its operation. Default 24 h; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ttl: Duration,
    /// How long a key stays held after its process has died, before the operation may run again. Renewed every third of this
    /// time while the handler runs. Default 90 s; at least three times `store_timeout`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub lease: Duration,
    /// The maximum time of the handler, whether or not a caller waits. It is also the [`Deadline`](crate::Deadline) of the calls
    /// that the handler makes. After it, the handler is dropped and its outcome is stored as unknown. Default 10 min; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_run: Duration,
    /// How long a request waits for the result of another one with its key, before it gets 409. Default 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub wait: Duration,
    /// The time limit of one call to the store. Default 1 s; more than 0.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub store_timeout: Duration,
    /// The maximum body of a guarded request, in bytes. It is held in memory. Default 1 MiB.
    pub max_request_body: usize,
    /// The maximum body of a stored response, in bytes. A larger one is passed through, and the record says only that the
    /// operation is done. Default 1 MiB.
    pub max_response_body: usize,
    /// Which responses are stored. Default [`StoragePolicy::Definitive`].
    pub storage: StoragePolicy,
    /// Which headers of a response are stored. Default [`HeaderPolicy::All`].
    pub headers: HeaderPolicy,
    /// Whether a request is served without protection when the store fails. Its handler then has no
    /// [`Operation`](super::Operation), and must take `Option<Operation>`. Default: no, the request is rejected.
    pub fail_open: bool,
    /// What happens after the lease of a run has ended without a result. Default [`AfterCrash::RunAgain`].
    pub after_crash: AfterCrash,
    /// How many operations may be in progress in this process at once, counted from the head of the request to the end of the
    /// handler. Further requests receive 503 with `Retry-After` before their body is read. Default 1 000; at least 1. Each may
    /// hold a request body and a response body in memory.
    pub max_running: usize,
    /// How many of these operations one tenant may have. Default: no separate limit; at least 1.
    pub max_running_per_tenant: Option<usize>,
    /// How many requests may [`wait`](Self::wait) for the result of another one at once. Further requests receive 409 at once.
    /// Default 1 000.
    pub max_waiting: usize,
    /// Whether all handlers take their [`Operation`](super::Operation) before they act, as with the extractor for axum. Then a response
    /// before that proves that nothing happened, and the key is released. Such responses come from an extractor that rejects the
    /// request, from a load shedder, or from a time limit in front of a queue. Default: no, because a handler that acts without
    /// taking its operation would act again.
    pub handlers_take_operation: bool,
    /// Whether stored responses have an `Idempotency-Expires` header: the time at which the record expires, as an HTTP date.
    /// Default: no.
    pub expires_header: bool,
}

/// What happens to an operation whose run was cut off: its process died, or could not reach the store during a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum AfterCrash {
    /// The next request runs the operation again, as run 2 (at least once). The handler can detect this by
    /// [`Operation::run`](super::Operation::run), and check whether the effect exists.
    #[default]
    RunAgain,
    /// The operation is not run again, and its outcome is unknown (at most once).
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
    /// The header with the key.
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
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        header_name("header", &self.header)?;
        for method in &self.methods {
            ConfigError::unless(
                // A method in lower case would match no request, and would silently guard nothing.
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
            "at least one method",
        )?;
        ConfigError::unless(
            (1..=MAX_KEY_LEN).contains(&self.min_key_len),
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
                "at least three times `store_timeout` ({:?}), or one slow response of the store ends the lease",
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

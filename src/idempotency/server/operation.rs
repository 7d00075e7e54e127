//! What a handler knows of the operation it is running.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
#[cfg(feature = "postgres")]
use std::time::Duration;

use ::http::Extensions;
use bytes::Bytes;
use uuid::Builder;

use super::digest::digest;
use super::shared::Shared;
use crate::event::OperationStep;
use crate::idempotency::record::{RecordKey, Token};

/// The operation that a handler is running, once for its key. In the request's extensions, and, with the feature `axum`, an
/// extractor.
///
/// ```
/// use axum::http::StatusCode;
/// use buttress::idempotency::Operation;
///
/// async fn pay(operation: Operation, amount: String) -> Result<StatusCode, StatusCode> {
///     // A key of its own for the provider behind: never the caller's.
///     let key = operation.derived_key("provider");
///     # async fn charge(_: &str, _: String) -> Result<(), bool> { Ok(()) }
///     match charge(&key, amount).await {
///         Ok(()) => Ok(StatusCode::CREATED),
///         Err(true) => Err(StatusCode::BAD_GATEWAY),
///         // The provider could not be reached: nobody paid, so the client may try again with the same key.
///         Err(false) => {
///             operation.did_not_happen();
///             Err(StatusCode::SERVICE_UNAVAILABLE)
///         }
///     }
/// }
/// # let _ = axum::Router::<()>::new().route("/", axum::routing::post(pay));
/// ```
#[derive(Clone)]
pub struct Operation {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    key: String,
    record: RecordKey,
    token: Token,
    run: u32,
    did_not_happen: AtomicBool,
    committed: OnceLock<Bytes>,
    lost: AtomicBool,
}

impl Operation {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: String,
        record: RecordKey,
        token: Token,
        run: u32,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                key,
                record,
                token,
                run,
                did_not_happen: AtomicBool::new(false),
                committed: OnceLock::new(),
                lost: AtomicBool::new(false),
            }),
        }
    }

    /// The operation of this request, if it has one: not if the request has no key and needs none, nor if the store could not
    /// be used and the layer is told to [`fail_open`](super::IdempotencyConfig::fail_open).
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The caller's key, without quotes. It is a secret of the caller: not for logs, not to be sent on.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// 1, unless an earlier run was cut off: then 2 and above, and whether that one had its effect is not known. A careful
    /// handler looks first.
    pub fn run(&self) -> u32 {
        self.inner.run
    }

    /// A key for a call that this operation makes: the same in every run of it, another for each purpose, of no use to guess
    /// the caller's, if that is random. A UUID (version 8) of a SHA-256.
    pub fn derived_key(&self, purpose: &str) -> String {
        let hash = digest([&self.inner.record.0[..], purpose.as_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Builder::from_custom_bytes(bytes)
            .into_uuid()
            .hyphenated()
            .to_string()
    }

    /// Says that the effect did not happen, and will not: the answer is given, but not kept, and the next request with this key
    /// runs the operation anew, in the next run if one was cut off before this one. Only for what is certain, such as a connection
    /// that was refused.
    pub fn did_not_happen(&self) {
        self.inner.did_not_happen.store(true, Ordering::Release);
    }

    pub(super) fn is_undone(&self) -> bool {
        self.inner.did_not_happen.load(Ordering::Acquire)
    }

    /// Its record says this by now: it was committed together with the effect. Whatever the handler returns, this is the answer.
    #[cfg(feature = "postgres")]
    pub(in crate::idempotency) fn commit(&self, record: Bytes) {
        let _ = self.inner.committed.set(record);
    }

    pub(super) fn committed(&self) -> Option<&Bytes> {
        self.inner.committed.get()
    }

    /// Another has taken it over. Reported once.
    pub(super) fn lost(&self) {
        if !self.inner.lost.swap(true, Ordering::Relaxed) {
            self.inner.shared.report(OperationStep::LeaseLost);
        }
    }

    pub(in crate::idempotency) fn record(&self) -> &RecordKey {
        &self.inner.record
    }

    pub(in crate::idempotency) fn token(&self) -> Token {
        self.inner.token
    }

    /// How long its answer is kept.
    #[cfg(feature = "postgres")]
    pub(in crate::idempotency) fn ttl(&self) -> Duration {
        self.inner.shared.config.ttl
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }
}

/// Without the key.
impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("record", &self.inner.record)
            .field("run", &self.inner.run)
            .finish_non_exhaustive()
    }
}

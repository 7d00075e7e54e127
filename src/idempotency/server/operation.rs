//! What a handler knows of the operation it is running.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
#[cfg(feature = "postgres")]
use std::time::Duration;

use ::http::Extensions;
use bytes::Bytes;
use uuid::Builder;

use super::engine::{Engine, digest};
use super::run::Asked;
use super::storage::StoragePolicy;
use crate::event::{OperationId, OperationStep};
use crate::idempotency::record::{RecordKey, Token};
use crate::refused::is_refusing;

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
    shared: Arc<Engine>,
    key: String,
    record: RecordKey,
    storage: StoragePolicy,
    token: Token,
    run: u32,
    /// One of [`FREE`], [`TAKEN`], [`REVOKED`].
    state: AtomicU8,
    happened: AtomicBool,
    did_not_happen: AtomicBool,
    committed: OnceLock<Bytes>,
    lost: AtomicBool,
}

/// The handler has not taken the operation.
const FREE: u8 = 0;
/// The handler has taken the operation, and may act.
const TAKEN: u8 = 1;
/// The operation has ended before a handler took it. No handler may act any more.
const REVOKED: u8 = 2;

/// The operation in the extensions of its request.
pub(super) struct Ticket {
    inner: Arc<Inner>,
    /// Shared by the copies of this ticket. A copy may have reached the handler, so that the refusal of another proves nothing.
    copies: Arc<AtomicBool>,
}

impl Ticket {
    pub(super) fn new(operation: &Operation) -> Self {
        Self {
            inner: Arc::clone(&operation.inner),
            copies: Arc::default(),
        }
    }

    /// Takes the operation. `false`: it has ended.
    pub(super) fn take(&self) -> bool {
        let state = &self.inner.state;
        let taken = state.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        taken != Err(REVOKED)
    }
}

impl Clone for Ticket {
    fn clone(&self) -> Self {
        self.copies.store(true, Ordering::Relaxed);
        Self {
            inner: Arc::clone(&self.inner),
            copies: Arc::clone(&self.copies),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A layer of this crate refuses the very request that the idempotency layer has passed on.
        if is_refusing() && !self.copies.load(Ordering::Relaxed) && self.inner.revoke() {
            self.inner.did_not_happen.store(true, Ordering::Release);
        }
    }
}

/// Removes the operation from a request that is sent to another server.
pub(crate) fn remove_ticket(extensions: Option<&mut Extensions>) {
    if let Some(extensions) = extensions {
        extensions.remove::<Ticket>();
    }
}

impl Inner {
    /// Keeps a handler from taking the operation from now on. `false`: one has taken it already.
    fn revoke(&self) -> bool {
        let revoked =
            self.state
                .compare_exchange(FREE, REVOKED, Ordering::AcqRel, Ordering::Acquire);
        revoked != Err(TAKEN)
    }
}

/// Why a handler could not take its [`Operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationRejection {
    /// 500, by the extractor for axum only. No idempotency layer guards the request.
    #[error(
        "this request is not guarded by an idempotency layer: its route has none, or its method is not guarded, \
         or it has no key and needs none, or the store failed open"
    )]
    NotGuarded,
    /// 503. The operation has ended before its handler took it: the handler must not act.
    ///
    /// Another layer has answered the request in the meantime, for example a time limit in front of a queue. Nobody receives the
    /// handler's response.
    #[error("the operation has ended before its handler was called")]
    Ended,
}

impl Operation {
    pub(super) fn new(shared: Arc<Engine>, asked: Asked, token: Token, run: u32) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                key: asked.key,
                record: asked.record,
                storage: asked.storage,
                token,
                run,
                state: AtomicU8::new(FREE),
                happened: AtomicBool::new(false),
                did_not_happen: AtomicBool::new(false),
                committed: OnceLock::new(),
                lost: AtomicBool::new(false),
            }),
        }
    }

    /// Takes the operation of this request, from the request's extensions. The extractor for axum does this.
    ///
    /// `None` if the request has no operation: it has no key and needs none, or the store could not be used and the layer is
    /// set to [`fail_open`](super::IdempotencyConfig::fail_open). May be called more than once.
    ///
    /// # Errors
    ///
    /// [`OperationRejection::Ended`] if the request came too late, from a queue inside the layer: the operation was released or recorded
    /// in the meantime, and the handler must not act.
    pub fn take(extensions: &Extensions) -> Result<Option<Self>, OperationRejection> {
        let Some(ticket) = extensions.get::<Ticket>() else {
            return Ok(None);
        };
        if !ticket.take() {
            return Err(OperationRejection::Ended);
        }
        let inner = Arc::clone(&ticket.inner);
        Ok(Some(Self { inner }))
    }

    pub(super) fn revoke(&self) -> bool {
        self.inner.revoke()
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

    /// The name of this operation in events, logs and [look-ups](super::lookup). It reveals nothing of the key.
    pub fn id(&self) -> OperationId {
        self.inner.record.operation_id()
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

    /// Says that the handler has acted: from now on its response is stored, whatever its status, and an error or a panic is
    /// stored as a failure. Without this, responses that ask the client to come back later (429, 503 with `Retry-After` …) are
    /// not stored, and the next request runs the operation again.
    ///
    /// Takes precedence over [`did_not_happen`](Self::did_not_happen).
    pub fn happened(&self) {
        self.inner.happened.store(true, Ordering::Release);
    }

    pub(super) fn keep(&self) -> StoragePolicy {
        self.inner.storage
    }

    pub(super) fn has_happened(&self) -> bool {
        self.inner.happened.load(Ordering::Acquire)
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
            self.report(OperationStep::LeaseLost);
        }
    }

    pub(super) fn report(&self, step: OperationStep) {
        let Inner {
            shared,
            record,
            run,
            ..
        } = &*self.inner;
        shared.report(step, record, Some(*run));
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

    pub(super) fn shared(&self) -> &Arc<Engine> {
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

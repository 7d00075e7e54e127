//! The operation that a handler is running.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use ::http::Extensions;
use bytes::Bytes;
use uuid::Builder;

use super::digest::digest;
use super::engine::Engine;
use crate::event::{OperationId, OperationStep};
use crate::idempotency::record::{Fingerprint, RecordKey, Token};
use crate::idempotency::server::response::storage::StoragePolicy;
use crate::refused::is_refusing;

/// The identity of an operation, and the settings that apply to it.
pub(super) struct RunArgs {
    pub(super) key: String,
    pub(super) record: RecordKey,
    pub(super) fingerprint: Fingerprint,
    /// Which responses are stored.
    pub(super) storage: StoragePolicy,
    /// Whether the handler runs without protection if the store fails.
    pub(super) fail_open: bool,
}

/// The operation that a handler is running. Take it from the request's extensions with [`take`](Self::take), or use it as an
/// axum extractor (feature `axum`).
///
/// ```
/// use axum::http::StatusCode;
/// use buttress::idempotency::Operation;
///
/// async fn pay(operation: Operation, amount: String) -> Result<StatusCode, StatusCode> {
///     // The key for the payment provider: never the caller's.
///     let key = operation.derived_key("provider");
///     # async fn charge(_: &str, _: String) -> Result<(), bool> { Ok(()) }
///     match charge(&key, amount).await {
///         Ok(()) => Ok(StatusCode::CREATED),
///         Err(true) => Err(StatusCode::BAD_GATEWAY),
///         // The provider could not be reached: nothing was paid, so the client may retry with the same key.
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
    engine: Arc<Engine>,
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
/// The handler has taken the operation.
const TAKEN: u8 = 1;
/// The operation has ended before a handler took it. No handler can take it after this.
const REVOKED: u8 = 2;

/// The operation in the extensions of its request.
pub(super) struct Ticket {
    inner: Arc<Inner>,
    /// Shared by the copies of this ticket. A copy may have reached the handler, so the rejection of another proves nothing.
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
        // A layer of this crate rejects the request that the idempotency layer has passed on.
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
    /// Prevents handlers from taking the operation. `false`: one has already taken it.
    fn revoke(&self) -> bool {
        let revoked =
            self.state
                .compare_exchange(FREE, REVOKED, Ordering::AcqRel, Ordering::Acquire);
        revoked != Err(TAKEN)
    }
}

/// The reason why a handler could not take its [`Operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationRejection {
    /// 500, by the extractor for axum only. No idempotency layer guards the request.
    #[error(
        "the request is not guarded by an idempotency layer: its route has no layer, its method is not guarded, \
         it has no key and keys are optional, or the store failed and the layer fails open"
    )]
    NotGuarded,
    /// 503. The operation ended before its handler took it, so the handler must not act.
    ///
    /// Another layer has responded to the request, for example a time limit in front of a queue. The handler's response is dropped.
    #[error("the operation ended before its handler was called")]
    Ended,
}

impl Operation {
    pub(super) fn new(engine: Arc<Engine>, args: RunArgs, token: Token, run: u32) -> Self {
        Self {
            inner: Arc::new(Inner {
                engine,
                key: args.key,
                record: args.record,
                storage: args.storage,
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

    /// Takes the operation from the request's extensions. The axum extractor does this.
    ///
    /// `None` if the request has no operation: it has no key and keys are optional, or the store failed and the layer is set to
    /// [`fail_open`](super::IdempotencyConfig::fail_open). May be called more than once.
    ///
    /// # Errors
    ///
    /// [`OperationRejection::Ended`] if the operation was released or recorded while the request waited in a queue inside the layer.
    /// The handler must not act.
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

    /// The caller's key, without quotes. It is a secret of the caller: do not log it, and do not send it to other services.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// The number of this run, starting at 1. Above 1, an earlier run was cut off, and whether it had its effect is unknown:
    /// check before you act.
    pub fn run(&self) -> u32 {
        self.inner.run
    }

    /// The name of this operation in events, logs and [look-ups](super::lookup). It reveals nothing of the key.
    pub fn id(&self) -> OperationId {
        self.inner.record.operation_id()
    }

    /// A key for a call that this operation makes: the same in each run, and another for each purpose. A UUID (version 8) of a
    /// SHA-256, which does not reveal the caller's key if that is random.
    pub fn derived_key(&self, purpose: &str) -> String {
        let hash = digest([&self.inner.record.0[..], purpose.as_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Builder::from_custom_bytes(bytes)
            .into_uuid()
            .hyphenated()
            .to_string()
    }

    /// Reports that the effect did not happen and will not. The response is sent but not stored, and the next request with this
    /// key runs the operation again: as run 1, or as the next run if an earlier one was cut off. Call it only if this is certain,
    /// for example after a refused connection.
    pub fn did_not_happen(&self) {
        self.inner.did_not_happen.store(true, Ordering::Release);
    }

    /// Reports that the handler has acted. After this, its response is stored whatever its status, and an error or a panic is
    /// stored as a failure. Without it, responses after which clients retry (429, 503 with `Retry-After` …) are not stored, and
    /// the next request runs the operation again.
    ///
    /// Takes precedence over [`did_not_happen`](Self::did_not_happen).
    pub fn happened(&self) {
        self.inner.happened.store(true, Ordering::Release);
    }

    pub(super) fn storage(&self) -> StoragePolicy {
        self.inner.storage
    }

    pub(super) fn has_happened(&self) -> bool {
        self.inner.happened.load(Ordering::Acquire)
    }

    pub(super) fn is_undone(&self) -> bool {
        self.inner.did_not_happen.load(Ordering::Acquire)
    }

    /// Sets the record that was committed together with the effect. Its response is sent, whatever the handler returns.
    pub(super) fn commit(&self, record: Bytes) {
        let _ = self.inner.committed.set(record);
    }

    pub(super) fn committed(&self) -> Option<&Bytes> {
        self.inner.committed.get()
    }

    /// Reports once that another run has claimed the operation.
    pub(super) fn lost(&self) {
        if !self.inner.lost.swap(true, Ordering::Relaxed) {
            self.report(OperationStep::LeaseLost);
        }
    }

    pub(super) fn report(&self, step: OperationStep) {
        let Inner {
            engine,
            record,
            run,
            ..
        } = &*self.inner;
        engine.report(step, record, Some(*run));
    }

    pub(super) fn record(&self) -> &RecordKey {
        &self.inner.record
    }

    pub(super) fn token(&self) -> Token {
        self.inner.token
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
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

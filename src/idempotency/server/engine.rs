//! The state that all services of a layer share: its settings, and their application to a request.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ::http::request::Parts;
use ::http::{Extensions, HeaderName, Method, Uri};
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::config::IdempotencyConfig;
use super::digest::digest;
use super::lookup::{Route as RouteOf, record_key};
use super::normalize::Normalize;
use super::response::storage::StoreWhen;
use super::scope::Scope;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::{Event, OperationStep, Source, emit};
use crate::idempotency::key;
use crate::idempotency::record::{Fingerprint, RecordKey};
use crate::idempotency::server::execution::progress::InProgress;
use crate::idempotency::store::{Store, StoreError};
use crate::key_problem::KeyProblem;

/// The maximum number of claims that are given up at the same time. Each has a task, and while a store is down, each request
/// would start one.
const GIVING_UP: usize = 1024;

/// The `Retry-After` of rejections after which a retry may succeed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The state that all services of a layer share.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) source: Arc<Source>,
    pub(super) store: Arc<dyn Store>,
    pub(super) scope: Scope,
    pub(super) config: IdempotencyConfig,
    pub(super) header: HeaderName,
    /// Requests with one of these methods are guarded, unless `guards` returns `false`.
    pub(super) methods: Vec<Method>,
    pub(super) guards: Option<Arc<Guards>>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) compared: Compared,
    pub(super) store_when: Option<Arc<StoreWhen>>,
    pub(super) progress: Arc<InProgress>,
    /// Places for claims that are being given up.
    pub(super) giving_up: Arc<Semaphore>,
}

pub(super) type Guards = dyn Fn(&Parts) -> bool + Send + Sync;
pub(super) type Route = dyn Fn(&Parts) -> String + Send + Sync;
pub(super) type FingerprintFn = dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync;

/// How two requests with one key are compared.
#[derive(Clone)]
pub(super) enum Compared {
    Normalized(Normalize),
    Custom(Arc<FingerprintFn>),
}

impl Engine {
    pub(super) fn new(
        name: &str,
        store: Arc<dyn Store>,
        scope: Scope,
        config: IdempotencyConfig,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let methods = config.methods.iter();
        let methods = methods.filter_map(|method| Method::from_bytes(method.as_bytes()).ok());
        let source = Arc::new(Source::new("idempotency", name));
        Ok(Self {
            progress: InProgress::new(Arc::clone(&source)),
            source,
            store,
            scope,
            header: key::header_name("header", &config.header)?,
            methods: methods.collect(),
            config,
            guards: None,
            route: None,
            // A retry may reach another instance, which has another address.
            compared: Compared::Normalized(Normalize::new().any_authority()),
            store_when: None,
            giving_up: Arc::new(Semaphore::new(GIVING_UP)),
        })
    }

    pub(super) fn guards(&self, parts: &mut Parts) -> bool {
        let guards = self.guards.as_ref();
        guards.is_none_or(|guards| with_full_uri(parts, |parts, _| guards(parts)))
    }

    /// The caller's key, the key of its record, and the tenant. `None`: the request is served without protection.
    pub(super) fn key(
        &self,
        parts: &mut Parts,
    ) -> Result<Option<(String, RecordKey, String)>, KeyProblem> {
        let config = &self.config;
        let key = key::received(
            &parts.headers,
            &self.header,
            config.min_key_len,
            config.accept_unquoted,
        );
        let Some(key) = key.map_err(KeyProblem::Malformed)? else {
            return if config.required {
                Err(KeyProblem::Missing)
            } else {
                Ok(None)
            };
        };
        let (record, tenant) = with_full_uri(parts, |parts, seen| {
            let tenant = self.scope.tenant(parts).ok_or(KeyProblem::NoTenant)?;
            Ok((self.record(parts, seen, &tenant, &key), tenant))
        })?;
        Ok(Some((key, record, tenant)))
    }

    /// `parts` has the full URI; `seen` is the URI that the layer was called with, if it is another one.
    fn record(&self, parts: &Parts, seen: Option<&Uri>, tenant: &str, key: &str) -> RecordKey {
        let named = self.route.as_ref().map(|route| route(parts));
        let route = match &named {
            Some(route) => RouteOf::Named(route),
            None => RouteOf::Paths {
                full: parts.uri.path(),
                seen: seen.unwrap_or(&parts.uri).path(),
            },
        };
        record_key(self.source.name(), tenant, &parts.method, route, key)
    }

    pub(super) fn fingerprint(&self, parts: &mut Parts, body: &Bytes) -> Fingerprint {
        let compared = with_full_uri(parts, |parts, _| match &self.compared {
            Compared::Normalized(normalize) => normalize.fingerprint(parts, body),
            Compared::Custom(fingerprint) => fingerprint(parts, body),
        });
        Fingerprint(digest([&compared[..]]))
    }

    /// Rejects a request and reports the rejection.
    pub(super) fn refuse(&self, problem: KeyProblem) -> Rejected {
        let wait = match problem {
            KeyProblem::InProgress
            | KeyProblem::NotExecuted
            | KeyProblem::StoreUnavailable
            | KeyProblem::TooManyOperations => Some(RETRY_AFTER),
            _ => None,
        };
        let name = Arc::clone(self.source.name());
        let rejected = Rejected::new(Reason::Key(problem), name)
            .retry_after(wait)
            .executed(problem.executed());
        emit(&Event::Rejected {
            source: &self.source,
            rejected: &rejected,
        });
        rejected
    }

    pub(super) fn report(&self, step: OperationStep, record: &RecordKey, run: Option<u32>) {
        emit(&Event::Operation {
            source: &self.source,
            step,
            operation: record.operation_id(),
            run,
        });
    }

    pub(super) fn store_failed(&self, error: &StoreError) {
        emit(&Event::StoreFailed {
            source: &self.source,
            error,
        });
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("name", self.source.name())
            .field("store", &self.store)
            .field("scope", &self.scope)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Calls `f` with the full URI in `parts.uri`, and the URI that the layer sees if the two are not the same.
///
/// The URI is swapped for the duration of the call, which costs no copy of the headers.
fn with_full_uri<T>(parts: &mut Parts, f: impl FnOnce(&Parts, Option<&Uri>) -> T) -> T {
    let Some(full) = original(&parts.extensions).filter(|full| *full != parts.uri) else {
        return f(parts, None);
    };
    let seen = mem::replace(&mut parts.uri, full);
    let result = f(parts, Some(&seen));
    parts.uri = seen;
    result
}

/// The URI that axum's outermost router was called with. A clone of a `Uri` shares its text.
#[cfg(feature = "axum")]
fn original(extensions: &Extensions) -> Option<Uri> {
    let original = extensions.get::<::axum::extract::OriginalUri>();
    original.map(|original| original.0.clone())
}

#[cfg(not(feature = "axum"))]
const fn original(_: &Extensions) -> Option<Uri> {
    None
}

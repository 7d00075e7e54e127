//! The record of a request.

use std::fmt;

use ::http::Method;

use crate::idempotency::record::RecordKey;
use crate::idempotency::server::digest::digest;

/// The parts of a request that identify its record: tenant, method, path and key.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordOf {
    tenant: String,
    method: Method,
    path: String,
    inner_path: Option<String>,
    route: Option<String>,
    key: String,
}

/// The part of a request that identifies the operation.
#[derive(Clone, Copy)]
pub(in crate::idempotency::server) enum Route<'a> {
    /// The full path of the request, and the path that the layer sees, which lacks the prefix of a nested router.
    Paths { full: &'a str, seen: &'a str },
    /// The route that [`IdempotencyLayer::route`](crate::idempotency::IdempotencyLayer::route) returned.
    Named(&'a str),
}

impl RecordOf {
    /// A request with this method, to this path, with this idempotency key (without quotes).
    ///
    /// The path is the full one that the client sent, without the query and byte for byte: a trailing slash and percent-encoding count.
    pub fn new(method: Method, path: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            tenant: String::new(),
            method,
            path: path.into(),
            inner_path: None,
            route: None,
            key: key.into(),
        }
    }

    /// A POST request to this path, with this idempotency key.
    pub fn post(path: impl Into<String>, key: impl Into<String>) -> Self {
        Self::new(Method::POST, path, key)
    }

    /// An operation of [`IdempotencyLayer::run`](crate::idempotency::IdempotencyLayer::run) with this scope and key.
    pub fn run(scope: impl Into<String>, key: impl Into<String>) -> Self {
        // No request has this method: it is not upper case.
        let method = Method::from_bytes(b"run").unwrap_or_default();
        Self::new(method, "", key).tenant(scope).route("")
    }

    /// The tenant of the request, as [`Scope::by`](crate::idempotency::Scope::by) returned it. Default: none, as with
    /// [`Scope::Global`](crate::idempotency::Scope::Global).
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// The path that the layer sees, if it is inside a nested router that cuts a prefix off. Default: the full path.
    #[must_use]
    pub fn inner_path(mut self, path: impl Into<String>) -> Self {
        self.inner_path = Some(path.into());
        self
    }

    /// The route that [`IdempotencyLayer::route`](crate::idempotency::IdempotencyLayer::route) returns for the request. It replaces both
    /// paths.
    #[must_use]
    pub fn route(mut self, route: impl Into<String>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// The key of the record in this layer. `is_named`: the layer returns a route for each request.
    pub(super) fn key(&self, layer: &str, is_named: bool) -> RecordKey {
        let route = match &self.route {
            Some(route) => Route::Named(route),
            None if is_named => Route::Named(&self.path),
            None => Route::Paths {
                full: &self.path,
                seen: self.inner_path.as_ref().unwrap_or(&self.path),
            },
        };
        record_key(layer, &self.tenant, &self.method, route, &self.key)
    }
}

/// Without the key, which is a secret of the client.
impl fmt::Debug for RecordOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordOf")
            .field("tenant", &self.tenant)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("inner_path", &self.inner_path)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// Computes the key of the record of a request.
pub(in crate::idempotency::server) fn record_key(
    layer: &str,
    tenant: &str,
    method: &Method,
    route: Route<'_>,
    key: &str,
) -> RecordKey {
    let route = match route {
        Route::Named(route) => digest([route.as_bytes()]),
        Route::Paths { full, seen } => digest([full.as_bytes(), seen.as_bytes()]),
    };
    RecordKey(digest([
        layer.as_bytes(),
        tenant.as_bytes(),
        method.as_str().as_bytes(),
        &route[..],
        key.as_bytes(),
    ]))
}

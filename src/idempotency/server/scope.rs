//! The tenant of a key.

use std::fmt;
use std::sync::Arc;

use ::http::request::Parts;

/// The tenant that a key belongs to. The same key of two tenants identifies two operations.
///
/// Clients choose their keys. Without tenants, a client that has seen or guessed the key of another client gets that client's
/// response. A server with more than one client must therefore separate them by an authenticated identity, never by a value
/// that the request merely claims.
///
/// ```
/// use axum::http::request::Parts;
/// use buttress::idempotency::Scope;
///
/// #[derive(Clone)]
/// struct Account(String); // put into the extensions by the layer that authenticates, further out
///
/// let scope = Scope::by(|request: &Parts| request.extensions.get::<Account>().map(|account| account.0.clone()));
/// # let _ = scope;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Scope {
    /// All clients share their keys. Use it if there is one client, or if all clients trust each other.
    Global,
    /// By the tenant that this function returns. A request for which it returns `None` is rejected with 403.
    By(Arc<Tenant>),
}

type Tenant = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl Scope {
    /// By the tenant that this function returns for a request.
    pub fn by(tenant: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(tenant))
    }

    /// The tenant; `None` if the request must be rejected.
    pub(super) fn tenant(&self, parts: &Parts) -> Option<String> {
        match self {
            Self::Global => Some(String::new()),
            Self::By(tenant) => tenant(parts),
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "Global",
            Self::By(_) => "By(..)",
        })
    }
}

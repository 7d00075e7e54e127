//! Whose key it is.

use std::fmt;
use std::sync::Arc;

use ::http::request::Parts;

/// Whose keys they are: the same key of two tenants stands for two operations.
///
/// A client chooses its keys, and may choose one that it has seen or guessed; without tenants it is then given the answer to
/// somebody else's request. So a server of more than one client must say by what it knows them: what its authentication found
/// out, never what the request merely claims.
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
    /// All clients share their keys: there is one client, or all of them trust each other.
    Global,
    /// By what is found out here. A request of which it is `None` is refused, with 403.
    By(Arc<Tenant>),
}

type Tenant = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl Scope {
    /// By tenant: what this finds in a request.
    pub fn by(tenant: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(tenant))
    }

    /// The tenant; `None` if there must be one and it is not known.
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

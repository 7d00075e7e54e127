//! Which callers' deadline headers to honor.

use std::fmt;
use std::sync::Arc;

use crate::http::HttpRequest;

/// Which callers' deadline headers to honor.
///
/// A caller that sets the deadline can cut each of its calls short halfway, for example after the work was done and before it
/// was reported, so no caller is trusted by default. Use [`Everyone`](Trust::Everyone) where only your own services can
/// connect: in a mesh, behind a gateway that strips the headers, or with mutual TLS.
///
/// ```
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use buttress::http::deadline::Trust;
///
/// // Of axum: `into_make_service_with_connect_info::<SocketAddr>()` leaves the peer's address in the extensions.
/// let local = Trust::when(|request| {
///     let peer = request.extensions().and_then(|of| of.get::<ConnectInfo<SocketAddr>>());
///     peer.is_some_and(|ConnectInfo(address)| address.ip().is_loopback())
/// });
/// # let _ = local;
/// ```
#[derive(Clone, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Trust {
    /// No caller's.
    #[default]
    Nobody,
    /// The headers of everyone who can connect.
    Everyone,
    /// The headers of requests for which this holds. Not for `serde`.
    #[cfg_attr(feature = "serde", serde(skip))]
    When(Arc<Holds>),
}

type Holds = dyn Fn(&dyn HttpRequest) -> bool + Send + Sync;

impl Trust {
    /// The headers of requests for which this holds, decided for example by a header that a gateway sets, or by the peer's
    /// address in the extensions.
    pub fn when(holds: impl Fn(&dyn HttpRequest) -> bool + Send + Sync + 'static) -> Self {
        Self::When(Arc::new(holds))
    }

    /// Whether this request's headers are trusted.
    pub fn holds<R: HttpRequest>(&self, request: &R) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everyone => true,
            Self::When(holds) => holds(request),
        }
    }
}

/// Two predicates are equal if they are the same one.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nobody, Self::Nobody) | (Self::Everyone, Self::Everyone) => true,
            (Self::When(one), Self::When(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Everyone => "Everyone",
            Self::When(_) => "When(..)",
        })
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn serde_reads_a_word() {
        let everyone: Trust = serde_json::from_str("\"everyone\"").unwrap();
        assert_eq!(everyone, Trust::Everyone);
        assert_eq!(serde_json::to_string(&Trust::Nobody).unwrap(), "\"nobody\"");
        let some = Trust::when(|_| true);
        assert_eq!(some, some.clone());
        assert_ne!(some, Trust::when(|_| true));
        assert!(serde_json::to_string(&some).is_err());
    }
}

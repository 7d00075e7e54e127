//! Requests and responses of the supported HTTP libraries.

use std::time::Duration;

use ::http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};

use super::authority::{Authority, AuthorityRef};
use crate::gate::KeyBy;
use crate::idempotency::KeyedRequest;

/// An HTTP request of the `http` crate or, with the feature `reqwest`, of reqwest.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a supported HTTP request",
    note = "supported are `http::Request<B>` and, with the feature `reqwest`, `reqwest::Request`"
)]
pub trait HttpRequest {
    /// The method.
    fn method(&self) -> &Method;

    /// The server. Cheap: nothing is copied.
    fn authority(&self) -> AuthorityRef<'_>;

    /// The path, without the query.
    fn path(&self) -> &str;

    /// The headers.
    fn headers(&self) -> &HeaderMap;

    /// The headers, mutable.
    fn headers_mut(&mut self) -> &mut HeaderMap;

    /// Whether the client that takes these requests follows redirects by default, as reqwest does: see
    /// [`Redirects`](super::Redirects). Default: no.
    fn follows_redirects(&self) -> bool {
        false
    }

    /// The extensions; `None` if the type has no public ones, as reqwest's.
    fn extensions(&self) -> Option<&Extensions> {
        None
    }

    /// The extensions, mutable; `None` if the type has no public ones, as reqwest's.
    fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        None
    }

    /// The time limit that the caller has set on the request itself; `None` if it has none, or if the type cannot carry one.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Sets the time limit of the request itself, if the type can carry one.
    fn set_timeout(&mut self, timeout: Duration) {
        let _ = timeout;
    }
}

impl<B> HttpRequest for Request<B> {
    fn method(&self) -> &Method {
        self.method()
    }

    fn authority(&self) -> AuthorityRef<'_> {
        AuthorityRef::of_uri(self.uri())
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn extensions(&self) -> Option<&Extensions> {
        Some(self.extensions())
    }

    fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        Some(self.extensions_mut())
    }
}

/// POST and PATCH are neither safe nor idempotent.
impl<R: HttpRequest> KeyedRequest for R {
    fn wants_key(&self) -> bool {
        matches!(*self.method(), Method::POST | Method::PATCH)
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        HttpRequest::headers_mut(self)
    }
}

/// An HTTP response of the `http` crate or, with the feature `reqwest`, of reqwest.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a supported HTTP response",
    note = "supported are `http::Response<B>` and, with the feature `reqwest`, `reqwest::Response`"
)]
pub trait HttpResponse {
    /// The status.
    fn status(&self) -> StatusCode;

    /// The headers.
    fn headers(&self) -> &HeaderMap;

    /// The headers, mutable.
    fn headers_mut(&mut self) -> &mut HeaderMap;

    /// The extensions.
    fn extensions(&self) -> &Extensions;

    /// The extensions, mutable.
    fn extensions_mut(&mut self) -> &mut Extensions;
}

impl<B> HttpResponse for Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn extensions(&self) -> &Extensions {
        self.extensions()
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        self.extensions_mut()
    }
}

/// A policy per server: the key of a request is its [`Authority`].
///
/// Requests without an absolute URI share one key.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByAuthority;

// So that the error names other keys.
#[diagnostic::do_not_recommend]
impl<Req: HttpRequest> KeyBy<Req> for ByAuthority {
    type Key = Authority;
    type Lookup<'a>
        = AuthorityRef<'a>
    where
        Req: 'a;

    fn lookup<'a>(&self, request: &'a Req) -> AuthorityRef<'a> {
        request.authority()
    }

    fn to_key(&self, lookup: &AuthorityRef<'_>) -> Authority {
        (*lookup).into()
    }
}

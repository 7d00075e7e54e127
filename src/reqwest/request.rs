//! reqwest's requests and responses as HTTP messages.

use std::time::Duration;

use ::http::{Extensions, HeaderMap, Method, StatusCode};
use ::reqwest::{Request, Response};

use crate::http::{AuthorityRef, HttpRequest, HttpResponse};

impl HttpRequest for Request {
    fn method(&self) -> &Method {
        self.method()
    }

    fn authority(&self) -> AuthorityRef<'_> {
        let url = self.url();
        AuthorityRef::new(url.scheme(), url.host_str().unwrap_or_default(), url.port())
    }

    fn path(&self) -> &str {
        self.url().path()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn follows_redirects(&self) -> bool {
        true
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout().copied()
    }

    fn set_timeout(&mut self, timeout: Duration) {
        *self.timeout_mut() = Some(timeout);
    }
}

impl HttpResponse for Response {
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

//! reqwest's requests and responses as HTTP messages.

use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Extensions, HeaderMap, Method, StatusCode};
use ::reqwest::{Body, Request, Response};
use tower_service::Service;

use crate::error::CallError;
use crate::http::{
    AuthorityRef, HeaderTimeout, HeaderTimeoutFuture, HttpRequest, HttpResponse, watch,
};

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

impl<S> Service<Request> for HeaderTimeout<S>
where
    S: Service<Request>,
    S::Error: CallError,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HeaderTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let sending = request.body_mut().as_mut().and_then(|body| {
            let (watched, sending) = watch(std::mem::take(body));
            *body = Body::wrap(watched);
            sending
        });
        self.send(request, sending)
    }
}

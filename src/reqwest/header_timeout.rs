//! The header timeout for reqwest's requests.

use std::task::{Context, Poll};

use ::reqwest::{Body, Request};
use tower_service::Service;

use crate::error::CallError;
use crate::http::{HeaderTimeout, HeaderTimeoutFuture, watch};

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

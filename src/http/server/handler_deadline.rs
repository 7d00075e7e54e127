//! Ends the handler's own calls when its timeout passes.

use std::task::{Context, Poll};

use tower_service::Service;

use crate::deadline::{Deadline, DeadlineScope};
use crate::timeout::TimeoutLayer;

/// Sets the limit of the timeout around it as the deadline of the inner service.
#[derive(Clone, Debug)]
pub(in crate::http::server) struct HandlerDeadline<S> {
    inner: S,
    timeout: TimeoutLayer,
}

impl<S> HandlerDeadline<S> {
    pub(in crate::http::server) const fn new(inner: S, timeout: TimeoutLayer) -> Self {
        Self { inner, timeout }
    }
}

impl<S: Service<Req>, Req> Service<Req> for HandlerDeadline<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineScope<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let deadline = Deadline::after(self.timeout.limit());
        let future = {
            let _entered = deadline.enter();
            self.inner.call(request)
        };
        deadline.scope(future)
    }
}

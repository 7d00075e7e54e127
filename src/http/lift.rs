//! The innermost part of a stack: an error that can hold a rejection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use crate::error::Error;

/// Gives a service an error that can hold a [`Rejected`](crate::Rejected): its own one, untouched, in
/// [`Error::Inner`]. What `.map_err(Error::Inner)` does, as a type that a stack can name.
#[derive(Clone, Copy, Debug)]
pub struct Lift<S> {
    inner: S,
}

impl<S> Lift<S> {
    /// Lifts this service.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Service<Req>, Req> Service<Req> for Lift<S> {
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = LiftFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        LiftFuture {
            inner: self.inner.call(request),
        }
    }
}

/// The future of [`Lift`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct LiftFuture<F> {
    #[pin]
    inner: F,
}

impl<F, T, E> Future for LiftFuture<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_err(Error::Inner)
    }
}

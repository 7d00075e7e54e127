//! The innermost part of a stack: an error that can hold a rejection.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use super::classify::ByStatus;
use super::error::ErrorOutcome;
use super::grpc::ByGrpcStatus;
use crate::call::CallOptions;
use crate::error::{BoxError, CallError, Error};

/// Maps the error of a service to the error of the stack around it. Implemented by the classifier of the stack.
///
/// | error of the service | error of the stack |
/// |---|---|
/// | [`BoxError`] | [`BoxError`] itself, which can hold a [`Rejected`](crate::Rejected), so `?` works in the caller |
/// | anything else that the classifier accepts | [`Error<E>`](crate::Error) |
///
/// Behind [`ByGrpcStatus`] every error becomes [`Error<E>`](crate::Error).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what a `Result<_, {E}>` of the service means",
    label = "this stack accepts errors that implement `buttress::http::ErrorOutcome`, and `buttress::BoxError`",
    note = "your own error: `impl buttress::http::ErrorOutcome for YourError {{ fn outcome(&self) -> buttress::Outcome {{ buttress::http::error_outcome(self) }} }}`",
    note = "a foreign one: `.map_err(buttress::BoxError::from)` next to the service"
)]
pub trait StackError<E> {
    /// The error of the stack.
    type Error: CallError;

    /// The service's own error as an error of the stack.
    fn inner(error: E) -> Self::Error;
}

impl<E: ErrorOutcome> StackError<E> for ByStatus {
    type Error = Error<E>;

    fn inner(error: E) -> Error<E> {
        Error::Inner(error)
    }
}

impl StackError<BoxError> for ByStatus {
    type Error = BoxError;

    fn inner(error: BoxError) -> BoxError {
        error
    }
}

impl<E> StackError<E> for ByGrpcStatus {
    type Error = Error<E>;

    fn inner(error: E) -> Error<E> {
        Error::Inner(error)
    }
}

/// Maps every error to [`Error<E>`](crate::Error), whatever it is.
#[derive(Clone, Copy, Debug)]
pub struct AnyError;

impl<E> StackError<E> for AnyError {
    type Error = Error<E>;

    fn inner(error: E) -> Error<E> {
        Error::Inner(error)
    }
}

/// Gives a service an error that can hold a [`Rejected`](crate::Rejected): its own one, untouched, in
/// [`Error::Inner`]. What `.map_err(Error::Inner)` does, as a type that a stack can name.
///
/// `C` maps the error: see [`StackError`].
#[derive(Clone, Copy, Debug)]
pub struct Lift<S, C = AnyError> {
    inner: S,
    error: PhantomData<fn() -> C>,
}

impl<S> Lift<S> {
    /// Lifts this service.
    pub const fn new(inner: S) -> Self {
        Self::mapped(inner)
    }
}

impl<S, C> Lift<S, C> {
    /// Lifts this service; `C` maps its error.
    pub(super) const fn mapped(inner: S) -> Self {
        Self {
            inner,
            error: PhantomData,
        }
    }
}

impl<S, C, Req> Service<Req> for Lift<S, C>
where
    S: Service<Req>,
    C: StackError<S::Error>,
{
    type Response = S::Response;
    type Error = C::Error;
    type Future = LiftFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(C::inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let _hidden = CallOptions::hide_all();
        LiftFuture {
            inner: self.inner.call(request),
            error: PhantomData,
        }
    }
}

/// The future of [`Lift`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct LiftFuture<F, C = AnyError> {
    #[pin]
    inner: F,
    error: PhantomData<fn() -> C>,
}

impl<F, C, T, E> Future for LiftFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: StackError<E>,
{
    type Output = Result<T, C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The innermost part of a stack: the calls that the service makes itself have options of their own.
        let _hidden = CallOptions::hide_all();
        self.project().inner.poll(cx).map_err(C::inner)
    }
}

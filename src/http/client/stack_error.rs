//! The innermost part of a stack: maps the service's error to one that can hold a rejection.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use crate::call::CallOptions;
use crate::error::{BoxError, CallError, Error};
use crate::http::classify::errors::ErrorOutcome;
use crate::http::classify::status::ByStatus;
use crate::http::grpc::ByGrpcStatus;

/// Maps the error of a service to the error of the stack around it. Implemented by the classifier of the stack.
///
/// | error of the service | error of the stack |
/// |---|---|
/// | [`BoxError`] | [`BoxError`] itself, which can hold a [`Rejected`](crate::Rejected), so `?` works in the caller |
/// | anything else that the classifier accepts | [`Error<E>`](crate::Error) |
///
/// Behind [`ByGrpcStatus`] every error becomes [`Error<E>`](crate::Error).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify a `Result<_, {E}>` of the service",
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

/// Maps the error of a service with `C`, see [`StackError`]. Does what `.map_err(Error::Inner)` does, as a type that a stack
/// can name.
#[derive(Debug)]
pub struct IntoStackError<S, C = AnyError> {
    inner: S,
    error: PhantomData<fn() -> C>,
}

/// Not derived: the mapping `C` need not be `Clone`.
impl<S: Clone, C> Clone for IntoStackError<S, C> {
    fn clone(&self) -> Self {
        Self::mapped(self.inner.clone())
    }
}

impl<S> IntoStackError<S> {
    /// Maps the service's error to [`Error<E>`](crate::Error).
    pub const fn new(inner: S) -> Self {
        Self::mapped(inner)
    }
}

impl<S, C> IntoStackError<S, C> {
    /// Maps the service's error with `C`.
    pub(super) const fn mapped(inner: S) -> Self {
        Self {
            inner,
            error: PhantomData,
        }
    }
}

impl<S, C, Req> Service<Req> for IntoStackError<S, C>
where
    S: Service<Req>,
    C: StackError<S::Error>,
{
    type Response = S::Response;
    type Error = C::Error;
    type Future = IntoStackErrorFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(C::inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let _hidden = CallOptions::hide_all();
        IntoStackErrorFuture {
            inner: self.inner.call(request),
            error: PhantomData,
        }
    }
}

/// The future of [`IntoStackError`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct IntoStackErrorFuture<F, C = AnyError> {
    #[pin]
    inner: F,
    error: PhantomData<fn() -> C>,
}

impl<F, C, T, E> Future for IntoStackErrorFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: StackError<E>,
{
    type Output = Result<T, C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The innermost part of a stack: the options of this call do not apply to calls that the service makes.
        let _hidden = CallOptions::hide_all();
        self.project().inner.poll(cx).map_err(C::inner)
    }
}

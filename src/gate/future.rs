//! The future of every gate pattern, and when its permit is settled.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::Permit;
use crate::clock::Now;
use crate::error::{CallError, Rejected};
use crate::outcome::{Classify, Outcome, judge};

/// What becomes of a permit when the inner future is ready: it is settled with the result ([`AtResult`]), or goes on with
/// the response's body (`http::AtBodyEnd`).
pub trait Finish<Res, E, P, C> {
    /// What the caller gets.
    type Response;

    /// The inner future is ready.
    ///
    /// # Errors
    ///
    /// The inner service's own, untouched.
    fn finish(&self, result: Result<Res, E>, permit: P, classify: &C) -> Result<Self::Response, E>;
}

/// The permit is settled with the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtResult;

impl<Res, E, P, C> Finish<Res, E, P, C> for AtResult
where
    E: CallError,
    P: Permit,
    C: Classify<Res, E>,
{
    type Response = Res;

    #[inline]
    fn finish(&self, result: Result<Res, E>, permit: P, classify: &C) -> Result<Res, E> {
        match judge(&result, classify) {
            Some(outcome) => permit.settle(outcome, &Now::unread()),
            None => drop(permit),
        }
        result
    }
}

/// The future of a [`Gate`](super::Gate).
///
/// # Cancel safety
///
/// Dropped while it runs, it drops the inner future, then the permit: the call was abandoned.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct GateFuture<F, P, C, H> {
    #[pin]
    state: State<F, P, C, H>,
}

#[pin_project(project = StateProjection)]
#[derive(Debug)]
enum State<F, P, C, H> {
    Running {
        #[pin]
        future: F,
        /// Taken when the inner future is ready.
        permit: Option<P>,
        classify: C,
        finish: H,
    },
    Refused(Option<Rejected>),
}

impl<F, P, C, H> GateFuture<F, P, C, H> {
    #[cold]
    pub(super) const fn refused(rejected: Rejected) -> Self {
        Self {
            state: State::Refused(Some(rejected)),
        }
    }

    #[inline]
    pub(crate) const fn running(future: F, permit: P, classify: C, finish: H) -> Self {
        Self {
            state: State::Running {
                future,
                permit: Some(permit),
                classify,
                finish,
            },
        }
    }
}

impl<F, P, C, H, Res, E> Future for GateFuture<F, P, C, H>
where
    F: Future<Output = Result<Res, E>>,
    E: CallError,
    P: Permit,
    H: Finish<Res, E, P, C>,
{
    type Output = Result<H::Response, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running {
                future,
                permit,
                classify,
                finish,
            } => {
                let settling = Settling(permit);
                let polled = future.poll(cx);
                std::mem::forget(settling);
                let result = ready!(polled);
                let permit = permit.take().expect("polled after completion");
                Poll::Ready(finish.finish(result, permit, classify))
            }
            StateProjection::Refused(rejected) => {
                let rejected = rejected.take().expect("polled after completion");
                Poll::Ready(Err(rejected.into()))
            }
        }
    }
}

/// Settles the permit as a failure when `inner.poll` unwinds. Forgotten when it returns.
///
/// Not `thread::panicking()`, which is also true while a permit is dropped by somebody else's unwinding.
struct Settling<'a, P: Permit>(&'a mut Option<P>);

impl<P: Permit> Drop for Settling<'_, P> {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.settle(Outcome::TRANSIENT, &Now::unread());
        }
    }
}

/// The same around `inner.call`, where the permit is not in its place yet.
pub(super) struct Unwinding<P: Permit>(Option<P>);

impl<P: Permit> Unwinding<P> {
    pub(super) const fn new(permit: P) -> Self {
        Self(Some(permit))
    }

    pub(super) fn disarm(mut self) -> P {
        self.0.take().expect("a guard is disarmed once")
    }
}

impl<P: Permit> Drop for Unwinding<P> {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.settle(Outcome::TRANSIENT, &Now::unread());
        }
    }
}

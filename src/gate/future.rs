//! The future of a gate.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::{Finish, Permit};
use crate::clock::Now;
use crate::error::{CallError, Rejected};
use crate::outcome::Outcome;

/// The future of a [`Gate`](super::Gate).
///
/// # Cancel safety
///
/// Dropping it drops the inner future, then the permit: the call was abandoned.
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
    #[inline]
    pub(super) const fn refused(rejected: Rejected) -> Self {
        Self {
            state: State::Refused(Some(rejected)),
        }
    }

    #[inline]
    pub(crate) const fn running(future: F, permit: Option<P>, classify: C, finish: H) -> Self {
        Self {
            state: State::Running {
                future,
                permit,
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

    // Inlined by force, here and along the way of a call that succeeds: a result that is handed on through memory from
    // frame to frame costs more than all the rest.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running {
                future,
                permit,
                classify,
                finish,
            } => {
                // Checked here too, so that no result is lost to a panic below.
                assert!(permit.is_some(), "`GateFuture` polled after completion");
                let unwinding = Unwinding(permit);
                let polled = future.poll(cx);
                std::mem::forget(unwinding);
                match polled {
                    Poll::Ready(result) => {
                        let permit = permit.take().expect("checked above");
                        Poll::Ready(finish.finish(result, permit, classify))
                    }
                    Poll::Pending => {
                        if let Some(permit) = permit {
                            permit.pending(&Now::unread());
                        }
                        Poll::Pending
                    }
                }
            }
            StateProjection::Refused(rejected) => Poll::Ready(Err(refusal(rejected))),
        }
    }
}

#[cold]
fn refusal<E: CallError>(rejected: &mut Option<Rejected>) -> E {
    let rejected = rejected.take();
    rejected
        .expect("`GateFuture` polled after completion")
        .into()
}

/// Settles the permit as a failure when `inner.call` or `inner.poll` unwinds. Disarmed with `mem::forget` when they return.
///
/// Not `thread::panicking()`, which is also true while a permit is dropped by an unrelated unwinding.
pub(super) struct Unwinding<'a, P: Permit>(pub(super) &'a mut Option<P>);

impl<P: Permit> Drop for Unwinding<'_, P> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            settle_unwound(permit);
        }
    }
}

#[cold]
#[inline(never)]
fn settle_unwound(permit: impl Permit) {
    permit.settle(Outcome::TRANSIENT, &Now::unread());
}

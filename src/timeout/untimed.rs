//! The limit of the whole call, for what keeps it with timers of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};
use tower_service::Service;

use super::limit::Limit;
use super::total::{begin, over};
use crate::call::CallOptions;
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::outcome::Executed;
use crate::refused::drop_refused;

/// As [`DeadlineService`](super::DeadlineService), without its timer: only for what, whenever it is pending, waits for a timer
/// that goes off by the deadline. An attempt timeout does, and the wait between two attempts.
#[derive(Clone, Debug)]
pub struct Untimed<S> {
    inner: S,
    total: Arc<Limit>,
}

impl<S> Untimed<S> {
    pub(super) const fn new(inner: S, total: Arc<Limit>) -> Self {
        Self { inner, total }
    }
}

impl<S, Req> Service<Req> for Untimed<S>
where
    S: Service<Req> + Clone,
    S::Error: CallError,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = UntimedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let total = Arc::clone(&self.total);
        let Ok(deadline) = begin(&total) else {
            // The inner service may hold a place for the call that is not made.
            self.inner = self.inner.clone();
            drop_refused(request);
            return UntimedFuture {
                future: None,
                begun: false,
                refused: true,
                deadline: Deadline::at(Moment::START),
                total,
            };
        };
        let _entered = deadline.enter();
        let _hidden = CallOptions::hide_timeout();
        UntimedFuture {
            future: Some(self.inner.call(request)),
            begun: false,
            refused: false,
            deadline,
            total,
        }
    }
}

/// The future of an [`Untimed`].
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct UntimedFuture<F> {
    /// `None`: refused, over, or just being dropped.
    #[pin]
    future: Option<F>,
    /// Whether it was polled.
    begun: bool,
    /// Whether the time was over before the call began, until that is reported.
    refused: bool,
    deadline: Deadline,
    total: Arc<Limit>,
}

impl<F, Res, E> Future for UntimedFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: CallError,
{
    type Output = Result<Res, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let entered = this.deadline.enter();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            assert!(
                std::mem::take(this.refused),
                "`DeadlineFuture` polled after completion"
            );
            return Poll::Ready(Err(over(this.total.source(), Executed::No).into()));
        };
        // A scope that it was not called in, but is polled in, may be over before it has begun.
        if !*this.begun && entered.is_over_before(*this.deadline) {
            this.future.set(None);
            return Poll::Ready(Err(over(this.total.source(), Executed::Maybe).into()));
        }
        *this.begun = true;
        let _hidden = CallOptions::hide_timeout();
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

#[pinned_drop]
impl<F> PinnedDrop for UntimedFuture<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.deadline.enter();
        this.future.set(None);
    }
}

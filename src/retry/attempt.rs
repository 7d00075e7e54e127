//! One attempt, made, polled and dropped inside its [`Call`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};

use crate::call::{Call, CallOptions, EnteredCall, Marks, Scope};

#[pin_project(PinnedDrop)]
pub(super) struct Attempt<F> {
    scope: Scope,
    /// What those further in have said, at any time of this attempt.
    marks: Marks,
    /// `None` once it is over: a permit it holds is free before anything else is done.
    #[pin]
    future: Option<F>,
}

impl<F> Attempt<F> {
    #[inline(always)]
    pub(super) fn new(call: Call, make: impl FnOnce() -> F) -> Self {
        let scope = call.scope();
        let entered = scope.enter();
        let future = Some(make());
        Self {
            scope,
            marks: entered.marks(),
            future,
        }
    }

    /// What those further in have said of it.
    pub(super) const fn marks(&self) -> Marks {
        self.marks
    }
}

impl<F: Future> Attempt<F> {
    /// Polls it. What it came to is to be judged while the guard lives.
    #[inline(always)]
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(F::Output, Judging)> {
        let mut this = self.project();
        let entered = this.scope.enter();
        let hidden = CallOptions::hide_retry();
        let future = this.future.as_mut().as_pin_mut();
        let polled = future
            .expect("`RetryFuture` polled after completion")
            .poll(cx);
        drop(hidden);
        *this.marks |= entered.marks();
        let result = ready!(polled);
        this.future.set(None);
        entered.go_on(this.scope.not_last());
        Poll::Ready((result, Judging(entered)))
    }
}

/// The scope of an attempt that is over: a classifier may ask which one it judges (a 425 is repeated once).
pub(super) struct Judging(#[expect(dead_code, reason = "kept until it is dropped")] EnteredCall);

#[pinned_drop]
impl<F> PinnedDrop for Attempt<F> {
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() {
            let _entered = this.scope.enter();
            this.future.set(None);
        }
    }
}

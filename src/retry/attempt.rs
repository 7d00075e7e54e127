//! One attempt, made, polled and dropped inside its [`Call`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};

use crate::call::{Call, CallOptions, EnteredCall, Marks, Scope};

#[pin_project(PinnedDrop)]
pub(super) struct Attempt<F> {
    scope: Scope,
    /// The marks that inner layers have set during this attempt.
    marks: Marks,
    /// `None` after completion: a permit that it holds is released before anything else happens.
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

    /// The marks that inner layers have set.
    pub(super) const fn marks(&self) -> Marks {
        self.marks
    }
}

impl<F: Future> Attempt<F> {
    /// Polls the attempt. Classify the result while the guard lives.
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
        entered.replace(this.scope.not_last());
        Poll::Ready((result, Judging(entered)))
    }
}

/// The scope of a finished attempt. A classifier reads the attempt's number from it (a 425 is retried once).
pub(super) struct Judging(#[expect(dead_code, reason = "held for its destructor")] EnteredCall);

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

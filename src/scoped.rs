//! A future that is polled and dropped inside a context carried with the task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project::{pin_project, pinned_drop};

/// Values that are in force on a thread while a guard lives.
pub trait Context {
    /// Puts the values in force until the guard is dropped.
    fn enter(&self) -> impl Sized;
}

/// `None` changes nothing. In a box, because most calls have no options.
impl<C: Context> Context for Option<Box<C>> {
    fn enter(&self) -> impl Sized {
        self.as_deref().map(C::enter)
    }
}

/// The future of [`CallOptions::scope`](crate::CallOptions::scope) and [`Deadline::scope`](crate::Deadline::scope).
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scoped<C: Context, F> {
    context: C,
    /// `None` after completion, and while it is dropped: its destructor runs inside the context too.
    #[pin]
    future: Option<F>,
}

impl<C: Context, F> Scoped<C, F> {
    pub(crate) const fn new(context: C, future: F) -> Self {
        Self {
            context,
            future: Some(future),
        }
    }
}

impl<C: Context, F: Future> Future for Scoped<C, F> {
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.context.enter();
        let future = this.future.as_mut().as_pin_mut();
        let polled = future.expect("`Scoped` polled after completion").poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

#[pinned_drop]
impl<C: Context, F> PinnedDrop for Scoped<C, F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.context.enter();
        this.future.set(None);
    }
}

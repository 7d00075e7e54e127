//! The time between two attempts: the wait, then the service's readiness.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::clock::Now;
use crate::deadline::Deadline;
use crate::event::RetryStop;

/// The time between two attempts.
#[pin_project]
pub(super) struct Between<T> {
    /// The last result, held until the next attempt has begun. `None` only after it was taken.
    pub(super) last: Option<T>,
    /// Whether the wait is still running. Afterwards, the service must become ready.
    waiting: bool,
    /// The timer of the wait, then that of the deadline.
    #[pin]
    timer: Option<Sleep>,
}

impl<T> Between<T> {
    pub(super) fn new(wait: Duration, last: T) -> Self {
        Self {
            last: Some(last),
            waiting: !wait.is_zero(),
            timer: (!wait.is_zero()).then(|| sleep(wait)),
        }
    }

    /// Ready when the next attempt may start, or with the reason why it must not.
    pub(super) fn poll_ready<S: Service<Req>, Req>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: Option<Deadline>,
        service: &mut S,
    ) -> Poll<Result<(), RetryStop>> {
        let mut this = self.project();
        if *this.waiting {
            if let Some(wait) = this.timer.as_mut().as_pin_mut() {
                ready!(wait.poll(cx));
            }
            *this.waiting = false;
            this.timer.set(None);
        }
        let now = Now::unread();
        if deadline.is_some_and(|deadline| deadline.is_over(&now)) {
            return Poll::Ready(Err(RetryStop::Deadline));
        }
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(RetryStop::NotReady)),
            Poll::Pending => {
                let Some(deadline) = deadline else {
                    return Poll::Pending;
                };
                if this.timer.is_none() {
                    this.timer.set(Some(sleep(deadline.remaining(&now))));
                }
                match this.timer.as_pin_mut() {
                    Some(timer) => timer.poll(cx).map(|()| Err(RetryStop::Deadline)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

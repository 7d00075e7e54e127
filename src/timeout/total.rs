//! The deadline of the whole call, retries and waits included.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tower_layer::Layer;
use tower_service::Service;

use super::Alarm;
use super::limit::Limit;
use crate::call::CallOptions;
use crate::clock::{Moment, Now};
use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::event::{Event, Source, emit};
use crate::outcome::Executed;
use crate::refused::drop_refused;

/// Limits the whole call, and shows the remaining time to all layers inside.
///
/// The time counts from `call`. It is a [`Deadline`], carried with the task. If an earlier deadline is in force, that one applies. A
/// call after the deadline is rejected and not executed. A per-call [`CallOptions::timeout`] replaces the limit, but not a
/// deadline in force. `Duration::MAX` is no limit. See [the module](crate::timeout).
///
/// Clones, and the services they make, share the limit.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    total: Arc<Limit>,
}

impl DeadlineLayer {
    /// A limit for each call, from the first attempt to the last. `name` appears in errors and events.
    pub fn new(name: impl Into<Arc<str>>, total: Duration) -> Self {
        Self {
            total: Limit::new("deadline", name, total),
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn source(&self) -> &Source {
        self.total.source()
    }

    /// The limit; `Duration::MAX` is none.
    pub fn total(&self) -> Duration {
        self.total.get()
    }

    /// Changes the limit at runtime, for all clones and services. Calls in progress are not affected.
    pub fn set_total(&self, total: Duration) {
        self.total.set(total);
    }

    /// The service without its own timer. Only for an inner service that always has a timer that fires by the deadline while it
    /// is pending, such as an attempt timeout or the wait between two attempts.
    #[cfg(feature = "http")]
    pub(crate) fn untimed<S>(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            timed: false,
            ..self.layer(inner)
        }
    }

    /// Applies the limit to a call without tower.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] when the time is over; else the call's own error.
    pub async fn run<T, E, F>(&self, call: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        match begin(&self.total) {
            Ok(deadline) => {
                let future = async { call().await };
                DeadlineFuture::new(deadline, Arc::clone(&self.total), true, Some(future)).await
            }
            Err(()) => Err(over(self.total.source(), Executed::No).into()),
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            total: Arc::clone(&self.total),
            timed: true,
        }
    }
}

/// A service whose calls have a deadline. Made by [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    total: Arc<Limit>,
    /// Whether the future has a timer for the deadline.
    timed: bool,
}

impl<S, Req> Service<Req> for DeadlineService<S>
where
    S: Service<Req> + Clone,
    S::Error: CallError,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let total = Arc::clone(&self.total);
        let Ok(deadline) = begin(&total) else {
            // The inner service may hold a permit for the call that is not made.
            self.inner = self.inner.clone();
            drop_refused(request);
            return DeadlineFuture::new(Deadline::at(Moment::START), total, self.timed, None);
        };
        let future = {
            let _entered = deadline.enter();
            let _hidden = CallOptions::hide_timeout();
            self.inner.call(request)
        };
        DeadlineFuture::new(deadline, total, self.timed, Some(future))
    }
}

/// The deadline of a call that begins now: the earlier of its own and the one in force. An error if it has passed.
fn begin(total: &Limit) -> Result<Deadline, ()> {
    let outer = Deadline::current().unwrap_or(Deadline::at(Moment::FAR));
    let total = CallOptions::current_timeout().unwrap_or_else(|| total.get());
    if total == Duration::MAX && outer == Deadline::at(Moment::FAR) {
        return Ok(outer);
    }
    let now = Now::unread();
    let deadline = outer.min(Deadline::at(now.moment().after(total)));
    if deadline.is_over(&now) {
        return Err(());
    }
    Ok(deadline)
}

fn over(source: &Source, executed: Executed) -> Rejected {
    let rejected = Rejected::new(Reason::Deadline, Arc::clone(source.name())).executed(executed);
    emit(&Event::Rejected {
        source,
        rejected: &rejected,
    });
    rejected
}

/// The future of a [`DeadlineService`].
///
/// # Cancel safety
///
/// Dropping it drops the inner future, which sees the deadline even then.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct DeadlineFuture<F> {
    deadline: Deadline,
    #[pin]
    alarm: Alarm,
    total: Arc<Limit>,
    timed: bool,
    /// Whether it was polled.
    begun: bool,
    /// Whether the deadline passed before the call began, until that is reported.
    rejected: bool,
    /// `None`: rejected, completed, or being dropped.
    #[pin]
    future: Option<F>,
}

impl<F> DeadlineFuture<F> {
    /// `None`: the call is rejected.
    const fn new(deadline: Deadline, total: Arc<Limit>, timed: bool, future: Option<F>) -> Self {
        Self {
            deadline,
            alarm: Alarm::new(),
            total,
            timed,
            begun: false,
            rejected: future.is_none(),
            future,
        }
    }
}

impl<F, Res, E> Future for DeadlineFuture<F>
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
                std::mem::take(this.rejected),
                "`DeadlineFuture` polled after completion"
            );
            return Poll::Ready(Err(over(this.total.source(), Executed::No).into()));
        };
        // The future may be polled in another scope than it was made in. That scope's deadline may have passed already.
        let begins_late =
            !std::mem::replace(this.begun, true) && entered.is_over_before(*this.deadline);
        if !begins_late {
            let _hidden = CallOptions::hide_timeout();
            if let Poll::Ready(result) = future.poll(cx) {
                this.future.set(None);
                return Poll::Ready(result);
            }
            if !*this.timed {
                return Poll::Pending;
            }
            if !this.alarm.is_armed() {
                // The earliest of this deadline and those outside it, as set by `enter`.
                let Some(earliest) = Deadline::current() else {
                    return Poll::Pending;
                };
                let now = Now::unread();
                this.alarm.as_mut().arm(earliest.remaining(&now), &now);
            }
            ready!(this.alarm.poll(cx));
        }
        // Dropped now and not later with this future, to release permits and connections.
        this.future.set(None);
        Poll::Ready(Err(over(this.total.source(), Executed::Maybe).into()))
    }
}

#[pinned_drop]
impl<F> PinnedDrop for DeadlineFuture<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.deadline.enter();
        this.future.set(None);
    }
}

//! The limit of one attempt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Alarm;
use super::limit::{Limit, duration};
use crate::call::CallOptions;
use crate::clock::{Now, nanos};
use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::event::{Event, emit};
use crate::outcome::Executed;

/// Limits one attempt to `min(limit, time left until the deadline)`, counted from the first poll.
///
/// A per-call [`CallOptions::attempt_timeout`] replaces the limit. `Duration::ZERO` allows one poll;
/// `Duration::MAX` leaves only the deadline. See [the module](crate::timeout).
///
/// A response that is ready at the same time as the timer wins. An error within the last millisecond counts as a timeout, because a
/// client that knows the remaining time gives up at the same moment, as tonic's `Channel` does by `grpc-timeout`.
///
/// Clones, and the services they make, share the limit.
#[derive(Clone, Debug)]
pub struct TimeoutLayer {
    limit: Arc<Limit>,
}

impl TimeoutLayer {
    /// A limit for each attempt. `name` appears in errors and events.
    pub fn new(name: impl Into<Arc<str>>, limit: Duration) -> Self {
        Self {
            limit: Limit::new("timeout", name, limit),
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn source(&self) -> &crate::event::Source {
        self.limit.source()
    }

    /// The limit; `Duration::MAX` is none.
    pub fn limit(&self) -> Duration {
        self.limit.get()
    }

    /// Changes the limit at runtime, for all clones and services. Attempts in progress are not affected.
    pub fn set_limit(&self, limit: Duration) {
        self.limit.set(limit);
    }

    /// Applies the limit to a call without tower.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] when the limit or the deadline passes first; else the call's own error.
    pub async fn run<T, E, F>(&self, call: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        let future = async { call().await };
        TimeoutFuture::new(future, Arc::clone(&self.limit)).await
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            limit: Arc::clone(&self.limit),
        }
    }
}

/// A service whose attempts have a time limit. Made by [`TimeoutLayer`].
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    limit: Arc<Limit>,
}

impl<S, Req> Service<Req> for Timeout<S>
where
    S: Service<Req>,
    S::Error: CallError,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        TimeoutFuture::new(self.inner.call(request), Arc::clone(&self.limit))
    }
}

/// The future of a [`Timeout`].
///
/// # Cancel safety
///
/// Dropping it drops the inner future.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TimeoutFuture<F> {
    #[pin]
    future: F,
    #[pin]
    alarm: Alarm,
    layer: Arc<Limit>,
    /// In nanoseconds: the limit of the layer, and after the first pending poll the time that was left then.
    limit: u64,
    state: State,
}

/// The meaning of the timer. One byte, so that a new future is copied in whole words.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Limit,
    Deadline,
    /// The future has completed.
    Done,
}

impl<F> TimeoutFuture<F> {
    #[inline]
    fn new(future: F, layer: Arc<Limit>) -> Self {
        Self {
            future,
            alarm: Alarm::new(),
            limit: layer.nanos(),
            layer,
            state: State::Limit,
        }
    }
}

impl<F, Res, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: CallError,
{
    type Output = Result<Res, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        assert!(
            *this.state != State::Done,
            "`TimeoutFuture` polled after completion"
        );
        let hidden = CallOptions::hide_attempt_timeout();
        let polled = this.future.poll(cx);
        drop(hidden);
        if let Poll::Ready(result) = polled {
            let state = std::mem::replace(this.state, State::Done);
            return match result {
                Err(error) if error.rejected().is_none() => {
                    let passed = passed_with_error(&this.alarm, this.layer, *this.limit, state);
                    Poll::Ready(Err(passed.map_or(error, Into::into)))
                }
                result => Poll::Ready(result),
            };
        }
        if !this.alarm.is_armed() {
            if let Some(limit) = CallOptions::current_attempt_timeout() {
                *this.limit = nanos(limit);
            }
            let now = Now::unread();
            let left = Deadline::current().map_or(u64::MAX, |d| nanos(d.remaining(&now)));
            if left <= *this.limit {
                *this.limit = left;
                if left != u64::MAX {
                    *this.state = State::Deadline;
                }
            }
            if *this.limit == u64::MAX {
                return Poll::Pending;
            }
            this.alarm.as_mut().arm(duration(*this.limit), &now);
        }
        ready!(this.alarm.poll(cx));
        let state = std::mem::replace(this.state, State::Done);
        Poll::Ready(Err(passed(this.layer, *this.limit, state).into()))
    }
}

/// The limit that passed together with an error of the service, if any. A client that knows the remaining time gives up at the
/// same moment, with its own error.
#[cold]
fn passed_with_error(alarm: &Alarm, layer: &Limit, limit: u64, state: State) -> Option<Rejected> {
    if alarm.is_armed() {
        return alarm.is_due().then(|| passed(layer, limit, state));
    }
    // An attempt that ended at its first poll has not armed the timer.
    Deadline::is_current_due().then(|| passed(layer, limit, State::Deadline))
}

/// The rejection after this limit has passed.
#[cold]
fn passed(layer: &Limit, limit: u64, state: State) -> Rejected {
    let reason = if state == State::Deadline {
        Reason::Deadline
    } else {
        Reason::AttemptTimeout {
            limit: duration(limit),
        }
    };
    let source = layer.source();
    let rejected = Rejected::new(reason, Arc::clone(source.name())).executed(Executed::Maybe);
    emit(&Event::Rejected {
        source,
        rejected: &rejected,
    });
    rejected
}

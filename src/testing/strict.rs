//! An inner service that checks that a layer follows tower's contract.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tower_service::Service;

use crate::clock::Now;
use crate::sync::Mutex;
use crate::timeout::Alarm;

/// What one call of a [`Strict`] service does.
#[derive(Debug)]
pub enum Step<Res, E> {
    /// Returns this result at the first poll.
    Answer(Result<Res, E>),
    /// Returns this result after this time.
    After(Duration, Result<Res, E>),
    /// Stays pending.
    Hang,
    /// Panics when it is polled.
    Panic,
    /// Panics in `call`.
    PanicInCall,
}

/// A service that panics when it is called without having been polled ready, and counts its calls, clones and polls.
///
/// Each call runs the step that the script gives for its number, counted from 0 over all clones. Its futures are `!Unpin`.
pub struct Strict<Req, Res, E> {
    shared: Arc<Inner<Req, Res, E>>,
    ready: bool,
}

type Script<Res, E> = Box<dyn Fn(usize) -> Step<Res, E> + Send + Sync>;

struct Inner<Req, Res, E> {
    script: Script<Res, E>,
    /// What `poll_ready` does before the service becomes ready: a pending poll, or an error.
    readiness: Mutex<VecDeque<Option<E>>>,
    requests: Mutex<Vec<Req>>,
    calls: AtomicUsize,
    clones: AtomicUsize,
    ready_polls: AtomicUsize,
    live: AtomicUsize,
}

impl<Req, Res, E> Strict<Req, Res, E> {
    /// A service that is always ready and follows the script.
    pub fn new(script: impl Fn(usize) -> Step<Res, E> + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Inner {
                script: Box::new(script),
                readiness: Mutex::new(VecDeque::new()),
                requests: Mutex::new(Vec::new()),
                calls: AtomicUsize::new(0),
                clones: AtomicUsize::new(0),
                ready_polls: AtomicUsize::new(0),
                live: AtomicUsize::new(0),
            }),
            ready: false,
        }
    }

    /// The next `poll_ready` of any clone, after those scripted before, is pending, and does not wake its caller.
    pub fn pend_once(&self) {
        self.shared.readiness.lock().push_back(None);
    }

    /// The next `poll_ready` of any clone, after those scripted before, returns this error.
    pub fn fail_ready_once(&self, error: E) {
        self.shared.readiness.lock().push_back(Some(error));
    }

    /// How often it was called, all clones together.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// How often it was cloned.
    pub fn clones(&self) -> usize {
        self.shared.clones.load(Ordering::SeqCst)
    }

    /// How often it was polled ready.
    pub fn ready_polls(&self) -> usize {
        self.shared.ready_polls.load(Ordering::SeqCst)
    }

    /// How many of its futures are alive.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// The requests it was called with, in order; they are taken out.
    pub fn take_requests(&self) -> Vec<Req> {
        std::mem::take(&mut *self.shared.requests.lock())
    }
}

/// The clone is not ready: readiness belongs to the instance that was polled.
impl<Req, Res, E> Clone for Strict<Req, Res, E> {
    fn clone(&self) -> Self {
        self.shared.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: Arc::clone(&self.shared),
            ready: false,
        }
    }
}

impl<Req, Res, E> Service<Req> for Strict<Req, Res, E> {
    type Response = Res;
    type Error = E;
    type Future = StrictFuture<Req, Res, E>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.shared.ready_polls.fetch_add(1, Ordering::SeqCst);
        let scripted = self.shared.readiness.lock().pop_front();
        self.ready = scripted.is_none();
        match scripted {
            Some(None) => Poll::Pending,
            Some(Some(error)) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been polled ready"
        );
        let number = self.shared.calls.fetch_add(1, Ordering::SeqCst);
        self.shared.requests.lock().push(request);
        let step = (self.shared.script)(number);
        assert!(!matches!(step, Step::PanicInCall), "scripted panic in call");
        self.shared.live.fetch_add(1, Ordering::SeqCst);
        StrictFuture {
            shared: Arc::clone(&self.shared),
            step: Some(step),
            alarm: Alarm::new(),
            _pinned: PhantomPinned,
        }
    }
}

/// The future of a [`Strict`] service.
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct StrictFuture<Req, Res, E> {
    shared: Arc<Inner<Req, Res, E>>,
    step: Option<Step<Res, E>>,
    #[pin]
    alarm: Alarm,
    _pinned: PhantomPinned,
}

impl<Req, Res, E> Future for StrictFuture<Req, Res, E> {
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.step.take().expect("polled after completion") {
            Step::Answer(result) => Poll::Ready(result),
            Step::After(time, result) => {
                if !this.alarm.is_armed() {
                    this.alarm.as_mut().arm(time, &Now::unread());
                }
                if this.alarm.poll(cx).is_ready() {
                    Poll::Ready(result)
                } else {
                    *this.step = Some(Step::After(time, result));
                    Poll::Pending
                }
            }
            Step::Hang => {
                *this.step = Some(Step::Hang);
                Poll::Pending
            }
            Step::Panic | Step::PanicInCall => panic!("scripted panic"),
        }
    }
}

#[pinned_drop]
impl<Req, Res, E> PinnedDrop for StrictFuture<Req, Res, E> {
    fn drop(self: Pin<&mut Self>) {
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<Req, Res, E> fmt::Debug for Strict<Req, Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strict")
            .field("calls", &self.calls())
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl<Req, Res, E> fmt::Debug for StrictFuture<Req, Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrictFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn ready(service: &mut Strict<(), (), &'static str>) -> Poll<Result<(), &'static str>> {
        service.poll_ready(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn readiness_follows_its_script_in_order() {
        let mut service: Strict<(), (), _> = Strict::new(|_| Step::Answer(Ok(())));
        service.pend_once();
        service.fail_ready_once("down");
        assert_eq!(ready(&mut service), Poll::Pending);
        assert_eq!(ready(&mut service), Poll::Ready(Err("down")));
        assert_eq!(ready(&mut service), Poll::Ready(Ok(())));
        let future = pin!(service.call(()));
        let polled = future.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(Ok(())));
    }

    #[test]
    #[should_panic(expected = "called without having been polled ready")]
    fn what_was_ready_and_is_pending_may_not_be_called() {
        let mut service: Strict<(), (), _> = Strict::new(|_| Step::Answer(Ok(())));
        assert_eq!(ready(&mut service), Poll::Ready(Ok(())));
        service.pend_once();
        assert_eq!(ready(&mut service), Poll::Pending);
        drop(service.call(()));
    }
}

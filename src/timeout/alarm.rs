//! A timer that costs nothing until it is armed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::task::unconstrained;
use tokio::time::Sleep;

use crate::clock::{Now, is_local, sleep_until};

/// A timer that is armed when it is first polled.
#[pin_project]
#[derive(Debug)]
pub(crate) struct Alarm {
    #[pin]
    sleep: Option<Sleep>,
    /// Armed with zero time. tokio's timer would still take up to a millisecond.
    due: bool,
}

impl Alarm {
    pub(crate) const fn new() -> Self {
        Self {
            sleep: None,
            due: false,
        }
    }

    pub(crate) const fn is_armed(&self) -> bool {
        self.due || self.sleep.is_some()
    }

    /// Arms the timer to fire `after` this time.
    pub(crate) fn arm(self: Pin<&mut Self>, after: Duration, now: &Now) {
        let mut this = self.project();
        *this.due = after.is_zero();
        let sleep = || sleep_until(now.moment().after(after));
        this.sleep.set((!after.is_zero()).then(sleep));
    }

    /// Whether the armed timer fires within a millisecond, the resolution of tokio's timers.
    pub(crate) fn is_due(&self) -> bool {
        let fires_now = |sleep: &Sleep| is_local(sleep.deadline(), Duration::from_millis(1));
        self.due || self.sleep.as_ref().is_some_and(fires_now)
    }

    /// Ready when the armed timer has fired; pending while it is not armed.
    ///
    /// Polled outside tokio's cooperative budget, because a busy inner future that has used up the budget must not delay its limit.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.sleep.as_pin_mut() {
            Some(sleep) => Pin::new(&mut unconstrained(sleep)).poll(cx),
            None if *this.due => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

//! How long a body may take.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::clock::{Moment, Now};
use crate::deadline::{Deadline, Entered};
use crate::error::{Reason, Rejected};
use crate::event::{Event, emit};
use crate::outcome::Executed;
use crate::timeout::{Alarm, Limit, duration};

/// The limits of one body.
#[derive(Debug)]
pub(super) struct Limits {
    layer: Arc<Limit>,
    /// The longest time between two frames when the body began, in nanoseconds.
    idle: u64,
    deadline: Option<Deadline>,
    /// When the caller began to wait for the next frame; `None` while it does not.
    since: Option<Moment>,
}

/// The timer of a body, boxed when a frame is first awaited: most of a body's bytes would be room for it.
pub(super) type BodyAlarm = Option<Pin<Box<Alarm>>>;

impl Limits {
    /// Those of a body that begins now.
    pub(super) fn new(layer: &Arc<Limit>) -> Self {
        Self {
            layer: Arc::clone(layer),
            idle: layer.nanos(),
            deadline: Deadline::current(),
            since: None,
        }
    }

    /// The scope of the call's deadline: producing the next frame is still part of the call.
    pub(super) fn enter(&self) -> Option<Entered> {
        self.deadline.map(Deadline::enter)
    }

    /// Whether the deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline.is_over(&Now::unread()))
    }

    /// A frame or the end of the body has arrived.
    pub(super) const fn progressed(&mut self) {
        self.since = None;
    }

    /// Whether the caller waits for the next frame.
    pub(super) const fn is_awaited(&self) -> bool {
        self.since.is_some()
    }

    /// How long the caller has waited for the next frame; `None` while it does not.
    pub(super) fn waited(&self, now: &Now) -> Option<Duration> {
        self.since.map(|since| now.moment().since(since))
    }

    /// Waits for the next frame: ready when the first limit has passed.
    ///
    /// The timer stays armed from frame to frame and is extended when it fires too early, which most bodies never see.
    pub(super) fn poll(&mut self, alarm: &mut BodyAlarm, cx: &mut Context<'_>) -> Poll<()> {
        let mut now = Now::unread();
        let since = *self.since.get_or_insert_with(|| now.moment());
        let until = self.deadline().min(self.idle_until(since));
        if until == Moment::FAR {
            return Poll::Pending;
        }
        let alarm = alarm.get_or_insert_with(|| Box::pin(Alarm::new()));
        loop {
            if alarm.is_armed() {
                ready!(alarm.as_mut().poll(cx));
                now = Now::unread();
            }
            let left = until.since(now.moment());
            if left.is_zero() {
                return Poll::Ready(());
            }
            alarm.as_mut().arm(left, &now);
        }
    }

    fn deadline(&self) -> Moment {
        self.deadline.map_or(Moment::FAR, Deadline::moment)
    }

    /// When the idle limit passes of a caller who has waited `since` then.
    const fn idle_until(&self, since: Moment) -> Moment {
        match self.idle {
            u64::MAX => Moment::FAR,
            idle => since.after(Duration::from_nanos(idle)),
        }
    }

    /// The rejection for the limit that has passed.
    pub(super) fn passed(&self) -> Rejected {
        let idle = self
            .since
            .map_or(Moment::FAR, |since| self.idle_until(since));
        if self.deadline() <= idle {
            self.late()
        } else {
            let limit = duration(self.idle);
            self.rejected(Reason::BodyIdle { limit })
        }
    }

    /// The deadline has passed.
    pub(super) fn late(&self) -> Rejected {
        self.rejected(Reason::Deadline)
    }

    fn rejected(&self, reason: Reason) -> Rejected {
        let source = self.layer.source();
        let rejected = Rejected::new(reason, Arc::clone(source.name())).executed(Executed::Maybe);
        emit(&Event::Rejected {
            source,
            rejected: &rejected,
        });
        rejected
    }
}

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
    wakes_for_deadline: bool,
    /// When the first of them passes; `None` until the body is waited for.
    until: Option<Moment>,
}

impl Limits {
    /// Those of a body that begins now.
    pub(super) fn new(layer: &Arc<Limit>) -> Self {
        Self {
            layer: Arc::clone(layer),
            idle: layer.nanos(),
            deadline: Deadline::current(),
            wakes_for_deadline: false,
            until: None,
        }
    }

    /// The scope of the call's deadline: what a body does for its next frame is still the call's work.
    pub(super) fn enter(&self) -> Option<Entered> {
        self.deadline.map(Deadline::enter)
    }

    /// Whether the deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline.is_over(&Now::unread()))
    }

    /// A frame has come, or the end.
    pub(super) const fn moved(&mut self) {
        self.until = None;
    }

    /// Nothing has come yet: ready when the first of them has passed.
    ///
    /// The timer stays armed from frame to frame, and is set on when it goes off too early: for most bodies it never does.
    pub(super) fn poll(&mut self, mut alarm: Pin<&mut Alarm>, cx: &mut Context<'_>) -> Poll<()> {
        let mut now = Now::unread();
        let until = self.until(&now);
        if until == Moment::FAR {
            return Poll::Pending;
        }
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

    /// When the first of them passes, if nothing comes.
    fn until(&mut self, now: &Now) -> Moment {
        if let Some(until) = self.until {
            return until;
        }
        let deadline = self.deadline.map_or(Moment::FAR, Deadline::moment);
        let idle = match self.idle {
            u64::MAX => Moment::FAR,
            idle => now.moment().after(Duration::from_nanos(idle)),
        };
        self.wakes_for_deadline = deadline <= idle;
        *self.until.insert(deadline.min(idle))
    }

    /// That time has passed.
    pub(super) fn passed(&self) -> Rejected {
        if self.wakes_for_deadline {
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

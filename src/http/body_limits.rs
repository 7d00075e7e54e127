//! How long a body may take.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::deadline::Deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, emit};
use crate::outcome::Executed;
use crate::timeout::{Limit, duration};

/// The limits of one body.
#[derive(Debug)]
pub(super) struct Limits {
    layer: Arc<Limit>,
    /// The longest time between two frames when the body began, in nanoseconds.
    idle: u64,
    deadline: Option<Deadline>,
    wakes_for_deadline: bool,
}

impl Limits {
    /// Those of a body that begins now.
    pub(super) fn new(layer: &Arc<Limit>) -> Self {
        Self {
            layer: Arc::clone(layer),
            idle: layer.nanos(),
            deadline: Deadline::current(),
            wakes_for_deadline: false,
        }
    }

    /// The time until the first of them passes, if nothing comes; `Duration::MAX` if there are none.
    pub(super) fn first(&mut self, now: &Now) -> Duration {
        let left = self
            .deadline
            .map_or(Duration::MAX, |deadline| deadline.remaining(now));
        let idle = duration(self.idle);
        self.wakes_for_deadline = left <= idle;
        left.min(idle)
    }

    /// That time has passed.
    pub(super) fn passed(&self) -> Rejected {
        let reason = if self.wakes_for_deadline {
            Reason::Deadline
        } else {
            Reason::BodyIdle {
                limit: duration(self.idle),
            }
        };
        let source = self.layer.source();
        let rejected = Rejected::new(reason, Arc::clone(source.name())).executed(Executed::Maybe);
        emit(&Event::Rejected {
            source,
            rejected: &rejected,
        });
        rejected
    }
}

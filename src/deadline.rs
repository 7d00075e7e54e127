//! The deadline of a call, carried with the task.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use crate::clock::{Moment, Now};
use crate::scoped::{Context, Scoped};

thread_local! {
    /// A thread-local that is set around every poll, which is cheaper than a tokio task-local.
    static CURRENT: Cell<Moment> = const { Cell::new(Moment::FAR) };
}

/// The instant by which a call must have completed.
///
/// It is carried with the task: everything polled inside a [`DeadlineLayer`](crate::timeout::DeadlineLayer) or a
/// [`Deadline::scope`] sees it. Of nested deadlines, the earliest applies. A deadline does not cross `tokio::spawn` by itself; use
/// [`scope`](Deadline::scope) to pass it on.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(2));
/// deadline.scope(async {
///     let mine = Deadline::current().expect("inside the scope");
///     // Pass it to a new task:
///     tokio::spawn(mine.scope(async { assert!(Deadline::current().is_some()) })).await.unwrap();
/// }).await;
/// assert!(Deadline::current().is_none());
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Moment);

impl Deadline {
    /// The deadline `time` from now. `Duration::MAX` is no limit.
    pub fn after(time: Duration) -> Self {
        Self(Now::unread().moment().after(time))
    }

    /// The deadline at this moment.
    pub const fn at(moment: Moment) -> Self {
        Self(moment)
    }

    /// The deadline of the task that is being polled, if it has one.
    pub fn current() -> Option<Self> {
        let moment = CURRENT.get();
        (moment != Moment::FAR).then_some(Self(moment))
    }

    /// The moment of this deadline.
    pub const fn moment(self) -> Moment {
        self.0
    }

    /// The time left; zero if the deadline has passed.
    pub fn remaining(self, now: &Now) -> Duration {
        if self.0 == Moment::FAR {
            return Duration::MAX;
        }
        self.0.since(now.moment())
    }

    /// Whether the deadline has passed.
    pub fn is_over(self, now: &Now) -> bool {
        self.0 != Moment::FAR && now.moment() >= self.0
    }

    /// Whether the deadline in force passes within a millisecond, the resolution of tokio's timers. A client or server that knows
    /// the deadline may give up that much earlier.
    pub(crate) fn is_current_due() -> bool {
        let left = Self::current().map(|deadline| deadline.remaining(&Now::unread()));
        left.is_some_and(|left| left <= Duration::from_millis(1))
    }

    /// A future inside which this deadline is in force. It does not end the future at the deadline; a
    /// [`DeadlineLayer`](crate::timeout::DeadlineLayer) does.
    pub fn scope<F: Future>(self, future: F) -> Scoped<Self, F> {
        Scoped::new(self, future)
    }

    /// Sets this deadline for the calling thread until the guard is dropped, unless an earlier one is set.
    #[inline]
    pub(crate) fn enter(self) -> Entered {
        let before = CURRENT.get();
        CURRENT.set(before.min(self.0));
        Entered { before }
    }
}

impl Context for Deadline {
    fn enter(&self) -> impl Sized {
        Self::enter(*self)
    }
}

#[cfg(feature = "http")]
pub(crate) type DeadlineScope<F> = Scoped<Deadline, F>;

/// Restores the previous deadline, even when a poll panics.
pub(crate) struct Entered {
    before: Moment,
}

impl Entered {
    /// Whether the previous deadline has passed. Reads the clock only if that deadline is earlier than `own`.
    pub(crate) fn is_over_before(&self, own: Deadline) -> bool {
        self.before < own.0 && Deadline(self.before).is_over(&Now::unread())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nested_deadlines_the_earliest_applies() {
        let early = Deadline::at(Moment::from_nanos(10));
        let late = Deadline::at(Moment::from_nanos(20));
        {
            let _outer = early.enter();
            let _inner = late.enter();
            assert_eq!(Deadline::current(), Some(early));
        }
        assert_eq!(Deadline::current(), None);
    }

    #[test]
    fn a_destructor_inside_a_scope_sees_the_deadline() {
        struct Looks(std::rc::Rc<Cell<bool>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                self.0.set(Deadline::current().is_some());
            }
        }
        let seen = std::rc::Rc::new(Cell::new(false));
        let looks = Looks(seen.clone());
        drop(Deadline::at(Moment::START).scope(async move {
            let _looks = looks;
        }));
        assert!(seen.get());
    }

    #[test]
    fn the_longest_duration_is_no_limit() {
        let never = Deadline::after(Duration::MAX);
        assert!(!never.is_over(&Now::at(Moment::FAR)));
        assert_eq!(never.remaining(&Now::unread()), Duration::MAX);
    }
}

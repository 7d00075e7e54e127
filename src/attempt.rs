//! The attempt in progress, visible to inner layers, and the marks that they report back.

use std::cell::Cell;
use std::ops::BitOrAssign;

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Call::new(1, true).scope()) };
}

/// The attempt in progress. It is carried with the task, like the deadline.
///
/// ```
/// use buttress::{AttemptReason, Call};
///
/// let call = Call::current();
/// assert_eq!(call.attempt, 1, "outside any retry layer every call is a first attempt");
/// assert_eq!(call.reason, AttemptReason::First);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The number of this attempt, from 1. A free retry has the number of the attempt before it.
    pub attempt: u32,
    /// Whether all attempts are used up. Another one follows only if this one certainly is not executed.
    pub last: bool,
    /// The reason for the attempt.
    pub reason: AttemptReason,
    /// The number of free retries before this attempt.
    free: u8,
}

/// Why an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptReason {
    /// The first attempt.
    First,
    /// The previous attempt failed transiently.
    Transient,
    /// The service was overloaded, and the wait is over.
    Overloaded,
    /// The previous attempt certainly was not executed.
    NotExecuted,
    /// The outcome allowed a retry regardless of its kind.
    Allowed,
    /// A layer of this crate rejected the previous attempt, and the wait is over.
    Rejected,
}

impl AttemptReason {
    /// The reason as a label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Transient => "transient",
            Self::Overloaded => "overloaded",
            Self::NotExecuted => "not_executed",
            Self::Allowed => "allowed",
            Self::Rejected => "rejected",
        }
    }
}

impl Call {
    /// The attempt of the task that is being polled.
    pub fn current() -> Self {
        SCOPE.get().call
    }

    /// How many attempts were made before this one, counted or not: OpenTelemetry's `http.request.resend_count`.
    pub const fn resends(self) -> u32 {
        let counted = self.attempt.saturating_sub(1);
        counted.saturating_add(self.free as u32)
    }

    pub(crate) const fn new(attempt: u32, last: bool) -> Self {
        let reason = if attempt > 1 {
            AttemptReason::Transient
        } else {
            AttemptReason::First
        };
        Self {
            attempt,
            last,
            reason,
            free: 0,
        }
    }

    /// Sets the reason and the number of free retries.
    pub(crate) const fn because(mut self, reason: AttemptReason, free: u8) -> Self {
        self.reason = reason;
        self.free = free;
        self
    }

    /// The same attempt, not marked as the last.
    pub(crate) const fn not_last(mut self) -> Self {
        self.last = false;
        self
    }

    /// Whether this is a retry. The number alone does not show that, because a free retry has the number of the attempt before it.
    #[cfg(feature = "http")]
    pub(crate) fn is_retry(self) -> bool {
        self.reason != AttemptReason::First
    }

    /// Sets the attempt for this thread, and opens a scope for [`Marks`], until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> EnteredCall {
        self.scope().enter()
    }

    /// The scope of this attempt, which can be entered more than once.
    #[inline]
    pub(crate) const fn scope(self) -> Scope {
        Scope {
            call: self,
            marks: Marks(0),
        }
    }
}

/// A [`Call`], and the marks that its inner layers have set.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    call: Call,
    marks: Marks,
}

impl Scope {
    #[inline]
    pub(crate) fn enter(self) -> EnteredCall {
        EnteredCall {
            outer: SCOPE.replace(self),
        }
    }

    /// The scope of the same attempt, not marked as the last.
    pub(crate) const fn not_last(self) -> Self {
        self.call.not_last().scope()
    }
}

/// Restores the previous scope.
pub(crate) struct EnteredCall {
    outer: Scope,
}

impl EnteredCall {
    /// The marks set in this scope.
    #[expect(
        clippy::unused_self,
        reason = "the guard is the proof that the scope is open"
    )]
    #[inline]
    pub(crate) fn marks(&self) -> Marks {
        SCOPE.get().marks
    }

    /// Replaces the scope.
    #[expect(
        clippy::unused_self,
        reason = "the guard is the proof that the scope is open"
    )]
    #[inline]
    pub(crate) fn replace(&self, scope: Scope) {
        SCOPE.set(scope);
    }
}

impl Drop for EnteredCall {
    #[inline]
    fn drop(&mut self) {
        SCOPE.set(self.outer);
    }
}

/// Facts about an attempt that inner layers report.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    /// An inner retry layer has used up its attempts or its budget.
    pub(crate) const SPENT: Self = Self(1);
    /// The service may have acted on the call, even if the last result is "not executed".
    pub(crate) const ACTED: Self = Self(2);

    pub(crate) const fn spent_below(self) -> bool {
        self.0 & Self::SPENT.0 != 0
    }

    pub(crate) const fn acted(self) -> bool {
        self.0 & Self::ACTED.0 != 0
    }

    /// Reports the marks to the next outer retry layer.
    pub(crate) fn publish(self) {
        let mut scope = SCOPE.get();
        scope.marks |= self;
        SCOPE.set(scope);
    }
}

impl BitOrAssign for Marks {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reaches_the_next_scope_outwards_only() {
        let outermost = Call::new(1, false).enter();
        {
            let outer = Call::new(1, false).enter();
            {
                let inner = Call::new(3, true).enter();
                assert_eq!(Call::current().attempt, 3);
                assert!(!inner.marks().spent_below());
            }
            Marks::SPENT.publish();
            assert!(outer.marks().spent_below() && !outer.marks().acted());
            Marks::ACTED.publish();
            assert!(outer.marks().spent_below() && outer.marks().acted());
        }
        assert!(!outermost.marks().spent_below());
        drop(outermost);
        assert_eq!(Call::current(), Call::new(1, true));
    }

    #[test]
    fn the_number_of_resends_does_not_overflow() {
        assert_eq!(Call::new(0, true).resends(), 0);
        let max = Call::new(u32::MAX, true).because(AttemptReason::Transient, 1);
        assert_eq!(max.resends(), u32::MAX);
    }
}

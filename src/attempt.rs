//! What a retry layer tells those inside it about the attempt under way, and they it.

use std::cell::Cell;
use std::ops::BitOrAssign;

use crate::outcome::{Executed, Kind, Outcome};

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::of(Call::new(1, true))) };
}

/// The attempt that is being made: carried with the task, like the deadline.
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
    /// The number of this attempt, from 1. A free repetition of what was not executed has the number of what it repeats.
    pub attempt: u32,
    /// Whether all attempts are used up: a further one is made only if this one is certainly not executed.
    pub last: bool,
    /// Why it is made.
    pub reason: AttemptReason,
    /// How many attempts before it were repeated without being counted.
    free: u8,
}

/// Why an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptReason {
    /// It is the first.
    First,
    /// The attempt before it failed in a way that may pass.
    Transient,
    /// The service was limiting, and the wait is over.
    Overloaded,
    /// The attempt before it was certainly not executed.
    NotExecuted,
    /// The server has allowed it, or what is under way there may be asked for again.
    Allowed,
    /// A layer of ours refused the attempt before it, and the wait is over.
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

    /// Why another attempt follows one that came to this.
    pub(crate) const fn after(outcome: &Outcome) -> Self {
        match (outcome.executed, outcome.kind) {
            (Executed::No, _) => Self::NotExecuted,
            (_, Kind::Transient) => Self::Transient,
            (_, Kind::Overloaded) => Self::Overloaded,
            _ => Self::Allowed,
        }
    }

    const fn of_bits(bits: u64) -> Self {
        match bits {
            0 => Self::First,
            1 => Self::Transient,
            2 => Self::Overloaded,
            3 => Self::NotExecuted,
            4 => Self::Allowed,
            _ => Self::Rejected,
        }
    }
}

impl Call {
    /// The attempt that the task being polled makes.
    pub fn current() -> Self {
        SCOPE.get().call()
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

    /// The same, made for this reason; `free`: how many there were that were not counted, 15 at most.
    pub(crate) const fn because(mut self, reason: AttemptReason, free: u8) -> Self {
        self.reason = reason;
        self.free = free;
        self
    }

    /// The same, which perhaps is not the last.
    pub(crate) const fn not_last(mut self) -> Self {
        self.last = false;
        self
    }

    /// Whether it repeats another attempt. The repeat of what was not executed does not count, so the number does not tell.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "what is repeated only once comes with HTTP")
    )]
    pub(crate) fn is_repeat(self) -> bool {
        self.reason != AttemptReason::First
    }

    /// Sets the attempt for this thread, and opens a scope for [`Marks`], until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> EnteredCall {
        self.scope().enter()
    }

    /// The same, ready to be entered more than once.
    #[inline]
    pub(crate) const fn scope(self) -> Scope {
        Scope::of(self)
    }
}

/// A [`Call`], and whether a retry layer below has given up on it: one word, because what is written in parts and soon read
/// as a whole waits for the parts.
#[derive(Clone, Copy)]
pub(crate) struct Scope(u64);

impl Scope {
    const LAST: u64 = 1 << 32;
    const SPENT: u64 = 1 << 33;
    const ACTED: u64 = 1 << 35;
    /// Four bits: how many attempts were not counted.
    const FREE: u32 = 36;
    /// The reason begins here.
    const REASON: u32 = 56;

    #[inline]
    pub(crate) fn enter(self) -> EnteredCall {
        EnteredCall {
            outer: SCOPE.replace(self),
        }
    }

    /// That of the same attempt, which perhaps is not the last.
    pub(crate) const fn not_last(self) -> Self {
        Self(self.0 & !Self::LAST)
    }

    const fn of(call: Call) -> Self {
        let last = if call.last { Self::LAST } else { 0 };
        let free = (call.free as u64 & 15) << Self::FREE;
        let reason = (call.reason as u64) << Self::REASON;
        Self(call.attempt as u64 | last | free | reason)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the attempt is the lower half"
    )]
    const fn call(self) -> Call {
        Call {
            attempt: self.0 as u32,
            last: self.0 & Self::LAST != 0,
            reason: AttemptReason::of_bits(self.0 >> Self::REASON),
            free: (self.0 >> Self::FREE) as u8 & 15,
        }
    }
}

/// Puts back what was in force before.
pub(crate) struct EnteredCall {
    outer: Scope,
}

impl EnteredCall {
    /// What was said in this scope.
    #[expect(
        clippy::unused_self,
        reason = "the guard is the proof that the scope is open"
    )]
    #[inline]
    pub(crate) fn marks(&self) -> Marks {
        Marks(SCOPE.get().0 & Marks::ALL)
    }

    /// The scope goes on as another one, with no marks.
    #[expect(
        clippy::unused_self,
        reason = "the guard is the proof that the scope is open"
    )]
    #[inline]
    pub(crate) fn go_on(&self, scope: Scope) {
        SCOPE.set(scope);
    }
}

impl Drop for EnteredCall {
    #[inline]
    fn drop(&mut self) {
        SCOPE.set(self.outer);
    }
}

/// What those inside an attempt have said of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks(u64);

impl Marks {
    /// A retry layer below has spent its attempts or its budget.
    pub(crate) const SPENT: Self = Self(Scope::SPENT);
    /// The service may have acted on the call, whatever its last result says.
    pub(crate) const ACTED: Self = Self(Scope::ACTED);
    const ALL: u64 = Scope::SPENT | Scope::ACTED;

    pub(crate) const fn spent_below(self) -> bool {
        self.0 & Scope::SPENT != 0
    }

    pub(crate) const fn acted(self) -> bool {
        self.0 & Scope::ACTED != 0
    }

    /// Tells the next retry layer outwards.
    pub(crate) fn tell(self) {
        SCOPE.set(Scope(SCOPE.get().0 | self.0));
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
            Marks::SPENT.tell();
            assert!(outer.marks().spent_below() && !outer.marks().acted());
            Marks::ACTED.tell();
            assert!(outer.marks().spent_below() && outer.marks().acted());
        }
        assert!(!outermost.marks().spent_below());
        drop(outermost);
        assert_eq!(Call::current(), Call::new(1, true));
    }

    #[test]
    fn a_call_is_the_same_after_it_was_packed_into_a_word() {
        let reasons = [
            AttemptReason::First,
            AttemptReason::Transient,
            AttemptReason::Overloaded,
            AttemptReason::NotExecuted,
            AttemptReason::Allowed,
            AttemptReason::Rejected,
        ];
        for reason in reasons {
            for (attempt, last, free) in [(1, true, 0), (2, false, 1), (u32::MAX, true, 12)] {
                let call = Call::new(attempt, last).because(reason, free);
                let _entered = call.enter();
                Marks::SPENT.tell();
                assert_eq!(Call::current(), call);
            }
        }
        assert_eq!(Call::new(0, true).resends(), 0);
        let most = Call::new(u32::MAX, true).because(AttemptReason::Transient, 1);
        assert_eq!(most.resends(), u32::MAX);
    }
}

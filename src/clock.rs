//! The clock, which is tokio's: `tokio::time::pause` and `advance` drive every layer.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the module that may read the clock"
)]

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Sleep;

/// A point in time, in nanoseconds since some moment before this process read the clock for the first time.
///
/// Moments only compare with moments of the same process. Arithmetic saturates: [`Moment::FAR`] is later than
/// anything that happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The earliest moment.
    pub const START: Self = Self(0);
    /// A moment that never comes, some 584 years on.
    pub const FAR: Self = Self(u64::MAX);

    /// The moment this many nanoseconds after [`Moment::START`].
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since [`Moment::START`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This moment, `by` later; [`Moment::FAR`] at most.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// `duration` in nanoseconds, at most `u64::MAX`.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "compared with the maximum above"
        )]
        {
            nanos as u64
        }
    }
}

/// The time of one call or one poll: read at most once, and only when it is needed.
///
/// Reading a clock costs more than everything else in a gate, and a closed circuit does not need it.
#[derive(Clone, Debug, Default)]
pub struct Now {
    read: Cell<Option<Moment>>,
}

impl Now {
    /// A time that is read at the first use.
    pub const fn unread() -> Self {
        Self {
            read: Cell::new(None),
        }
    }

    /// A time that is already known: for machines' tests and for simulations.
    pub const fn at(moment: Moment) -> Self {
        Self {
            read: Cell::new(Some(moment)),
        }
    }

    /// The time. All later calls return the same one.
    #[inline]
    pub fn moment(&self) -> Moment {
        if let Some(moment) = self.read.get() {
            return moment;
        }
        let moment = read();
        self.read.set(Some(moment));
        moment
    }
}

/// Whether there is no more than `time` until `then`.
pub(crate) fn is_local(then: tokio::time::Instant, time: Duration) -> bool {
    then.saturating_duration_since(tokio::time::Instant::now()) <= time
}

/// The wall clock, for dates that a server sent.
#[cfg_attr(
    not(feature = "http"),
    expect(dead_code, reason = "dates come with HTTP")
)]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The origin of all moments: a real instant, not tokio's, and an hour back. A paused clock may show any time after
/// the start of its runtime, and another one may have been advanced by days before the first use.
fn anchor() -> Instant {
    static ANCHOR: OnceLock<Instant> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        let now = Instant::now();
        now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
    })
}

/// A timer that goes off at this moment. Unlike one that goes off after some time, it need not read the clock.
pub(crate) fn sleep_until(moment: Moment) -> Sleep {
    let instant = anchor().checked_add(Duration::from_nanos(moment.0));
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()),
        None => tokio::time::sleep(Duration::MAX),
    }
}

// Not inlined: callers that need no time would save registers for it.
#[inline(never)]
fn read() -> Moment {
    let now = tokio::time::Instant::now().into_std();
    let passed = now.saturating_duration_since(anchor());
    // Not `nanos`: 128 bits take longer, and this is most of the cost of a call that needs the time.
    let seconds = passed.as_secs().saturating_mul(1_000_000_000);
    Moment(seconds.saturating_add(u64::from(passed.subsec_nanos())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate() {
        assert_eq!(Moment::FAR.after(Duration::MAX), Moment::FAR);
        assert_eq!(Moment::START.after(Duration::MAX), Moment::FAR);
        assert_eq!(Moment::START.since(Moment::FAR), Duration::ZERO);
    }

    #[test]
    fn now_is_read_once() {
        let now = Now::unread();
        let first = now.moment();
        std::thread::yield_now();
        assert_eq!(now.moment(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn the_paused_clock_drives_it() {
        let before = Now::unread().moment();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(Now::unread().moment().since(before), Duration::from_secs(7));
    }
}

//! How many requests that never reached the server may be retried for free.
//!
//! A server that restarts closes its connections, and the requests on their way to it come back unprocessed. That is no
//! failure, and the requests are retried at once. The allowance bounds these retries, in case a server closes or refuses
//! everything. [`Unprocessed`] names the two kinds and their numbers.

use crate::outcome::Unprocessed;
use crate::sync::{AtomicU64, Ordering};

/// How many requests may find their connection closing: as many as a busy client has under way when a server restarts.
const CLOSING: u32 = 100;
/// How many of them a successful call restores.
const CLOSING_RESTORED: u32 = 4;
/// How many streams may be refused.
const REFUSED: u32 = 10;
/// How many successful calls restore one refused stream: free retries add at most a tenth to the load.
const CALLS_PER_REFUSED: u32 = 10;

/// What is left of both allowances. Zero bits mean that both are full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests on closing connections that were taken and not restored.
    closing: u8,
    /// Refused streams that were taken and not restored.
    refused: u8,
    /// Successful calls since a refused stream was last restored.
    calls: u8,
}

impl Allowance {
    pub(crate) const fn is_full(self) -> bool {
        self.closing == 0 && self.refused == 0
    }

    /// Takes one unit for a request that came back unprocessed; `false` if there is none left.
    pub(crate) const fn take(&mut self, how: Unprocessed) -> bool {
        let (taken, limit) = match how {
            Unprocessed::ConnectionClosing => (&mut self.closing, CLOSING),
            Unprocessed::StreamRefused => (&mut self.refused, REFUSED),
        };
        if *taken as u32 >= limit {
            return false;
        }
        *taken += 1;
        true
    }

    /// Restores units for `n` successful calls.
    pub(crate) fn restore(&mut self, n: u64) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let restored = n.saturating_mul(CLOSING_RESTORED);
        self.closing = less(self.closing, restored);
        let calls = u32::from(self.calls).saturating_add(n);
        self.refused = less(self.refused, calls / CALLS_PER_REFUSED);
        self.calls = if self.refused == 0 {
            0
        } else {
            less_than_ten(calls)
        };
    }

    const fn bits(self) -> u64 {
        u64::from_le_bytes([self.closing, self.refused, self.calls, 0, 0, 0, 0, 0])
    }

    const fn from_bits(bits: u64) -> Self {
        let [closing, refused, calls, ..] = bits.to_le_bytes();
        Self {
            closing,
            refused,
            calls,
        }
    }
}

fn less(taken: u8, restored: u32) -> u8 {
    taken.saturating_sub(u8::try_from(restored).unwrap_or(u8::MAX))
}

const fn less_than_ten(calls: u32) -> u8 {
    (calls % CALLS_PER_REFUSED) as u8
}

/// An [`Allowance`] that is shared without a lock.
#[derive(Debug)]
pub(crate) struct SharedAllowance(AtomicU64);

impl SharedAllowance {
    pub(crate) fn full() -> Self {
        Self(AtomicU64::new(Allowance::default().bits()))
    }

    /// Leaves nothing for refused streams, which cost a server work. Requests on closing connections cost it nothing.
    pub(crate) fn without_refused(&self) {
        self.update(|allowance| while allowance.take(Unprocessed::StreamRefused) {});
    }

    /// Takes one unit for a request that came back unprocessed; `false` if there is none left.
    pub(crate) fn take(&self, how: Unprocessed) -> bool {
        self.update(|allowance| allowance.take(how))
    }

    /// A full allowance is only read, so that cores do not contend for it.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Restores units for a successful call.
    #[inline(always)]
    pub(crate) fn restore(&self) {
        if !self.is_full() {
            self.restore_one();
        }
    }

    #[cold]
    fn restore_one(&self) {
        self.update(|allowance| allowance.restore(1));
    }

    fn update<T>(&self, mut change: impl FnMut(&mut Allowance) -> T) -> T {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let mut allowance = Allowance::from_bits(seen);
            let result = change(&mut allowance);
            match self.0.compare_exchange_weak(
                seen,
                allowance.bits(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return result,
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use Unprocessed::{ConnectionClosing, StreamRefused};

    #[test]
    fn the_allowances_are_independent_and_bounded() {
        let mut allowance = Allowance::default();
        let taken = (0..200)
            .filter(|_| allowance.take(ConnectionClosing))
            .count();
        assert_eq!(taken, 100);
        let taken = (0..200).filter(|_| allowance.take(StreamRefused)).count();
        assert_eq!(taken, 10);
        allowance.restore(1);
        let taken = (0..200)
            .filter(|_| allowance.take(ConnectionClosing))
            .count();
        assert_eq!(taken, 4);
        assert!(!allowance.take(StreamRefused));
        allowance.restore(9);
        let taken = (0..200).filter(|_| allowance.take(StreamRefused)).count();
        assert_eq!(taken, 1, "the tenth success restores one");
        assert!(!allowance.is_full());
        allowance.restore(u64::MAX);
        assert_eq!(allowance, Allowance::default());
    }

    #[test]
    fn many_successes_restore_as_much_as_the_same_one_by_one() {
        let mut at_once = Allowance::default();
        while at_once.take(ConnectionClosing) | at_once.take(StreamRefused) {}
        let mut one_by_one = at_once;
        for n in [0, 1, 7, 3, 12, 40, 1, 60] {
            at_once.restore(n);
            (0..n).for_each(|_| one_by_one.restore(1));
            assert_eq!(at_once, one_by_one);
        }
        assert!(at_once.is_full());
    }

    #[test]
    fn a_shared_allowance_never_grants_more_than_it_has() {
        let shared = SharedAllowance::full();
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..60).filter(|_| shared.take(ConnectionClosing)).count()))
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(granted, 100);
        (0..25).for_each(|_| shared.restore());
        assert_eq!(shared.0.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn free_retries_add_at_most_a_tenth_whatever_share_is_refused(
            refused in proptest::collection::vec(any::<bool>(), 1..4000),
        ) {
            let mut allowance = Allowance::default();
            let mut free = 0;
            let mut successes = 0;
            for refused in refused {
                if refused {
                    free += usize::from(allowance.take(StreamRefused));
                } else {
                    successes += 1;
                    allowance.restore(1);
                }
                prop_assert!(free <= 10 + successes / 10);
                prop_assert_eq!(Allowance::from_bits(allowance.bits()), allowance);
            }
        }
    }
}

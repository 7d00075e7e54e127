//! Random draws. Machines get a [`Draw`] as an argument and never draw themselves.

use std::cell::RefCell;
use std::time::Duration;

use rand::Rng;
#[cfg(any(test, feature = "test-util"))]
use rand::SeedableRng;
use rand::rngs::{StdRng, ThreadRng};

use crate::clock::nanos;

/// One random draw, uniform over all 64-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw(u64);

impl Draw {
    /// The draw with this value: for tests of machines. `0` is the lowest draw, `u64::MAX` the highest.
    pub(crate) const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The draw that scales to `part` of any range: `0.0` the lower end, `1.0` (just below) the upper one.
    #[must_use]
    pub(crate) fn part(part: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a float cast saturates, as intended"
        )]
        Self((part.clamp(0.0, 1.0) * u64::MAX as f64) as u64)
    }

    /// All of its 64 bits.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// A whole number in `[0, bound)`; 0 if `bound` is 0.
    pub(crate) const fn below(self, bound: u64) -> u64 {
        // Lemire's multiply-shift; its bias is below bound/2^64.
        ((self.0 as u128 * bound as u128) >> 64) as u64
    }

    /// `duration`, changed by up to `part` of itself in either direction: `[d − part·d, d + part·d]`.
    #[must_use]
    pub(crate) fn spread(self, duration: Duration, part: f64) -> Duration {
        if part <= 0.0 {
            return duration;
        }
        let whole = nanos(duration);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a float cast saturates, and a nanosecond in 2^53 does not matter"
        )]
        let reach = (whole as f64 * part.min(1.0)) as u64;
        let low = whole.saturating_sub(reach);
        Duration::from_nanos(
            low.saturating_add(self.below(reach.saturating_mul(2).saturating_add(1))),
        )
    }

    /// Whether an event of this probability happens. `0.0` never does, `1.0` always.
    pub(crate) fn happens(self, probability: f64) -> bool {
        if probability >= 1.0 {
            return true;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "the 53 upper bits are enough for a probability"
        )]
        let unit = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        unit < probability
    }
}

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    static OWN: RefCell<ThreadRng> = RefCell::new(rand::rng());
}

/// Used while a thread ends: its generator may be gone before a permit that still draws is dropped.
const WITHOUT_GENERATOR: Draw = Draw(u64::MAX / 2);

/// Draws: from this thread's generator, or from the seeded one of a test.
pub(crate) fn draw() -> Draw {
    let seeded = SEEDED.try_with(|rng| rng.borrow_mut().as_mut().map(Rng::next_u64));
    match seeded {
        Ok(Some(bits)) => Draw(bits),
        _ => OWN
            .try_with(|rng| Draw(rng.borrow_mut().next_u64()))
            .unwrap_or(WITHOUT_GENERATOR),
    }
}

/// A draw that no seed determines: a test against a persistent server must not find the data of an earlier run.
#[cfg(all(feature = "idempotency", feature = "test-util"))]
pub(crate) fn unseeded() -> Draw {
    Draw(rand::rng().next_u64())
}

/// Seeds the generator of this thread: jitter, shares and keys become reproducible.
#[cfg(any(test, feature = "test-util"))]
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_ranges() {
        for draw in [Draw::new(0), Draw::new(u64::MAX), Draw::part(0.5)] {
            assert!(draw.below(10) < 10);
            assert_eq!(draw.below(0), 0);
            let spread = draw.spread(Duration::from_secs(10), 0.2);
            assert!((8..=12).contains(&spread.as_secs()), "{spread:?}");
            let _ = draw.spread(Duration::MAX, 1.0);
        }
        assert_eq!(
            Draw::new(0).spread(Duration::from_secs(10), 0.2),
            Duration::from_secs(8)
        );
        assert!(Draw::new(u64::MAX).happens(1.0));
        assert!(!Draw::new(0).happens(0.0));
    }

    #[test]
    fn a_seed_makes_draws_reproducible() {
        seed(7);
        let first = [draw(), draw()];
        seed(7);
        assert_eq!([draw(), draw()], first);
        SEEDED.set(None);
        assert_ne!([draw(), draw()], first);
    }

    #[test]
    fn a_value_dropped_at_the_end_of_its_thread_may_draw() {
        // As a permit does that a thread holds to its end. What a thread touched last is destroyed first.
        struct Draws;
        impl Drop for Draws {
            fn drop(&mut self) {
                draw();
            }
        }
        thread_local! {
            static HELD: RefCell<Option<Draws>> = const { RefCell::new(None) };
        }
        let thread = std::thread::spawn(|| {
            HELD.set(None);
            draw();
            HELD.set(Some(Draws));
        });
        thread.join().expect("no panic");
    }
}

//! The faults that the network applies to a request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One request's way there and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    /// It never arrives.
    Lost,
    /// It arrives, but its response is lost: the payment is executed and the client does not know.
    ResponseLost,
    /// It arrives when its client has given up.
    Late(Duration),
    /// Its response arrives when its client has given up.
    ResponseLate(Duration),
    /// It arrives twice concurrently, and the client gets the first response.
    Twice,
    /// It arrives again after its call has ended.
    Again(Duration),
}

/// The fates of all requests. Each order has its own sequence, independent of the others.
#[derive(Debug)]
pub(crate) struct Fates {
    seed: u64,
    /// Longer than a client waits for one response.
    late: Duration,
    orders: Mutex<HashMap<u32, StdRng>>,
}

impl Fates {
    pub(crate) fn new(seed: u64, late: Duration) -> Self {
        Self {
            seed,
            late,
            orders: Mutex::default(),
        }
    }

    /// The fate of the next request for this order.
    pub(crate) fn next(&self, order: u32) -> Fate {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let own = || StdRng::seed_from_u64(self.seed ^ (u64::from(order) << 32));
        self.draw(orders.entry(order).or_insert_with(own))
    }

    fn draw(&self, random: &mut StdRng) -> Fate {
        let late = self.late.mul_f64(random.random_range(1.0..1.5));
        match random.random_range(0..100) {
            0..8 => Fate::Lost,
            8..20 => Fate::ResponseLost,
            20..26 => Fate::Late(late),
            26..30 => Fate::ResponseLate(late),
            30..42 => Fate::Twice,
            42..48 => Fate::Again(late),
            _ => Fate::Delivered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(100);

    #[test]
    fn an_order_has_the_same_fates_whatever_else_happens() {
        let (alone, among_others) = (Fates::new(7, LATE), Fates::new(7, LATE));
        for _ in 0..50 {
            among_others.next(1);
            assert_eq!(alone.next(2), among_others.next(2));
        }
    }

    #[test]
    fn orders_and_seeds_differ() {
        let first = |seed, order| {
            let fates = Fates::new(seed, LATE);
            (0..20).map(|_| fates.next(order)).collect::<Vec<_>>()
        };
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
    }

    #[test]
    fn what_is_late_is_late_for_its_client() {
        let fates = Fates::new(1, LATE);
        for order in 0..1000 {
            if let Fate::Late(by) | Fate::ResponseLate(by) | Fate::Again(by) = fates.next(order) {
                assert!(by >= LATE);
            }
        }
    }
}

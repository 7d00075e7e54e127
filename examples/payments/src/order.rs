//! An order to be paid.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) number: u32,
    pub(crate) cents: u64,
}

/// The request of a client.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Payment {
    pub(crate) cents: u64,
}

/// The response to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// Another one for each payment.
    pub(crate) number: i64,
    pub(crate) order: u32,
    pub(crate) cents: u64,
}

/// So many orders, for something between 1.00 and 200.00.
pub(crate) fn orders(count: u32, seed: u64) -> Vec<Order> {
    let mut random = StdRng::seed_from_u64(seed);
    let order = |number| Order {
        number,
        cents: random.random_range(100..=20_000),
    };
    (1..=count).map(order).collect()
}

impl Order {
    pub(crate) fn path(&self) -> String {
        format!("/orders/{}/payment", self.number)
    }
}

/// The order's number in its path.
pub(crate) fn of(path: &str) -> Option<u32> {
    let number = path.strip_prefix("/orders/")?.strip_suffix("/payment")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_order() {
        for order in orders(100, 1) {
            assert_eq!(of(&order.path()), Some(order.number));
        }
        for path in ["/", "/orders//payment", "/orders/1", "/orders/x/payment"] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}

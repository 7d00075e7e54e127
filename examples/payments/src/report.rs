//! The result: a table for people, JSON for programs.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::network::Traffic;
use crate::order::{Order, Receipt};

pub(crate) struct Report {
    pub(crate) store: &'static str,
    pub(crate) ignores_key: bool,
    pub(crate) orders: Vec<Order>,
    pub(crate) traffic: Traffic,
    /// The responses of the clients.
    pub(crate) receipts: Vec<Receipt>,
    /// The executed payments.
    pub(crate) payments: Vec<Receipt>,
}

#[derive(Serialize)]
struct Figures {
    store: &'static str,
    orders: usize,
    requests_sent: u64,
    replayed: u64,
    conflicts: u64,
    executed: usize,
}

impl Report {
    pub(crate) fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Figures {
            store: self.store,
            orders: self.orders.len(),
            requests_sent: self.traffic.sent,
            replayed: self.traffic.replayed,
            conflicts: self.traffic.conflicts,
            executed: self.payments.len(),
        })
    }

    pub(crate) fn table(&self) -> String {
        let Traffic {
            sent,
            lost,
            copies,
            replayed,
            conflicts,
            failed,
        } = self.traffic;
        let mut table = Table::new();
        table
            .load_preset(UTF8_FULL_CONDENSED)
            .set_header(["", "count", "EUR"]);
        let mut row = |what: &str, count: u64, money: Option<u64>| {
            table.add_row([
                what.to_owned(),
                count.to_string(),
                money.map(euros).unwrap_or_default(),
            ]);
        };
        let orders = self.orders.iter().map(|order| order.cents).sum();
        let executed = self.payments.iter().map(|payment| payment.cents).sum();
        row("orders placed", count(&self.orders), Some(orders));
        row("requests sent", sent, None);
        row("  lost on the way", lost, None);
        row("  duplicated by the network", copies, None);
        row("requests that arrived", sent + copies - lost, None);
        row("  replayed responses", replayed, None);
        row("  refused, as one was under way (409)", conflicts, None);
        if failed > 0 {
            row("  failed (5xx)", failed, None);
        }
        row("payments executed", count(&self.payments), Some(executed));
        for column in 1..=2 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// A summary: success, or what went wrong.
    pub(crate) fn verdict(&self) -> Result<String, String> {
        let paid = self.paid();
        let (twice, too_many, too_much) = self.too_many(&paid);
        if self.ignores_key {
            return Ok(if twice == 0 {
                "Without the layer, and nothing was paid twice this time: try more --orders or another --seed.".into()
            } else {
                format!(
                    "Without the layer {twice} of {} orders were paid more than once: {too_many} payments and {} EUR too \
                     many.\nEach client did the right thing: it paid again what nobody had answered. Without \
                     --ignore-key, the same network and the same clients: each order is paid once.",
                    self.orders.len(),
                    euros(too_much)
                )
            });
        }
        let known: BTreeSet<_> = self.payments.iter().map(|p| (p.order, p.number)).collect();
        let mut wrong = Vec::new();
        if twice > 0 {
            wrong.push(format!(
                "{twice} orders were paid more than once: {too_many} payments and {} EUR too many",
                euros(too_much)
            ));
        }
        let unpaid = |order: &&Order| !paid.contains_key(&order.number);
        match self.orders.iter().filter(unpaid).count() {
            0 => {}
            never => wrong.push(format!("{never} orders were never paid")),
        }
        let unknown = |receipt: &&Receipt| !known.contains(&(receipt.order, receipt.number));
        match self.receipts.iter().filter(unknown).count() {
            0 => {}
            lies => wrong.push(format!("{lies} receipts are for no payment")),
        }
        let ordered: u64 = self.orders.iter().map(|order| order.cents).sum();
        let executed: u64 = self.payments.iter().map(|payment| payment.cents).sum();
        if wrong.is_empty() && (self.payments.len(), executed) != (self.orders.len(), ordered) {
            wrong.push("payments were executed that nobody has ordered".into());
        }
        if wrong.is_empty() {
            Ok("Every order was paid once.".into())
        } else {
            Err(format!("{}.", wrong.join("; ")))
        }
    }

    /// How many times each order was paid, and with how much in all.
    fn paid(&self) -> BTreeMap<u32, (usize, u64)> {
        let mut paid = BTreeMap::new();
        for payment in &self.payments {
            let (times, cents) = paid.entry(payment.order).or_insert((0, 0));
            *times += 1;
            *cents += payment.cents;
        }
        paid
    }

    /// The orders that were paid more than once, the payments too many, and the cents.
    fn too_many(&self, paid: &BTreeMap<u32, (usize, u64)>) -> (usize, usize, u64) {
        let mut all = (0, 0, 0);
        for order in &self.orders {
            if let Some((times @ 2.., cents)) = paid.get(&order.number) {
                all = (
                    all.0 + 1,
                    all.1 + times - 1,
                    all.2 + cents.saturating_sub(order.cents),
                );
            }
        }
        all
    }
}

fn count<T>(what: &[T]) -> u64 {
    u64::try_from(what.len()).unwrap_or(u64::MAX)
}

fn euros(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(number: i64, order: u32) -> Receipt {
        Receipt {
            number,
            order,
            cents: 250,
        }
    }

    fn verdict(ignores_key: bool, payments: &[(i64, u32)]) -> Result<String, String> {
        let order = |number| Order { number, cents: 250 };
        let report = Report {
            store: "memory",
            ignores_key,
            orders: vec![order(1), order(2)],
            traffic: Traffic::default(),
            receipts: vec![receipt(7, 1), receipt(8, 2)],
            payments: payments.iter().map(|(n, o)| receipt(*n, *o)).collect(),
        };
        report.verdict()
    }

    #[test]
    fn orders_paid_twice_or_never_are_reported() {
        assert!(verdict(false, &[(7, 1), (8, 2)]).is_ok());
        for (payments, message) in [
            (
                &[(7, 1), (8, 2), (9, 2), (10, 2)][..],
                "1 orders were paid more than once: 2 payments and 5.00 EUR too many",
            ),
            (&[(7, 1)], "1 orders were never paid"),
            (
                &[(7, 1), (8, 2), (9, 3)],
                "payments were executed that nobody has ordered",
            ),
            (&[(7, 1), (9, 2)], "1 receipts are for no payment"),
        ] {
            let wrong = verdict(false, payments).unwrap_err();
            assert!(wrong.contains(message), "{wrong}");
        }
    }

    #[test]
    fn without_the_layer_they_are_reported_and_are_no_error() {
        let message = verdict(true, &[(7, 1), (8, 2), (9, 2)]).unwrap();
        assert!(
            message.contains("1 payments and 2.50 EUR too many"),
            "{message}"
        );
    }
}

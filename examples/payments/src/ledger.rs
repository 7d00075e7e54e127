//! The payments that were executed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use buttress::idempotency::Operation;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::Error;
use crate::order::Receipt;
use crate::stores::postgres::Table;

/// How long a payment takes.
pub(crate) const WORK: Duration = Duration::from_millis(8);

/// Where payments are executed.
#[derive(Clone)]
pub(crate) enum Ledger {
    Bank(Bank),
    Table(Table),
}

impl Ledger {
    /// Executes a payment and returns its receipt. A payment that is requested twice is executed twice, unless the layer in front
    /// prevents it.
    pub(crate) async fn pay(
        &self,
        operation: Option<&Operation>,
        order: u32,
        cents: u64,
    ) -> Result<Response<Body>, Error> {
        match self {
            Self::Bank(bank) => receipt(&bank.pay(order, cents).await),
            Self::Table(table) => table.pay(operation, order, cents).await,
        }
    }

    /// All that were executed.
    pub(crate) async fn payments(&self) -> Result<Vec<Receipt>, Error> {
        match self {
            Self::Bank(bank) => Ok(bank.payments().await),
            Self::Table(table) => table.payments().await,
        }
    }
}

/// A bank, apart from the service. It knows no keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bank(Arc<Mutex<Vec<Receipt>>>);

impl Bank {
    async fn pay(&self, order: u32, cents: u64) -> Receipt {
        sleep(WORK).await;
        let mut payments = self.0.lock().await;
        let number = i64::try_from(payments.len()).unwrap_or(i64::MAX);
        let receipt = Receipt {
            number,
            order,
            cents,
        };
        payments.push(receipt);
        receipt
    }

    async fn payments(&self) -> Vec<Receipt> {
        self.0.lock().await.clone()
    }
}

pub(crate) fn receipt(receipt: &Receipt) -> Result<Response<Body>, Error> {
    let body = serde_json::to_vec(receipt)?;
    Ok(Response::builder()
        .status(201)
        .header("content-type", "application/json")
        .body(body.into())?)
}

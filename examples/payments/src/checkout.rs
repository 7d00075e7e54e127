//! The clients: each pays an order, and pays again with the same key until it has the receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::http::client::ClientService;
use buttress::http::{ClientConfig, IdempotencyKeys, Redirects, client};
use buttress::reqwest::{SendThrough, same_origin_redirects};
use buttress::{CallOptions, Error as Failure};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Layer;

use crate::Error;
use crate::order::{Order, Payment, Receipt};

/// How many clients pay at the same time.
const CLIENTS: usize = 24;
/// How long a client waits for one response.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(400);
/// A whole call: three attempts, one of which may be delayed by a `Retry-After` of one second.
const CALL: Duration = Duration::from_secs(3);
/// How long a client without a response waits before it pays again.
const PAUSE: Duration = Duration::from_millis(200);
/// When a client gives up: only a service that is down for good takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pays orders.
pub(crate) struct Checkout {
    http: reqwest::Client,
    stack: ClientService<reqwest::Client>,
    url: String,
    run: String,
}

impl Checkout {
    /// To the service at this address. `run` is a part of all keys, so that no two runs have the same ones.
    pub(crate) fn new(url: String, run: &str) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            // Its own retries would multiply with ours.
            .retry(reqwest::retry::never())
            // It would send the key on to wherever a redirect leads.
            .redirect(same_origin_redirects())
            .build()?;
        let config = ClientConfig::default()
            .redirects(Redirects::Marked)
            .attempt(ATTEMPT)
            .total(CALL)
            // The service executes a payment once, so it may be sent again if its response is lost.
            .idempotency_keys(IdempotencyKeys::HonoredBy([url.parse()?].into()))
            // The network is faulty, not the service, so a breaker would not help.
            .breaker(None);
        Ok(Self {
            stack: client("checkout", config)?.layer(http.clone()),
            http,
            url,
            run: run.to_owned(),
        })
    }

    /// Pays all orders, some at a time.
    pub(crate) async fn pay_all(self, orders: Vec<Order>) -> Result<Vec<Receipt>, Error> {
        let (checkout, orders) = (Arc::new(self), Arc::new(orders));
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (checkout, orders) = (Arc::clone(&checkout), Arc::clone(&orders));
            let next = Arc::clone(&next);
            clients.spawn(async move {
                let mut receipts = Vec::new();
                while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    receipts.push(checkout.pay(order).await?);
                }
                Ok::<_, Error>(receipts)
            });
        }
        let mut receipts = Vec::new();
        while let Some(of_one_client) = clients.join_next().await {
            receipts.extend(of_one_client??);
        }
        Ok(receipts)
    }

    /// Pays until there is a response. The key belongs to the order and is the same for every attempt and call: another key would
    /// be another payment.
    async fn pay(&self, order: &Order) -> Result<Receipt, Error> {
        let key = format!("order-{}-{:06}", self.run, order.number);
        let mut last = String::new();
        let paid = timeout(PATIENCE, async {
            loop {
                match self.call(order, &key).await? {
                    Ok(receipt) => return Ok(receipt),
                    Err(Unanswered { why, wait }) => {
                        last = why;
                        sleep(wait).await;
                    }
                }
            }
        });
        let paid = paid.await;
        let number = order.number;
        paid.unwrap_or_else(|_| {
            Err(format!("order {number} is not paid within {PATIENCE:?}: {last}").into())
        })
    }

    /// One call: up to three attempts.
    async fn call(&self, order: &Order, key: &str) -> Result<Result<Receipt, Unanswered>, Error> {
        let request = self.http.post(format!("{}{}", self.url, order.path()));
        let request = request.json(&Payment { cents: order.cents });
        let call = async {
            let response = request.send_through(&self.stack).await?;
            let (status, wait) = (response.status(), wait(&response));
            Ok::<_, Failure<reqwest::Error>>((status, wait, response.bytes().await?))
        };
        let (status, wait, body) = match CallOptions::new().idempotency_key(key).scope(call).await {
            Ok(answer) => answer,
            // The payment may have been executed or not.
            Err(error) => return Ok(Err(Unanswered::new(error.to_string(), PAUSE))),
        };
        if status == StatusCode::CREATED {
            let receipt: Receipt = serde_json::from_slice(&body)?;
            if (receipt.order, receipt.cents) == (order.number, order.cents) {
                return Ok(Ok(receipt));
            }
            return Err(format!("{order:?} got the receipt of another order: {receipt:?}").into());
        }
        let body = String::from_utf8_lossy(&body);
        let why = format!("{status}, {body}");
        if status == StatusCode::CONFLICT || status.is_server_error() {
            Ok(Err(Unanswered::new(why, wait)))
        } else {
            Err(format!("order {} was refused: {why}", order.number).into())
        }
    }
}

/// Why a call has brought no receipt, and when to pay again.
struct Unanswered {
    why: String,
    wait: Duration,
}

impl Unanswered {
    fn new(why: String, wait: Duration) -> Self {
        Self { why, wait }
    }
}

/// The `Retry-After` of the service.
fn wait(response: &reqwest::Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs)
}

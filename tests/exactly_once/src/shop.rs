//! The server: one route that pays, behind the layer.

use std::io;
use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::store::Store;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use tokio::net::TcpListener;
use tokio::sync::RwLock;

use crate::ledger::Pen;
use crate::plan::{End, Fate, LEASE, fate, number, receipt};

/// Where the payments go.
pub(crate) enum Till {
    Ledger(Pen),
    Transaction(crate::postgres::Till),
}

/// One server.
pub(crate) struct Shop {
    pub(crate) seed: u64,
    pub(crate) name: String,
    pub(crate) till: Till,
    pub(crate) effects: AtomicU64,
    /// Read by each handler for as long as it runs.
    pub(crate) running: RwLock<()>,
}

/// A panic that is part of the plan, and is not printed.
pub(crate) struct Planned;

impl Shop {
    pub(crate) fn new(seed: u64, name: String, till: Till) -> Arc<Self> {
        Arc::new(Self {
            seed,
            name,
            till,
            effects: AtomicU64::new(0),
            running: RwLock::new(()),
        })
    }

    pub(crate) async fn serve(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        listener: TcpListener,
    ) -> io::Result<()> {
        let config = IdempotencyConfig::default()
            .lease(LEASE)
            .store_timeout(LEASE / 3)
            .max_run(Duration::from_secs(60))
            .ttl(Duration::from_secs(600));
        let layer = IdempotencyLayer::new("torture", store, Scope::Global, config)
            .map_err(io::Error::other)?;
        let router = Router::new()
            .route("/orders", post(pay))
            .layer(handle_rejections(layer))
            .with_state(self);
        axum::serve(listener, router).await
    }
}

async fn pay(State(shop): State<Arc<Shop>>, operation: Operation) -> Response<Body> {
    let _running = shop.running.read().await;
    let Some(key) = number(operation.key()) else {
        return unpaid(&operation, &"no such order");
    };
    let fate = fate(shop.seed, key, operation.run());
    tokio::time::sleep(fate.before).await;
    if fate.end == End::PanicsBefore {
        panic_any(Planned);
    }
    let number = shop.effects.fetch_add(1, Ordering::Relaxed);
    let id = format!("{}#{number}", shop.name);
    match &shop.till {
        Till::Ledger(pen) => {
            // If this fails, whether it was paid is unknown, as after a panic.
            let written = pen.write(key, operation.run(), &id).await;
            written.expect("the ledger outlives the servers");
            tokio::time::sleep(fate.after).await;
            if matches!(fate.end, End::PanicsAfter | End::PanicsAtLast) {
                panic_any(Planned);
            }
            paid(&shop, key, operation.run(), &id, &fate)
        }
        Till::Transaction(till) => {
            let paid = till.pay(&shop, &operation, key, &id, &fate).await;
            paid.unwrap_or_else(|error| unpaid(&operation, &error))
        }
    }
}

pub(crate) fn paid(shop: &Shop, key: u64, run: u32, id: &str, fate: &Fate) -> Response<Body> {
    let body = Body::from(receipt(shop.seed, key, run, id));
    let mut response = Response::new(body);
    *response.status_mut() = if fate.end == End::Failed {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::CREATED
    };
    let headers = response.headers_mut();
    headers.insert("content-type", "text/plain".parse().expect("a value"));
    headers.insert("x-effect", id.parse().expect("a value"));
    response
}

/// Nothing was paid, and the client may retry.
fn unpaid(operation: &Operation, why: &dyn std::fmt::Display) -> Response<Body> {
    operation.did_not_happen();
    let mut response = Response::new(Body::from(why.to_string()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

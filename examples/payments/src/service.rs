//! The service: one route, and the layer in front of it.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::{IdempotencyLayer, Operation};
use tokio::net::TcpListener;

use crate::Error;
use crate::ledger::Ledger;
use crate::order::Payment;

/// Starts the service and returns its address. It runs until the process ends. Without a layer, every request is executed.
pub(crate) async fn serve(
    ledger: Ledger,
    layer: Option<IdempotencyLayer>,
) -> Result<String, Error> {
    let app = Router::new()
        .route("/orders/{order}/payment", post(pay))
        .with_state(ledger);
    let app = match layer {
        Some(layer) => app.layer(handle_rejections(layer)),
        None => app,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

async fn pay(
    State(ledger): State<Ledger>,
    operation: Option<Operation>,
    Path(order): Path<u32>,
    body: Bytes,
) -> Response<Body> {
    let Ok(Payment { cents }) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "not a payment").into_response();
    };
    match ledger.pay(operation.as_ref(), order, cents).await {
        Ok(response) => response,
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

//! Deadlines on the wire: what is written, what is read, and what is left three hops on.

use std::convert::Infallible;
use std::time::Duration;

use ::http::{HeaderMap, Request, Response};
use buttress::backoff::{Backoff, Jitter};
use buttress::http::Replay;
use buttress::http::deadline::{DeadlineHeader, DeadlineOutLayer};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::{CallOptions, Deadline, DeadlineLayer, Error, TimeoutLayer};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{MS, SECOND};

const GRPC: DeadlineHeader = DeadlineHeader::GrpcTimeout;

/// Answers with the headers that it was called with.
fn echo()
-> impl Service<Request<()>, Response = HeaderMap, Error = Infallible, Future: Send> + Clone {
    service_fn(async |request: Request<()>| Ok(request.into_parts().0.headers))
}

async fn written(layer: &DeadlineOutLayer, request: Request<()>) -> Vec<String> {
    let headers = layer.layer(echo()).oneshot(request).await.unwrap();
    let values = headers.get_all("grpc-timeout").iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

fn asking(values: &[&'static str]) -> Request<()> {
    let mut request = Request::new(());
    for value in values {
        let value = ::http::HeaderValue::from_static(value);
        request.headers_mut().append("grpc-timeout", value);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_the_least_of_all_limits() {
    let plain = DeadlineOutLayer::new(GRPC);
    let within = plain.clone().inside(&TimeoutLayer::new("t", 3 * SECOND));
    let none: [&str; 0] = [];
    assert_eq!(written(&plain, asking(&[])).await, none, "no limit");
    assert_eq!(written(&within, asking(&[])).await, ["3000000u"]);
    let in_time = |time| Deadline::after(time);
    let left = in_time(2 * SECOND)
        .scope(written(&within, asking(&[])))
        .await;
    assert_eq!(left, ["2000000u"], "the deadline");
    let left = in_time(5 * SECOND)
        .scope(written(&within, asking(&[])))
        .await;
    assert_eq!(left, ["3000000u"], "the attempt");
    let asked = CallOptions::new().timeout(SECOND);
    let left = asked.scope(written(&plain, asking(&[]))).await;
    assert_eq!(left, ["1000000u"], "the caller's own limit of an attempt");
    let mut request = asking(&[]);
    request.extensions_mut().insert(in_time(4 * SECOND));
    assert_eq!(
        written(&plain, request).await,
        ["4000000u"],
        "the extension's"
    );
    let over = in_time(Duration::ZERO);
    let left = over.scope(written(&plain, asking(&[]))).await;
    assert_eq!(left, ["0n"]);
    let off = DeadlineOutLayer::new(None);
    assert_eq!(over.scope(written(&off, asking(&[]))).await, none);
}

#[tokio::test(start_paused = true)]
async fn of_the_callers_own_value_and_ours_the_smaller_stands() {
    let layer = DeadlineOutLayer::new(GRPC);
    for (theirs, sent) in [
        (&["500m"][..], &["500m"][..]),
        (&["1S"], &["1S"]),
        (&["2S"], &["1000000u"]),
        (&["soon"], &["1000000u"]),
        (&["500m", "500m"], &["1000000u"]),
    ] {
        let left = Deadline::after(SECOND).scope(written(&layer, asking(theirs)));
        assert_eq!(left.await, sent, "{theirs:?}");
    }
    assert_eq!(
        written(&layer, asking(&["2S"])).await,
        ["2S"],
        "without a limit"
    );
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_told_what_is_left_then_and_never_more() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let failing = service_fn(move |request: Request<()>| {
        let left = request.headers()["x-left-ms"].to_str().unwrap().to_owned();
        tell.send(left).unwrap();
        async {
            sleep(700 * MS + Duration::from_micros(1)).await;
            Ok::<_, Infallible>(Response::builder().status(503).body(()).unwrap())
        }
    });
    let wait = Backoff::constant(100 * MS).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(wait).max_attempts(9);
    let retry = RetryLayer::new("wire.attempts", config, Replay::new()).unwrap();
    let attempt = TimeoutLayer::new("wire.attempts", SECOND);
    let out =
        DeadlineOutLayer::new("x-left-ms".parse::<DeadlineHeader>().unwrap()).inside(&attempt);
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("wire.attempts", 2 * SECOND))
        .layer(retry.classify(buttress::http::ByStatus::new()))
        .layer(attempt)
        .layer(out)
        .map_err(Error::Inner)
        .service(failing);
    let _ = stack.oneshot(Request::new(())).await;
    let mut all = Vec::new();
    while let Ok(left) = told.try_recv() {
        all.push(left);
    }
    // tokio's timer counts in milliseconds, rounded up: 701 + 100 for each attempt before.
    assert_eq!(all, ["1000", "1000", "398"]);
}

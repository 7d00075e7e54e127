//! Deadlines on the wire: written and read headers.

use std::convert::Infallible;
use std::time::Duration;

use ::http::{HeaderMap, Request, Response};
use buttress::backoff::{Backoff, Jitter};
use buttress::clock::Now;
use buttress::http::deadline::{
    DeadlineHeader, ExtractDeadlineConfig, ExtractDeadlineLayer, PropagateDeadlineLayer, Trust,
};
use buttress::http::{ClientConfig, Replay, ServerConfig, client, server};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{CallOptions, Deadline, Error, Executed, Reason};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{MS, SECOND, rejection};

const GRPC: DeadlineHeader = DeadlineHeader::GrpcTimeout;

/// Responds with the headers of its request.
fn echo()
-> impl Service<Request<()>, Response = HeaderMap, Error = Infallible, Future: Send> + Clone {
    service_fn(async |request: Request<()>| Ok(request.into_parts().0.headers))
}

async fn written(layer: &PropagateDeadlineLayer, request: Request<()>) -> Vec<String> {
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
async fn the_smallest_limit_is_sent() {
    let plain = PropagateDeadlineLayer::new(GRPC);
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
    let asked = CallOptions::new().attempt_timeout(SECOND);
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
    let off = PropagateDeadlineLayer::new(None);
    assert_eq!(over.scope(written(&off, asking(&[]))).await, none);
}

#[tokio::test(start_paused = true)]
async fn the_smaller_of_the_callers_value_and_ours_is_sent() {
    let layer = PropagateDeadlineLayer::new(GRPC);
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
async fn every_attempt_sends_the_time_left_and_never_more() {
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let failing = service_fn(move |request: Request<()>| {
        let left = request.headers()["x-left-ms"].to_str().unwrap().to_owned();
        report.send(left).unwrap();
        async {
            sleep(700 * MS + Duration::from_micros(1)).await;
            Ok::<_, Infallible>(Response::builder().status(503).body(()).unwrap())
        }
    });
    let wait = Backoff::constant(100 * MS).jitter(Jitter::None);
    let config = RetryConfig::new().backoff(wait).max_attempts(9);
    let retry = RetryLayer::new("wire.attempts", config, Replay::new()).unwrap();
    let attempt = TimeoutLayer::new("wire.attempts", SECOND);
    let out = PropagateDeadlineLayer::new("x-left-ms".parse::<DeadlineHeader>().unwrap())
        .inside(&attempt);
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new("wire.attempts", 2 * SECOND))
        .layer(retry.classify(buttress::http::ByStatus::new()))
        .layer(attempt)
        .layer(out)
        .map_err(Error::Inner)
        .service(failing);
    let _ = stack.oneshot(Request::new(())).await;
    let mut all = Vec::new();
    while let Ok(left) = reported.try_recv() {
        all.push(left);
    }
    // tokio's timer counts in milliseconds, rounded up: 701 + 100 for each attempt before.
    assert_eq!(all, ["1000", "1000", "398"]);
}

/// The time that a handler behind these settings has left, or why it was not called.
async fn left(
    config: ExtractDeadlineConfig,
    headers: &[(&'static str, &'static str)],
) -> Result<Option<Duration>, Error<&'static str>> {
    let handler = service_fn(async |_| {
        Ok(Deadline::current().map(|deadline| deadline.remaining(&Now::unread())))
    });
    let mut request = Request::new(());
    for (name, value) in headers {
        let value = ::http::HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    let layer = ExtractDeadlineLayer::new("wire.in", config).unwrap();
    layer.layer(handler).oneshot(request).await
}

fn trusting() -> ExtractDeadlineConfig {
    let own = "x-left-ms".parse().unwrap();
    let mut config = ExtractDeadlineConfig::new().trust(Trust::Everyone);
    config.headers.push(own);
    config
}

#[tokio::test(start_paused = true)]
async fn the_earliest_valid_header_counts() {
    for (headers, time) in [
        (&[][..], None),
        (&[("grpc-timeout", "3S")], Some(3 * SECOND)),
        (
            &[("grpc-timeout", "3S"), ("x-left-ms", "2000")],
            Some(2 * SECOND),
        ),
        (
            &[
                ("x-envoy-expected-rq-timeout-ms", "1000"),
                ("x-left-ms", "2000"),
            ],
            Some(SECOND),
        ),
        (&[("grpc-timeout", "soon")], None),
        (&[("grpc-timeout", "1S"), ("grpc-timeout", "1S")], None),
        (
            &[("grpc-timeout", "1 S"), ("x-left-ms", "2000")],
            Some(2 * SECOND),
        ),
    ] {
        assert_eq!(left(trusting(), headers).await, Ok(time), "{headers:?}");
    }
    let max = trusting().max(SECOND);
    let longer = &[("grpc-timeout", "99999999H")];
    assert_eq!(left(max, longer).await, Ok(Some(SECOND)));
    let none = trusting().headers([]);
    assert_eq!(left(none, longer).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn no_caller_is_trusted_by_default() {
    let inside = [("grpc-timeout", "3S"), ("x-peer", "inside")];
    let outside = [("grpc-timeout", "3S"), ("x-peer", "outside")];
    assert_eq!(left(ExtractDeadlineConfig::new(), &inside).await, Ok(None));
    let config = ExtractDeadlineConfig::new().trust(Trust::when(|request| {
        request
            .headers()
            .get("x-peer")
            .is_some_and(|peer| peer == "inside")
    }));
    assert_eq!(left(config.clone(), &inside).await, Ok(Some(3 * SECOND)));
    assert_eq!(left(config, &outside).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_header_never_extends_a_deadline() {
    let longer = [("grpc-timeout", "9S")];
    let inside = Deadline::after(SECOND).scope(left(trusting(), &longer));
    assert_eq!(inside.await, Ok(Some(SECOND)));
    let max = ExtractDeadlineConfig::new().max(Duration::ZERO);
    let error = ExtractDeadlineLayer::new("wire.in", max).unwrap_err();
    assert_eq!(
        error.to_string(),
        "deadline `wire.in`: `max` is 0ns, but it must be more than 0"
    );
}

#[tokio::test(start_paused = true)]
async fn the_standard_stacks_start_nothing_after_the_deadline() {
    let never = service_fn(
        async |_: Request<()>| -> Result<Response<Full<Bytes>>, Infallible> { panic!("it began") },
    );
    let over = Deadline::after(Duration::ZERO);
    let unlimited = ClientConfig::default()
        .attempt(Duration::MAX)
        .total(Duration::MAX);
    for config in [ClientConfig::default(), unlimited] {
        let call = client("wire.over", config)
            .unwrap()
            .layer(never)
            .oneshot(to_search());
        let rejected = rejection(over.scope(call).await.map_err(|error| match error {
            Error::Rejected(rejected) => Error::Rejected(rejected),
            Error::Inner(never) => match never {},
        }));
        assert_eq!(
            (rejected.reason, rejected.executed),
            (Reason::Deadline, Executed::No)
        );
    }
    let serve = server("wire.over", ServerConfig::default())
        .unwrap()
        .layer(never);
    let response = over.scope(serve.oneshot(to_search())).await.unwrap();
    assert_eq!(response.status(), 504);
}

fn to_search() -> Request<()> {
    Request::get("http://search.internal/").body(()).unwrap()
}

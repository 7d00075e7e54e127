//! Bodies of requests and responses, and stored headers.

use std::time::Duration;

use buttress::BoxError;
use buttress::idempotency::{HeaderPolicy, IdempotencyConfig};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Limited};
use tower_http::timeout::TimeoutBody;

use super::shop::{
    Fate, Flow, Scripted, Shop, broken, broken_by, flow, frames, payment, reply, settle,
};

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn with(body: Flow) -> http::Request<Flow> {
    payment("").map(|_| body)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_or_ends_early_is_rejected_before_the_store_is_called() {
    for (body, status, problem) in [
        (flow("12345678901"), 413, "TooLarge"),
        // Without a length.
        (frames(vec![data("1234567890"), data("1")]), 413, "TooLarge"),
        (broken(vec![data("12345")]), 400, "Incomplete"),
        (broken(vec![]), 400, "Incomplete"),
    ] {
        let store = Scripted::new(|_, _| Fate::Done);
        let config = IdempotencyConfig::default().max_request_body(10);
        let mut shop = Shop::with(store.clone(), config);
        shop.rejects(with(body), status, problem).await;
        assert_eq!(store.calls(), [""; 0]);
        shop.assert_not_called().await;
        assert_eq!(shop.layer.running(), 0);
    }
}

/// A request whose body fails with this error after a few bytes.
fn failing(error: impl Into<BoxError>) -> http::Request<Flow> {
    with(broken_by(vec![data("12345")], error.into()))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_an_outer_layer_cuts_off_is_rejected_with_the_status_of_that_layer() {
    let limited = || {
        let body = Limited::new(flow("1234567890"), 5);
        with(BodyExt::boxed_unsync(body))
    };
    // As hyper and axum wrap it.
    let wrapped = |error: BoxError| std::io::Error::other(axum::Error::new(error));
    let elapsed = async || {
        let never = std::future::pending::<()>();
        tokio::time::timeout(Duration::from_secs(1), never).await
    };
    let slow = async |limit| {
        let (more, body) = Channel::<Bytes, BoxError>::new(1);
        let body = TimeoutBody::new(limit, body);
        let error = body.collect().await.unwrap_err();
        drop(more);
        error
    };
    let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let too_large = Limited::new(flow("12"), 1).collect().await.unwrap_err();
    for (request, status, problem) in [
        (limited(), 413, "TooLarge"),
        (failing(wrapped(too_large)), 413, "TooLarge"),
        (failing(slow(Duration::from_secs(1)).await), 408, "TooSlow"),
        (failing(elapsed().await.unwrap_err()), 408, "TooSlow"),
        (failing(wrapped(timed_out.into())), 408, "TooSlow"),
        (failing(wrapped(reset.into())), 400, "Incomplete"),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default());
        shop.rejects(request, status, problem).await;
        shop.assert_not_called().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_or_a_large_response_passes_through_before_it_ends_and_is_recorded_as_not_stored()
{
    for response in [
        Response::builder().header("content-type", "text/event-stream"),
        Response::builder().header("content-type", "Text/Event-Stream; charset=utf-8"),
        Response::builder()
            .status(101)
            .header("upgrade", "websocket"),
        // Larger than the limit.
        Response::builder(),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(3));
        let (mut more, body) = Channel::<Bytes, BoxError>::new(1);
        let service = buttress::http::handle_rejections(shop.layer.clone());
        let service = tower::Layer::layer(&service, shop.handler.clone());
        let call = tokio::spawn(tower::ServiceExt::oneshot(service, payment("10 EUR")));
        let response = response.body(body.boxed_unsync()).unwrap();
        shop.called().await.responds(response);
        more.send_data("1234".into()).await.unwrap();
        let mut body = call.await.unwrap().unwrap().into_body();
        let mut next = async || Some(body.frame().await?.unwrap().into_data().unwrap());
        assert_eq!(next().await.unwrap(), "1234");
        // The stream has not ended, but the operation has.
        settle().await;
        assert_eq!(shop.layer.running(), 0);
        assert_eq!(
            shop.call_with(payment("10 EUR")).await.problem(),
            "NotStored"
        );
        shop.assert_not_called().await;
        more.send_data("5".into()).await.unwrap();
        assert_eq!(next().await.unwrap(), "5");
        drop(more);
        assert_eq!(next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_cannot_mark_its_response_as_a_replay() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let response = Response::builder().header("idempotent-replayed", "true");
    let response = response.body(flow("paid")).unwrap();
    let first = shop.served(payment("10 EUR"), response).await;
    assert_eq!(first.of(), (200, false, "paid"));
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.of(),
        (200, true, "paid")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stored_response_has_an_expiry_header_if_configured() {
    let config = IdempotencyConfig::default().headers(HeaderPolicy::Only(Vec::new()));
    let mut shop = Shop::new(config.clone());
    let first = shop.served(payment("10 EUR"), reply(201, "paid")).await;
    assert!(!first.headers.contains_key("idempotency-expires"));

    let mut shop = Shop::new(config.expires_header(true));
    let not_stored = shop.served(payment("10 EUR"), reply(429, "")).await;
    assert!(!not_stored.headers.contains_key("idempotency-expires"));
    let first = shop.served(payment("10 EUR"), reply(201, "paid")).await;
    let expires = &first.headers["idempotency-expires"];
    let time = httpdate::parse_http_date(expires.to_str().unwrap()).unwrap();
    assert!(time > std::time::SystemTime::now() + Duration::from_secs(23 * 3600));
    let again = shop.call_with(payment("10 EUR")).await;
    assert_eq!(again.headers["idempotency-expires"], expires);
}

#[tokio::test(start_paused = true)]
async fn a_request_up_to_the_limit_reaches_the_handler_whole() {
    for (frames, body) in [
        (vec![data("1234"), data(""), data("567890")], "1234567890"),
        (vec![], ""),
    ] {
        let config = IdempotencyConfig::default().max_request_body(body.len());
        let mut shop = Shop::new(config);
        let (sent, called) = shop.running(with(self::frames(frames))).await;
        assert_eq!(called.body, body);
        called.finish(sent, reply(204, "")).await;
        // The same request in one frame.
        assert_eq!(shop.call_with(with(flow(body))).await.of(), (204, true, ""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_is_replayed_byte_for_byte_with_its_trailers() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    let answer = || {
        let frames = frames(vec![
            Frame::data(bytes.slice(..100)),
            Frame::data(bytes.slice(100..)),
            Frame::trailers(trailers.clone()),
        ]);
        let answer = Response::builder().status(418).header("x", "1");
        let answer = answer.header("x", "2").header("x-obs", &b"\xe9\t"[..]);
        answer.body(frames).unwrap()
    };
    let first = shop.served(payment("10 EUR"), answer()).await;
    let again = shop.call_with(payment("10 EUR")).await;
    assert_eq!(first.body, Ok(bytes.clone()));
    assert_eq!(first.trailers, Some(trailers.clone()));
    assert_eq!(
        (&again.body, &again.trailers),
        (&first.body, &first.trailers)
    );
    assert_eq!(again.status, 418);
    let of_x: Vec<_> = again.headers.get_all("x").iter().collect();
    assert_eq!(of_x, ["1", "2"]);
    assert_eq!(again.headers["idempotent-replayed"], "true");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_too_large_passes_through_and_is_not_stored() {
    for body in [
        || flow("12345678901"),
        || frames(vec![data("1234567890"), data("1")]),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(10));
        let answer = Response::new(body());
        let first = shop.served(payment("10 EUR"), answer).await;
        assert_eq!(first.of(), (200, false, "12345678901"));
        let again = shop.call_with(payment("10 EUR")).await;
        again.assert_problem(409, "NotStored");
        assert!(
            !again.headers.contains_key("retry-after"),
            "it would not help"
        );
        shop.assert_not_called().await;
    }
    let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(10));
    let first = shop
        .served(payment("10 EUR"), reply(200, "1234567890"))
        .await;
    assert_eq!(first.of(), (200, false, "1234567890"));
    assert_eq!(
        shop.call_with(payment("10 EUR")).await.of(),
        (200, true, "1234567890")
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_ends_early_is_a_failure_and_the_operation_does_not_run_again() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let answer = || Response::new(broken(vec![data("12345")]));
    let first = shop.served(payment("10 EUR"), answer()).await;
    first.assert_problem(500, "Failed");
    shop.rejects(payment("10 EUR"), 500, "Failed").await;
    shop.assert_not_called().await;
}

fn with_headers() -> Response<Flow> {
    let answer = Response::builder().status(201);
    let answer = answer
        .header("content-type", "text/plain")
        .header("location", "/payments/1")
        .header("connection", "close, X-Hop")
        .header("x-hop", "1")
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("keep-alive", "timeout=5")
        .header("set-cookie", "session=secret")
        .header("ratelimit", "\"x\";r=1")
        .header("ratelimit-policy", "\"x\";q=1")
        .header("x-ratelimit-remaining", "1")
        .header("x-request-id", "1")
        .header("x-correlation-id", "1")
        .header("access-control-allow-origin", "https://first.example")
        .header("age", "7")
        .header("traceparent", "00-0-0-00")
        .header("x-b3-traceid", "1");
    answer.body(flow("paid")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn headers_about_one_exchange_are_not_stored() {
    let only = ["Location", "set-cookie", "x-hop"].map(Into::into).into();
    for (headers, stored) in [
        (HeaderPolicy::All, &["content-type", "location"][..]),
        (HeaderPolicy::Only(only), &["location"]),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default().headers(headers));
        let first = shop.served(payment("10 EUR"), with_headers()).await;
        assert_eq!(first.headers, *with_headers().headers());
        let again = shop.call_with(payment("10 EUR")).await;
        let names = again.headers.keys().map(http::HeaderName::as_str);
        assert!(names.eq(stored.iter().copied().chain(["idempotent-replayed"])));
    }
}

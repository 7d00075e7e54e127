//! Bodies of requests and of answers, and the headers of answers.

use buttress::idempotency::{HeaderPolicy, IdempotencyConfig};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;

use super::shop::{Fate, Flow, Scripted, Seen, Shop, flow, frames, payment, says};

fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn with(body: Flow) -> http::Request<Flow> {
    payment("").map(|_| body)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_or_breaks_off_is_refused_and_nothing_is_looked_up() {
    for (body, status, problem) in [
        (flow("12345678901"), 413, "TooLarge"),
        // Without a length.
        (frames(vec![data("1234567890"), data("1")]), 413, "TooLarge"),
        (
            frames(vec![data("12345"), Err("broken")]),
            400,
            "Incomplete",
        ),
        (frames(vec![Err("broken")]), 400, "Incomplete"),
    ] {
        let store = Scripted::new(|_, _| Fate::Done);
        let config = IdempotencyConfig::default().max_request_body(10);
        let mut shop = Shop::with(store.clone(), config);
        let seen = shop.ask(with(body)).await;
        assert_eq!((seen.status, &*seen.problem()), (status, problem));
        assert_eq!(store.asked(), [""; 0]);
        shop.calls_nobody().await;
        assert_eq!(shop.layer.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_up_to_the_bound_reaches_the_handler_whole_whatever_its_pieces() {
    let mut shop = Shop::new(IdempotencyConfig::default().max_request_body(10));
    let pieces = frames(vec![data("1234"), data(""), data("567890")]);
    let sent = shop.send(with(pieces));
    let called = shop.called().await;
    assert_eq!(called.body, "1234567890");
    called.answers(says(201, "paid"));
    sent.await.unwrap();
    // The same request in other pieces.
    assert!(shop.ask(with(flow("1234567890"))).await.replayed());
}

#[tokio::test(start_paused = true)]
async fn an_empty_request_is_a_request() {
    let mut shop = Shop::new(IdempotencyConfig::default().max_request_body(0));
    let first = shop.served(with(flow("")), says(204, "")).await;
    assert_eq!(first.of(), (204, false, ""));
    assert_eq!(shop.ask(with(flow(""))).await.of(), (204, true, ""));
    assert_eq!(shop.ask(with(flow("1"))).await.problem(), "TooLarge");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_again_byte_for_byte_with_its_trailers() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    let answer = || {
        let frames = frames(vec![
            Ok(Frame::data(bytes.slice(..100))),
            Ok(Frame::data(bytes.slice(100..))),
            Ok(Frame::trailers(trailers.clone())),
        ]);
        let answer = Response::builder().status(418).header("x", "1");
        let answer = answer.header("x", "2").header("x-obs", &b"\xe9\t"[..]);
        answer.body(frames).unwrap()
    };
    let first = shop.served(payment("10 EUR"), answer()).await;
    let again = shop.ask(payment("10 EUR")).await;
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
async fn an_answer_that_is_too_large_streams_through_and_is_not_given_again() {
    for body in [
        || flow("12345678901"),
        || frames(vec![data("1234567890"), data("1")]),
    ] {
        let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(10));
        let answer = Response::new(body());
        let first = shop.served(payment("10 EUR"), answer).await;
        assert_eq!(first.of(), (200, false, "12345678901"));
        let again = shop.ask(payment("10 EUR")).await;
        assert_eq!((again.status, &*again.problem()), (409, "NotKept"));
        assert!(
            !again.headers.contains_key("retry-after"),
            "it would not help"
        );
        shop.calls_nobody().await;
    }
    let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(10));
    let first = shop
        .served(payment("10 EUR"), says(200, "1234567890"))
        .await;
    assert_eq!(first.of(), (200, false, "1234567890"));
    assert_eq!(
        shop.ask(payment("10 EUR")).await.of(),
        (200, true, "1234567890")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_passed_on_before_it_has_ended() {
    let mut shop = Shop::new(IdempotencyConfig::default().max_response_body(3));
    let (mut more, body) = Channel::<Bytes, buttress::BoxError>::new(1);
    let service = buttress::http::answer(shop.layer.clone());
    let service = tower::Layer::layer(&service, shop.handler.clone());
    let sent = tokio::spawn(tower::ServiceExt::oneshot(service, payment("10 EUR")));
    shop.called()
        .await
        .answers(Response::new(body.boxed_unsync()));
    more.send_data("1234".into()).await.unwrap();
    let mut body = sent.await.unwrap().unwrap().into_body();
    let mut next = async || {
        body.frame()
            .await
            .map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "1234");
    more.send_data("5".into()).await.unwrap();
    assert_eq!(next().await.unwrap(), "5");
    drop(more);
    assert_eq!(next().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_a_failure_and_the_operation_is_not_run_again() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let broken = || Response::new(frames(vec![data("12345"), Err("broken")]));
    let first = shop.served(payment("10 EUR"), broken()).await;
    assert_eq!((first.status, &*first.problem()), (500, "Failed"));
    let again = shop.ask(payment("10 EUR")).await;
    assert_eq!((again.status, &*again.problem()), (500, "Failed"));
    shop.calls_nobody().await;
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
        .header("traceparent", "00-0-0-00")
        .header("x-b3-traceid", "1");
    answer.body(flow("paid")).unwrap()
}

fn names(seen: &Seen) -> Vec<&str> {
    seen.headers.keys().map(http::HeaderName::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn headers_about_one_exchange_are_given_first_and_never_again() {
    let mut shop = Shop::new(IdempotencyConfig::default());
    let first = shop.served(payment("10 EUR"), with_headers()).await;
    assert_eq!(first.headers, *with_headers().headers());
    let again = shop.ask(payment("10 EUR")).await;
    assert_eq!(
        names(&again),
        ["content-type", "location", "idempotent-replayed"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_of_headers_keeps_no_others_and_none_that_may_not_be_kept() {
    let only = ["Location", "set-cookie", "x-hop"].map(Into::into).into();
    let config = IdempotencyConfig::default().headers(HeaderPolicy::Only(only));
    let mut shop = Shop::new(config);
    let first = shop.served(payment("10 EUR"), with_headers()).await;
    assert_eq!(first.headers, *with_headers().headers());
    let again = shop.ask(payment("10 EUR")).await;
    assert_eq!(names(&again), ["location", "idempotent-replayed"]);
}
